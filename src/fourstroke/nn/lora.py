"""Low-rank adapters (arXiv 2106.09685): several small students of one frozen model, which stays in memory once.

A linear layer gets one pair of factors for each adapter, W x + scale * B (A x), of which at most one is active. Layers
without an active adapter are what they were, so the frozen model is still there, as its own teacher.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class LoRALinear(nn.Module):
    """A frozen linear layer with adapters of one rank; the active one is added to its output."""

    def __init__(self, base: nn.Linear, rank: int, names: tuple[str, ...]) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.active: str | None = None
        device, scale = base.weight.device, base.in_features**-0.5
        self.down = nn.ParameterDict({n: scale * torch.randn(rank, base.in_features, device=device) for n in names})
        self.up = nn.ParameterDict({n: torch.zeros(base.out_features, rank, device=device) for n in names})

    def forward(self, x: Tensor) -> Tensor:
        """`... in -> ... out`."""
        out = self.base(x)
        if self.active is None:
            return out
        down, up = self.down[self.active], self.up[self.active]
        return out + nn.functional.linear(nn.functional.linear(x, down.to(x.dtype)), up.to(x.dtype)).to(out.dtype)


def add_adapters(model: nn.Module, rank: int, names: tuple[str, ...], within: str = "transformer_blocks.") -> None:
    """Replace the linear layers whose name starts with `within` by `LoRALinear`, in place; at first nothing changes.

    Raises:
        ValueError: a rank below 1, or no layer of that name.
    """
    if rank < 1:
        raise ValueError(f"the rank of an adapter is {rank}; it must be at least 1")
    found = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and name.startswith(within)]
    if not found:
        raise ValueError(f"no linear layer of this model has a name that starts with {within!r}")
    for name in found:
        base = model.get_submodule(name)
        assert isinstance(base, nn.Linear)
        model.set_submodule(name, LoRALinear(base, rank, names))


def adapters(model: nn.Module) -> dict[str, LoRALinear]:
    """The adapted layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


@contextlib.contextmanager
def active(model: nn.Module, adapter: str | None) -> Iterator[None]:
    """Within the block the model is the one of this adapter, or itself (None); then what it was before."""
    layers = list(adapters(model).values())
    before = [layer.active for layer in layers]
    for layer in layers:
        layer.active = adapter
    try:
        yield
    finally:
        for layer, name in zip(layers, before, strict=True):
            layer.active = name


def factors(model: nn.Module, adapter: str) -> nn.ParameterDict:
    """The trainable factors of one adapter; names are those of PEFT with "/" for ".", which a module cannot hold."""
    found = {}
    for name, layer in adapters(model).items():
        path = name.replace(".", "/")
        found[f"{path}/lora_A/weight"], found[f"{path}/lora_B/weight"] = layer.down[adapter], layer.up[adapter]
    return nn.ParameterDict(found)


def adapter_tensors(model: nn.Module, adapter: str, prefix: str = "transformer.") -> dict[str, Tensor]:
    """The factors as diffusers and PEFT name them, ready for a safetensors file."""
    return {
        prefix + name.replace("/", "."): factor.detach().cpu().contiguous()
        for name, factor in factors(model, adapter).items()
    }


@dataclass(frozen=True)
class LowRank:
    """A change of one linear layer's weight: scale * `up` (out, rank) @ `down` (rank, in)."""

    down: Tensor
    up: Tensor
    scale: float = 1.0


@torch.no_grad()
def merge(model: nn.Module, adapters: Sequence[Mapping[str, LowRank]], dtype: torch.dtype | None = None) -> None:
    """Add adapters to the weights of a plain model, in place; what they change then has the type `dtype`.

    All are summed with the weight in float32 and rounded once. A change is often smaller than the spacing of bfloat16
    numbers at the weight: of weights that are rounded before the sum, many would not move.
    """
    for name in sorted({name for adapter in adapters for name in adapter}):
        layer = model.get_submodule(name)
        weight = layer.get_parameter("weight")
        total = weight.float()
        for change in (adapter[name] for adapter in adapters if name in adapter):
            up, down = change.up.to(total), change.down.to(total)
            total = total + change.scale * (up @ down)
        layer.weight = nn.Parameter(total.to(dtype or weight.dtype), requires_grad=weight.requires_grad)
