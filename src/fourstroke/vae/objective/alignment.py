"""The term that makes latents easy to predict: they follow the features of a frozen network.

VAE-2.0 report, section Objective: L_align = L_mcos + L_mdms, margins from strict to loose. The network is chosen by
what lies in its folder: our semantic network, or DINOv2 (or its hub id). It gets no gradient; the learned map does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from fourstroke.checkpoint import CheckpointError, read_json
from fourstroke.ranges import Count, Finite, NonNegative, PositiveFraction
from fourstroke.vae.autoencoder import AutoencoderConfig
from fourstroke.vae.features import FrozenFeatures, SemanticNetwork, linear_map
from fourstroke.vae.losses import alignment, gradient_ratio, perceptual
from fourstroke.vae.objective.term import LossConfig, Reconstruction, Term


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig(LossConfig):
    """How latents follow frozen features: L_align = L_mcos + L_mdms, with margins that open as training goes on."""

    kind: ClassVar[str] = "alignment"
    of_latents: ClassVar[bool] = True
    features: Path
    """Folder of the network, as `train features` leaves it, or a folder or hub id of DINOv2."""
    layer: Count | None = None
    """Which layer of DINOv2, from 1; None takes the middle one."""
    weight: NonNegative = 0.5
    adaptive: bool = False
    """Multiply the weight by the ratio of the gradients of the terms before it and of alignment (as VA-VAE)."""
    cosine_margins: tuple[Finite, Finite] = (0.0, 0.5)
    """Strict to loose."""
    distance_margins: tuple[Finite, Finite] = (0.0, 0.25)
    steps: Count = 10_000
    """Over which the margins open."""
    until: PositiveFraction | None = None
    """Instead of `steps`: the share of the run over which they open."""
    perceptual: NonNegative = 0.0
    """Weight of the distance of pictures in the same features."""

    @property
    def differentiates(self) -> bool:
        """Adaptive weights are ratios of gradients."""
        return self.adaptive

    def open(self, model: AutoencoderConfig, device: torch.device) -> Term:
        """The term; raises CheckpointError or ValueError if the network is not there or does not fit."""
        return AlignmentTerm(self, load_features(self.features, model.factor, self.layer, device), model, device)

    def margins(self, step: int, progress: float = 0.0) -> tuple[float, float]:
        """Cosine and distance margin of a step: linear from strict to loose, then constant."""
        share = min(1.0, step / self.steps if self.until is None else progress / self.until)
        cosine, distance = ((1 - share) * a + share * b for a, b in (self.cosine_margins, self.distance_margins))
        return cosine, distance


class AlignmentTerm(Term):
    """The frozen network and the learned map from latents to its features. Logged as `align` and `perceptual`."""

    def __init__(
        self, config: AlignmentConfig, network: FrozenFeatures, model: AutoencoderConfig, device: torch.device
    ) -> None:
        super().__init__()
        self.config, self.network = config, network
        self.map = linear_map(model.z_dim, network.width).to(device)

    @property
    def learned(self) -> nn.Module:
        """The map."""
        return self.map

    def forward(self, seen: Reconstruction) -> tuple[Tensor, dict[str, Tensor]]:
        """Alignment of latents, and where asked the distance of pictures in the same features."""
        with torch.no_grad():
            wanted = self.network.features(seen.x)
        align = alignment(self.map(seen.z), wanted[-1], *self.config.margins(seen.step, seen.progress))
        factor = torch.ones(())
        if self.config.adaptive and seen.loss is not None:
            factor = gradient_ratio(seen.loss, align, seen.last_layer)
        total, parts = self.config.weight * factor.to(align) * align, {"align": align}
        if self.config.perceptual:
            parts["perceptual"] = perceptual(self.network.features(seen.y), wanted)
            total = total + self.config.perceptual * parts["perceptual"]
        return total, parts


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
