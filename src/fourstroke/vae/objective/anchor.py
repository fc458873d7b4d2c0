"""A term that keeps latents near those of an earlier autoencoder. Our choice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from fourstroke.ranges import Natural, NonNegative
from fourstroke.vae.autoencoder import Autoencoder, AutoencoderConfig
from fourstroke.vae.objective.term import LossConfig, Reconstruction, Term


@dataclass(frozen=True, kw_only=True)
class AnchorConfig(LossConfig):
    """Squared distance of latents from an earlier autoencoder's, so that what draws them need not start again."""

    kind: ClassVar[str] = "anchor"
    of_latents: ClassVar[bool] = True
    folder: Path
    weight: NonNegative = 0.05
    parts: tuple[Natural, ...] | None = None
    """Parts of the mixture whose latents are kept, from 0; those of new content may be left free. None is all."""

    def open(self, model: AutoencoderConfig, device: torch.device) -> Term:
        """The term; raises ValueError where the earlier latents have another shape."""
        old = Autoencoder.from_pretrained(self.folder, device=str(device)).requires_grad_(False)
        if (old.config.z_dim, old.config.factor, old.config.channels) != (model.z_dim, model.factor, model.channels):
            raise ValueError(
                f"anchor.folder={self.folder}: its latents are {old.config.z_dim} channels at 1/{old.config.factor} of "
                f"{old.config.channels}-channel pictures, those of the new model {model.z_dim} at 1/{model.factor} of "
                f"{model.channels}"
            )
        return AnchorTerm(self, old)


class AnchorTerm(Term):
    """Logged as `anchor`: the mean squared distance, in the earlier autoencoder's deviations."""

    def __init__(self, config: AnchorConfig, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.config, self.autoencoder = config, autoencoder

    def forward(self, seen: Reconstruction) -> tuple[Tensor, dict[str, Tensor]]:
        """Over the pictures of `parts`; 0 where there are none."""
        kept = self.config.parts
        rows = [row for row, part in enumerate(seen.parts) if kept is None or part in kept]
        drift = self._drift(seen.x[rows], seen.z[rows])
        return self.config.weight * drift, {"anchor": drift}

    def _drift(self, x: Tensor, z: Tensor) -> Tensor:
        if not len(x):
            return z.sum()  # 0, with a gradient
        with torch.no_grad():
            wanted = self.autoencoder.encode(x)
        return (self.autoencoder.normalise(z) - wanted).square().mean()
