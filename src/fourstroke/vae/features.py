"""A frozen network whose features latents are aligned with and pictures are compared in.

VAE-2.0 report, section Objective, takes one middle layer of DINOv2-L (`dino`). Offline there is none, so this small
network, trained by `train features` to name what stands at each place, stands in (our choice). Its features are those
of the middle: what follows them, the head, serves training alone but is kept with the weights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourstroke.checkpoint import CheckpointError, config_of, load_weights, read_json, save_weights
from fourstroke.files import model_folder
from fourstroke.ranges import Count, Natural, check_ranges
from fourstroke.vae.blocks import ResidualBlock


class FrozenFeatures(Protocol):
    """What alignment asks of a network: maps of pictures, the last one as fine as the latents."""

    @property
    def factor(self) -> int:
        """Pixels per position of the last map, along each side."""

    @property
    def width(self) -> int:
        """Channels of the last map."""

    def features(self, x: Tensor) -> list[Tensor]:
        """Pictures (b, 3 or 4, H, W) in [-1, 1] to maps, the last (b, width, H / factor, W / factor)."""


@dataclass(frozen=True, kw_only=True)
class SemanticConfig:
    """Widths at full size, 1/2, 1/4 …, and the logits of the head at each position of the deepest features."""

    widths: tuple[Count, ...] = (16, 32, 64, 96, 128)
    outputs: Natural = 0

    def __post_init__(self) -> None:
        check_ranges(self)
        if len(self.widths) < 2:
            raise ValueError(f"widths={self.widths}: give two or more")

    @property
    def factor(self) -> int:
        """Pixels per position of the deepest features, along each side."""
        return int(2 ** (len(self.widths) - 1))


class SemanticNetwork(nn.Module):
    """Pictures (b, 3 or 4, H, W) in [-1, 1], laid over grey, to feature maps at 1/2, 1/4 … of their size."""

    def __init__(self, config: SemanticConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise(widths))
        self.head = ResidualBlock(widths[-1], widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], max(1, config.outputs), 1)

    @property
    def factor(self) -> int:
        """Pixels per position of the deepest features."""
        return self.config.factor

    @property
    def width(self) -> int:
        """Channels of the deepest features."""
        return self.config.widths[-1]

    def features(self, x: Tensor) -> list[Tensor]:
        """Maps (b, widths[i], H / 2^i, W / 2^i), the deepest last; raises ValueError for sides that do not halve."""
        if x.ndim != 4 or x.shape[1] not in (3, 4) or any(side % self.config.factor for side in x.shape[2:]):
            raise ValueError(
                f"pictures must be (b, 3 or 4, H, W), sides in {self.config.factor}s, not {tuple(x.shape)}"
            )
        h, maps = self.conv_in(over_grey(x)), []
        for block in self.blocks:
            h = block(F.avg_pool2d(h, 2))
            maps.append(h)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Logits at each position, (b, outputs, h, w)."""
        return self.conv_out(self.head(self.features(x)[-1]))

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: torch.device | str = "cpu") -> Self:
        """Load a folder of `config.json` and safetensors, frozen; raises `CheckpointError` if they do not fit."""
        folder = Path(folder)
        file = folder / "config.json"
        try:
            config = config_of(SemanticConfig, read_json(file), file, only={"_class_name": ["SemanticNetwork"]})
        except CheckpointError as error:
            raise CheckpointError(f"{folder} holds no semantic network: {error}") from None
        with torch.device("meta"):
            model = cls(config)
        load_weights(model, folder)
        return model.to(device).eval().requires_grad_(False)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and the weights, complete or not at all."""
        with model_folder(folder, "config.json", "_class_name") as partial:
            save_weights(self, partial, {"_class_name": "SemanticNetwork", **asdict(self.config)})


def over_grey(x: Tensor) -> Tensor:
    """RGBA in [-1, 1] laid over middle grey, (b, 4, H, W) -> (b, 3, H, W); RGB as it is."""
    return x[:, :3] * ((x[:, 3:] + 1) / 2) if x.shape[1] == 4 else x


def linear_map(latent_channels: int, width: int) -> nn.Conv2d:
    """The learned W of z' = W z: from latent channels to the features' width, at each position."""
    return nn.Conv2d(latent_channels, width, 1, bias=False)
