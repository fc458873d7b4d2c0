"""Terms of pixels; the functions are in `vae.losses`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fourstroke.vae import losses
from fourstroke.vae.autoencoder import AutoencoderConfig
from fourstroke.vae.objective.term import PictureLoss, Term


@dataclass(frozen=True, kw_only=True)
class L1(PictureLoss):
    """Mean absolute error (VAE-2.0 report)."""

    kind: ClassVar[str] = "l1"

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Zero or more."""
        return losses.l1(prediction, target)


@dataclass(frozen=True, kw_only=True)
class Edge(PictureLoss):
    """Mean absolute error of gradients at three scales: our stand-in where there is no perceptual network."""

    kind: ClassVar[str] = "edge"

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Zero or more; raises ValueError for sides below 8."""
        return losses.edge(prediction, target)


@dataclass(frozen=True, kw_only=True)
class Squared(PictureLoss):
    """Mean squared error, which few large errors fill, as they do what PSNR measures."""

    kind: ClassVar[str] = "squared"

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Zero or more."""
        return F.mse_loss(prediction, target)


@dataclass(frozen=True, kw_only=True)
class Outline(PictureLoss):
    """What the alphas lack of each other's shape: mean errors leave outlines blurred. Our choice, for stickers."""

    kind: ClassVar[str] = "outline"
    of_weighed: ClassVar[bool] = False

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        """1 - intersection over union."""
        return losses.outline(prediction, target)

    def open(self, model: AutoencoderConfig, device: torch.device) -> Term:
        """The term; raises ValueError for pictures without alpha."""
        if model.channels != 4:
            raise ValueError(f"the loss outline compares alphas; pictures of {model.channels} channels have none")
        return super().open(model, device)
