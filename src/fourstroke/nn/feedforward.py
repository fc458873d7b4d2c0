"""SwiGLU feed-forward, `h = F1(x) * SiLU(F2(x))` (Qwen-Image-2.0 report, Transformer)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourstroke.nn.linear import Linear

ROWS = 2**13
"""Tokens that pass at once without gradients: meanwhile each holds six numbers for every channel."""


class SwiGLU(nn.Module):
    """Gated feed-forward without biases; `hidden` is the width between the two projections.

    The gate keeps activations tame where joint text-image training with a plain GELU drives a few of them to extreme
    magnitudes; the report introduces it for that reason.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = Linear(width, hidden)
        self.gate_layer = Linear(width, hidden)
        self.out = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """`... d -> ... d`; without gradients in place, and many tokens part by part."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self.out(self.proj(x) * F.silu(self.gate_layer(x)))
        if x.shape[:-1].numel() <= ROWS:
            return self._in_place(x)
        return torch.cat([self._in_place(part) for part in x.reshape(-1, x.shape[-1]).split(ROWS)]).view(x.shape)

    def _in_place(self, x: Tensor) -> Tensor:
        return self.out(self.proj(x).mul_(F.silu(self.gate_layer(x), inplace=True)))
