"""The low-rank adapter of one linear layer (LoRA, arXiv 2106.09685): W x + strength * alpha / rank * B (A x).

`LoraLinear` is the linear layer that it takes the place of: its weight keeps its name, so that checkpoints load into an
adapted model and shards of it are made as before. Adapters stand beside the weight as `lora_<name>`. Several may be in
use at once, each with its strength; without any the layer computes what it always did.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import functional as F

from fourstroke.nn import linear as linear_map
from fourstroke.quantized import QuantizedWeight

PREFIX = "lora_"
"""Of an adapter's name among the modules of its layer."""


@dataclass(frozen=True)
class LowRank:
    """A change of one linear layer's weight: scale * `up` (out, rank) @ `down` (rank, in)."""

    down: Tensor
    up: Tensor
    scale: float = 1.0


class Factor(nn.Module):
    """One of the two factors: a bare `weight`, which the layer above multiplies with."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)


class LoraAdapter(nn.Module):
    """strength * scale * B (A x), of which nothing is computed at strength 0, where every adapter begins."""

    def __init__(self, change: LowRank, dropout: float = 0.0) -> None:
        super().__init__()
        self.lora_A, self.lora_B = Factor(change.down), Factor(change.up)
        self.scale, self.dropout, self.strength = change.scale, dropout, 0.0

    def forward(self, x: Tensor) -> Tensor:
        """`... in -> ... out`."""
        hidden = F.linear(F.dropout(x, self.dropout, self.training), self.lora_A.weight.to(x.dtype))
        return (self.strength * self.scale) * F.linear(hidden, self.lora_B.weight.to(x.dtype))

    @property
    def rank(self) -> int:
        """Rows of A and columns of B."""
        return self.lora_A.weight.shape[0]

    @property
    def change(self) -> LowRank:
        """What is added to the layer's weight."""
        return LowRank(self.lora_A.weight, self.lora_B.weight, self.strength * self.scale)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Where training starts: A is normal with deviation in^-0.5, B is zero, so that nothing is changed.

        Shards of a factor get their part of what the whole factor would get.
        """
        down = self.lora_A.weight
        values = torch.randn(down.shape, generator=generator) / math.sqrt(down.shape[1])
        down.copy_(_sharded_like(values.to(down.device), down))
        self.lora_B.weight.zero_()


class LoraLinear(nn.Linear):
    """A linear layer with adapters beside it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias, self._kind = linear.weight, linear.bias, type(linear)
        self.register_buffer("unmerged", None, persistent=False)
        self.unmerged: Tensor | None
        self.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        """`... in -> ... out`."""
        out = linear_map(x, self.weight, self.bias)
        if self.unmerged is None:
            for adapter in self.adapters.values():
                if adapter.strength:
                    out = out + adapter(x).to(out.dtype)
        return out

    @property
    def adapters(self) -> dict[str, LoraAdapter]:
        """By name; they are the layer's only submodules, and a prefix keeps names apart from its attributes."""
        return {
            key.removeprefix(PREFIX): module for key, module in self._modules.items() if isinstance(module, LoraAdapter)
        }

    def add(self, name: str, adapter: LoraAdapter) -> None:
        """Take up an adapter."""
        self.add_module(PREFIX + name, adapter.train(self.training))

    def remove(self, name: str) -> None:
        """Take an adapter away."""
        del self._modules[PREFIX + name]

    @torch.no_grad()
    def merge(self) -> None:
        """Add the adapters in use to the weight; what it was is kept for `unmerge`.

        Raises:
            ValueError: the weight is quantised.
        """
        if isinstance(self.weight, QuantizedWeight):
            raise ValueError("adapters are not merged into quantised weights; they are in use beside them")
        changes = [adapter.change for adapter in self.adapters.values() if adapter.strength]
        if self.unmerged is None and changes:
            self.unmerged = self.weight.data
            self.weight.data = merged(self.weight.data, changes)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put the weight back as it was before `merge`, bit for bit."""
        if self.unmerged is not None:
            self.weight.data, self.unmerged = self.unmerged, None

    def plain(self) -> nn.Linear:
        """A linear layer of the weight as it is now, in the same memory."""
        with torch.device("meta"):
            plain = self._kind(self.in_features, self.out_features, self.bias is not None)
        plain.weight, plain.bias = self.weight, self.bias
        return plain.train(self.training)


def merged(weight: Tensor, changes: Sequence[LowRank], dtype: torch.dtype | None = None) -> Tensor:
    """A weight with changes added to it, of the type `dtype` (None: its own).

    All are summed with the weight in float32 and rounded once. A change is often smaller than the spacing of bfloat16
    numbers at the weight: of weights that are rounded before the sum, many would not move.
    """
    total = weight.float()
    for change in changes:
        total = total + change.scale * (change.up.to(total) @ change.down.to(total))
    return total.to(dtype or weight.dtype)


def whole(factor: Tensor) -> Tensor:
    """All of a factor; where it is sharded every rank asks for it together."""
    return factor.full_tensor() if isinstance(factor, DTensor) else factor


def _sharded_like(values: Tensor, like: Tensor) -> Tensor:
    if not isinstance(like, DTensor):
        return values
    return distribute_tensor(values, like.device_mesh, like.placements, src_data_rank=None)
