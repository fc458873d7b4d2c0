"""LPIPS (Zhang et al. 2018, arXiv 1801.03924), from published weights that lie on the disk; nothing is downloaded.

VAE-2.0 report, section Objective: the perceptual term. Pictures pass through AlexNet or VGG-16; at five depths the
difference of unit vectors is squared, weighed by channel, and averaged over places.

The weights come in two parts, in any files of one folder: the network's as torchvision publishes it
(`alexnet-owt-7be5be79.pth`, `vgg16-397923af.pth`: `features.0.weight` …) and the channel weights as the lpips package
does (`alex.pth`, `vgg.pth`: `lin0.model.1.weight` …). A state of the package's whole LPIPS class has both. Widths are
those of the weights; which network it is, the first kernel's side says.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourstroke.checkpoint import CheckpointError, read_file, read_pickle

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
SMALLEST = 32
"""Least side of a picture: less is nothing after the poolings."""
MEAN, DEVIATION = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of RGB in [-1, 1], as the package has them."""
NEEDED = (
    "LPIPS needs a network (alexnet-owt-7be5be79.pth or vgg16-397923af.pth of torchvision) and its channel weights "
    "(alex.pth or vgg.pth of the lpips package) in one folder"
)


class Plan(NamedTuple):
    """A network by torchvision's numbers of layers."""

    convolutions: dict[int, tuple[int, int]]
    """Number: (stride, padding)."""
    pools: tuple[int, ...]
    """Convolutions before which the picture shrinks to half."""
    window: int
    """Side of a pooling window; its stride is 2."""
    taps: tuple[int, ...]
    """Convolutions after whose ReLU features are compared."""


ALEXNET = Plan({0: (4, 2), 3: (1, 2), 6: (1, 1), 8: (1, 1), 10: (1, 1)}, (3, 6), 3, (0, 3, 6, 8, 10))
VGG16 = Plan(
    dict.fromkeys((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), (1, 1)), (5, 10, 17, 24), 2, (2, 7, 14, 21, 28)
)
PLANS = {11: ALEXNET, 3: VGG16}
"""By the side of the first kernel."""


class Lpips(nn.Module):
    """Pictures (b, 3, H, W) in [-1, 1], two of them, to their distance (b,): 0 for equal ones, frozen."""

    def __init__(self, network: dict[str, Tensor], channels: dict[int, Tensor]) -> None:
        super().__init__()
        self.plan = PLANS[network["0.weight"].shape[2]]
        self.convolutions = nn.ModuleDict()
        for number, (stride, padding) in self.plan.convolutions.items():
            weight = network[f"{number}.weight"]
            outer, inner, side, _ = weight.shape
            layer = nn.Conv2d(inner, outer, side, stride, padding)
            layer.load_state_dict({"weight": weight, "bias": network[f"{number}.bias"]})
            self.convolutions[str(number)] = layer
        for place, weight in channels.items():
            self.register_buffer(f"channels{place}", weight.float())
        self.register_buffer("mean", torch.tensor(MEAN).view(-1, 1, 1))
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(-1, 1, 1))
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(b, 3, H, W) twice -> (b,); raises ValueError for other shapes and for sides below 32."""
        if x.shape != y.shape or x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) < SMALLEST:
            raise ValueError(
                f"LPIPS compares RGB pictures of one size, {SMALLEST} pixels a side or more, not {tuple(x.shape)} "
                f"and {tuple(y.shape)}"
            )
        total = x.new_zeros(len(x))
        for place, (a, b) in enumerate(zip(self.features(x), self.features(y), strict=True)):
            error = (_unit(a) - _unit(b)).square()
            total = total + F.conv2d(error, self.get_buffer(f"channels{place}")).mean((1, 2, 3))
        return total

    def features(self, x: Tensor) -> list[Tensor]:
        """The five maps of RGB in [-1, 1] whose vectors are compared."""
        h, maps = (x - self.get_buffer("mean")) / self.get_buffer("deviation"), []
        for number in self.plan.convolutions:
            if number in self.plan.pools:
                h = F.max_pool2d(h, self.plan.window, 2)
            h = F.relu(self.convolutions[str(number)](h))
            if number in self.plan.taps:
                maps.append(h)
        return maps

    @classmethod
    def from_pretrained(cls, source: str | Path, device: torch.device | str = "cpu") -> Self:
        """From a folder of published files, or one file that has both parts.

        Raises:
            CheckpointError: if a part is missing, a file damaged, or no two parts fit each other.
        """
        source = Path(source)
        if not source.exists():
            raise CheckpointError(f"no LPIPS weights at {source}: {NEEDED}")
        files = [p for p in sorted(source.iterdir()) if p.suffix in SUFFIXES] if source.is_dir() else [source]
        states = [_read(path) for path in files]
        networks = [part for state in states if (part := _network(state))]
        scales = [weights for state in states if (weights := _channels(state))]
        for network in networks:
            plan = PLANS[network["0.weight"].shape[2]]
            widths = [network[f"{tap}.weight"].shape[0] for tap in plan.taps]
            for channels in scales:
                if [channels[k].shape[1] for k in range(len(channels))] == widths:
                    return cls(network, channels).to(device)
        found = " and ".join(word for word, part in (("networks", networks), ("channel weights", scales)) if part)
        fit = ", of which none fit each other" if networks and scales else ""
        raise CheckpointError(f"{source} holds {found or 'neither'}{fit}; {NEEDED}")


def _read(path: Path) -> dict[str, Tensor]:
    state = read_file(path) if path.suffix == ".safetensors" else read_pickle(path)
    return {k: v for k, v in state.items() if isinstance(v, Tensor)}


def _network(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`<number>.weight` and `.bias` of a whole AlexNet or VGG-16; empty if this is none."""
    layer = re.compile(r"(?:net\.|module\.)*(?:features|slice\d)\.(\d+\.(?:weight|bias))")
    found = {match[1]: value for key, value in state.items() if (match := layer.fullmatch(key))}
    first = found.get("0.weight")
    if first is None or first.ndim != 4 or first.shape[2] not in PLANS:
        return {}
    plan = PLANS[first.shape[2]]
    return found if all(f"{k}.{part}" in found for k in plan.convolutions for part in ("weight", "bias")) else {}


def _channels(state: dict[str, Tensor]) -> dict[int, Tensor]:
    """The five weights (1, c, 1, 1) by depth; empty if this has none."""
    line = re.compile(r"(?:module\.)*lin(?:s\.)?(\d)\.model\.1\.weight")
    found = {int(match[1]): value for key, value in state.items() if (match := line.fullmatch(key))}
    return found if sorted(found) == list(range(5)) else {}


def _unit(x: Tensor) -> Tensor:
    """Each place's vector at length 1, with a gradient of zero where it is zero."""
    return x / (x.square().sum(1, keepdim=True) + 1e-20).sqrt().clamp_min(1e-10)
