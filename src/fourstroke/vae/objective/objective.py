"""The list of terms, and their sum."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import torch
from torch import Tensor, nn

from fourstroke.registry import Registered
from fourstroke.vae.autoencoder import AutoencoderConfig
from fourstroke.vae.objective.pictures import L1, Edge
from fourstroke.vae.objective.term import LossConfig, Reconstruction, Term

Losses = tuple[Annotated[LossConfig, Registered("losses")], ...]
"""A recipe's terms, in the order in which they are summed: `losses: {l1: 1, edge: 0.5, lpips: {weights: folder}}`."""

DEFAULT_LOSSES: Losses = (L1(), Edge())


def check_losses(losses: Losses) -> None:
    """Refuse a list that names a kind twice, or in which nothing compares pictures.

    Raises:
        ValueError: and says which.
    """
    kinds = [term.kind for term in losses]
    if double := next((kind for kind in kinds if kinds.count(kind) > 1), None):
        raise ValueError(f"losses name {double} twice; give it one weight")
    if not any(term.weight and not term.of_latents for term in losses):
        raise ValueError(f"losses are {', '.join(kinds) or 'none'}: nothing compares pictures; add l1, for example")


class Objective(nn.Module):
    """The sum of the terms; those of weight 0 are left out."""

    def __init__(self, losses: Losses, model: AutoencoderConfig, device: torch.device) -> None:
        super().__init__()
        self.kinds = [term.kind for term in losses if term.weight]
        self.terms = nn.ModuleList(term.open(model, device) for term in losses if term.weight)

    @property
    def learned(self) -> dict[str, nn.Module]:
        """By kind, what is trained together with the autoencoder."""
        terms = (term for term in self.terms if isinstance(term, Term))
        return {kind: term.learned for kind, term in zip(self.kinds, terms, strict=True) if term.learned is not None}

    def forward(self, seen: Reconstruction) -> dict[str, Tensor]:
        """`loss`, and what the terms log."""
        logged: dict[str, Tensor] = {}
        for term in self.terms:
            added, named = term(seen)
            seen = dataclasses.replace(seen, loss=added if seen.loss is None else seen.loss + added)
            logged |= named
        assert seen.loss is not None
        return {"loss": seen.loss, **logged}
