"""What a term of the autoencoder's objective is: options in a recipe, which open as a small module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fourstroke.ranges import NonNegative, check_ranges
from fourstroke.vae.autoencoder import AutoencoderConfig


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """What a step's terms are computed from: b pictures, their copies and their latents."""

    x: Tensor
    """The pictures, (b, 4, H, W) in [-1, 1]."""
    y: Tensor
    """Their copies, float32, of the same shape; they may be beyond [-1, 1]."""
    weighed: Tensor
    """The copies with which terms of pixels compare: `y`, or with `balanced` every error brought to the mean one."""
    z: Tensor
    """The latents before they are normalised, (b, z_dim, h, w) float32."""
    parts: Sequence[int]
    """Which part of the mixture each picture is of, from 0."""
    step: int
    progress: float
    """The share of the run that is done, in [0, 1]."""
    last_layer: Tensor
    """The weight of the encoder's last layer, at which pulls of terms are compared."""
    loss: Tensor | None = None
    """The sum of the terms before this one; None for the first."""


class Term(nn.Module):
    """A term of the objective, opened: frozen networks, and what is learned with the autoencoder, are its modules."""

    @property
    def learned(self) -> nn.Module | None:
        """What of it is trained, and saved with a run's state."""
        return None

    def forward(self, seen: Reconstruction) -> tuple[Tensor, dict[str, Tensor]]:
        """What is added to the loss, a scalar; and scalars for the log, not weighted."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class LossConfig(ABC):
    """A kind of term in a recipe; subclasses add their options. Terms are summed by `weight`, 0 leaves one out."""

    kind: ClassVar[str]
    """Its name in recipes."""
    of_latents: ClassVar[bool] = False
    """Whether it moves latents alone, so that a frozen encoder leaves it nothing to do."""

    weight: NonNegative = 1.0

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def differentiates(self) -> bool:
        """Whether it takes gradients itself, which a compiled autoencoder cannot give twice."""
        return False

    @abstractmethod
    def open(self, model: AutoencoderConfig, device: torch.device) -> Term:
        """The term for an autoencoder; raises ValueError or CheckpointError if it cannot serve that one."""


@dataclass(frozen=True, kw_only=True)
class PictureLoss(LossConfig):
    """A term that compares copies with pictures and nothing else. It is in the log under its kind."""

    of_weighed: ClassVar[bool] = True
    """Whether `balanced` weighs its errors; shapes would be moved by that."""

    @abstractmethod
    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        """A scalar; pictures are (b, c, H, W) in [-1, 1], predictions may be beyond."""

    def open(self, model: AutoencoderConfig, device: torch.device) -> Term:
        """The term; every autoencoder has pictures."""
        return _Compared(self)


class _Compared(Term):
    def __init__(self, config: PictureLoss) -> None:
        super().__init__()
        self.config = config

    def forward(self, seen: Reconstruction) -> tuple[Tensor, dict[str, Tensor]]:
        value = self.config.compare(seen.weighed if self.config.of_weighed else seen.y, seen.x)
        return self.config.weight * value, {self.config.kind: value}
