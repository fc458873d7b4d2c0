"""The perceptual term of the VAE-2.0 report: LPIPS with published weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from fourstroke.vae.autoencoder import AutoencoderConfig
from fourstroke.vae.features import over_grey
from fourstroke.vae.lpips import Lpips
from fourstroke.vae.objective.term import LossConfig, Reconstruction, Term


@dataclass(frozen=True, kw_only=True)
class LpipsConfig(LossConfig):
    """LPIPS between pictures and copies, both laid over grey."""

    kind: ClassVar[str] = "lpips"
    weights: Path
    """Folder or file of published weights (`vae.lpips`)."""

    def open(self, model: AutoencoderConfig, device: torch.device) -> Term:
        """The term; raises CheckpointError if the weights are not there or do not fit."""
        return LpipsTerm(self, Lpips.from_pretrained(self.weights, device))


class LpipsTerm(Term):
    """Logged as `lpips`."""

    def __init__(self, config: LpipsConfig, network: Lpips) -> None:
        super().__init__()
        self.weight, self.network = config.weight, network

    def forward(self, seen: Reconstruction) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean distance over the pictures."""
        distance = self.network(over_grey(seen.x), over_grey(seen.y)).mean()
        return self.weight * distance, {"lpips": distance}
