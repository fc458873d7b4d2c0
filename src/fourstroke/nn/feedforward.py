"""SwiGLU feed-forward, `h = F1(x) * SiLU(F2(x))` (Qwen-Image-2.0 report, Transformer)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourstroke.nn.linear import Linear


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
        """`... d -> ... d`; without gradients in place."""
        hidden, gate = self.proj(x), self.gate_layer(x)
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self.out(hidden * F.silu(gate))
        return self.out(hidden.mul_(F.silu(gate, inplace=True)))
