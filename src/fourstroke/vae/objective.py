"""The frozen networks of the objective, as a recipe names them: alignment of latents, and perceptual distance.

VAE-2.0 report, section Objective: L = L1 + w LPIPS + w L_align, margins from strict to loose. Networks are chosen by
what lies in their folder: our semantic network, DINOv2 (or its hub id), LPIPS. None of them gets a gradient; the
learned linear map does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Protocol

import torch
from torch import Tensor

from fourstroke.checkpoint import CheckpointError, read_json
from fourstroke.ranges import Count, Finite, NonNegative, PositiveFraction, check_ranges
from fourstroke.registry import Registered
from fourstroke.vae.autoencoder import AutoencoderConfig
from fourstroke.vae.features import FrozenFeatures, SemanticNetwork, linear_map, over_grey
from fourstroke.vae.losses import alignment, gradient_ratio, perceptual
from fourstroke.vae.lpips import Lpips


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """How latents follow frozen features: L_align = L_mcos + L_mdms, with margins that open as training goes on."""

    features: Path
    """Folder of the network, as `train features` leaves it, or a folder or hub id of DINOv2."""
    layer: Count | None = None
    """Which layer of DINOv2, from 1; None takes the middle one."""
    weight: NonNegative = 0.5
    adaptive: bool = False
    """Multiply the weight by the ratio of the gradients of reconstruction and alignment (as VA-VAE)."""
    cosine_margins: tuple[Finite, Finite] = (0.0, 0.5)
    """Strict to loose."""
    distance_margins: tuple[Finite, Finite] = (0.0, 0.25)
    steps: Count = 10_000
    """Over which the margins open."""
    until: PositiveFraction | None = None
    """Instead of `steps`: the share of the run over which they open."""
    perceptual: NonNegative = 0.0
    """Weight of the distance of pictures in the same features."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def margins(self, step: int, progress: float = 0.0) -> tuple[float, float]:
        """Cosine and distance margin of a step: linear from strict to loose, then constant."""
        share = min(1.0, step / self.steps if self.until is None else progress / self.until)
        cosine, distance = ((1 - share) * a + share * b for a, b in (self.cosine_margins, self.distance_margins))
        return cosine, distance


@dataclass(frozen=True, kw_only=True)
class PerceptualConfig:
    """The LPIPS term."""

    weights: Path
    """Folder or file of published weights (`vae.lpips`)."""
    weight: NonNegative = 1.0

    def __post_init__(self) -> None:
        check_ranges(self)


class LossConfig(Protocol):
    """A further term of the objective, a kind in a recipe: a frozen dataclass of its options."""

    kind: ClassVar[str]
    """Also its name in the log."""

    @property
    def weight(self) -> float:
        """Of the term in the sum."""

    def open(self, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
        """`(prediction, target) -> scalar`; pictures are (b, c, H, W) in [-1, 1], predictions may be beyond."""


Losses = tuple[Annotated[LossConfig, Registered("losses")], ...]
"""A recipe's key that names further terms: `losses: [{kind: "charbonnier:Charbonnier", weight: 0.1}]`."""


class Alignment:
    """The frozen network, the learned map from latents to its features, and their losses."""

    def __init__(self, config: AlignmentConfig, model: AutoencoderConfig, device: torch.device) -> None:
        self.config = config
        self.network = load_features(config.features, model.factor, config.layer, device)
        self.map = linear_map(model.z_dim, self.network.width).to(device)

    def loss(
        self,
        x: Tensor,
        y: Tensor,
        z: Tensor,
        reconstruction: Tensor,
        weight: Tensor,
        margins: tuple[float, float],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What is added to the reconstruction loss of pictures x, their copies y and latents z; and its parts."""
        with torch.no_grad():
            wanted = self.network.features(x)
        align = alignment(self.map(z), wanted[-1], *margins)
        factor = gradient_ratio(reconstruction, align, weight) if self.config.adaptive else torch.ones(())
        total, parts = self.config.weight * factor.to(align) * align, {"align": align}
        if self.config.perceptual:
            parts["perceptual"] = perceptual(self.network.features(y), wanted)
            total = total + self.config.perceptual * parts["perceptual"]
        return total, parts


class Perceptual:
    """LPIPS between pictures and their copies, both laid over grey."""

    def __init__(self, config: PerceptualConfig, device: torch.device) -> None:
        self.config, self.network = config, Lpips.from_pretrained(config.weights, device)

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What is added to the reconstruction loss, and its parts."""
        distance = self.network(over_grey(x), over_grey(y)).mean()
        return self.config.weight * distance, {"lpips": distance}


def load_features(source: Path, factor: int, layer: int | None, device: torch.device | str) -> FrozenFeatures:
    """The network of a folder or hub id, with a map for latents of `factor` pixels.

    Raises:
        CheckpointError: if there is none, or its weights do not fit.
        ValueError: if its maps are of another fineness, or it has no such layer.
    """
    config = source / "config.json"
    hub_id = not source.exists() and not source.is_absolute() and len(source.parts) == 2 and source.parts[0] != ".."
    if not source.is_dir() and not hub_id:
        raise CheckpointError(f"no network at {source}: name a folder, or a hub id such as facebook/dinov2-large")
    if hub_id or (config.is_file() and "model_type" in read_json(config)):
        from fourstroke.vae.dino import DinoFeatures

        return DinoFeatures.from_pretrained(source, factor, layer, device)
    network = SemanticNetwork.from_pretrained(source, device)
    if network.factor != factor:
        raise ValueError(f"{source} has features at 1/{network.factor}, not 1/{factor}")
    return network
