"""SwiGLU feed-forward, `h = F1(x) * SiLU(F2(x))` (Qwen-Image-2.0 report, Transformer)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class SwiGLU(nn.Module):
    """Gated feed-forward without biases; `hidden` is the width between the two projections.

    The gate keeps activations tame where joint text-image training with a plain GELU drives a few of them to extreme
    magnitudes; the report introduces it for that reason.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, hidden, bias=False)
        self.gate_layer = nn.Linear(width, hidden, bias=False)
        self.out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`... d -> ... d`."""
        return self.out(self.proj(x) * F.silu(self.gate_layer(x)))
