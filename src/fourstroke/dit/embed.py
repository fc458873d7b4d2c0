"""What enters the transformer beside the latents: text and time (checkpoint layout of Qwen-Image-2.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourstroke.nn import Linear, ZeroCentredRMSNorm

TIME_CHANNELS = 256


class TextProjection(nn.Module):
    """Text features to the transformer's width: norm, linear, GELU (tanh), linear."""

    def __init__(self, context: int, width: int, eps: float) -> None:
        super().__init__()
        self.text_norm = ZeroCentredRMSNorm(context, eps)
        self.in_layer = Linear(context, width)
        self.out_layer = Linear(width, width)

    def forward(self, text: Tensor) -> Tensor:
        """`b l context -> b l width`."""
        return self.out_layer(F.gelu(self.in_layer(self.text_norm(text)), approximate="tanh"))


class TimeEmbedding(nn.Module):
    """Time in [0, 1] to a vector: sinusoids of 1000 t, then two linear layers with SiLU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.timestep_embedder = nn.ModuleDict(
            {
                "linear_1": Linear(TIME_CHANNELS, width),
                "linear_2": Linear(width, width),
            }
        )

    def forward(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        """`b -> b width`; the angles are float32 even in a bfloat16 model, which would blur 1000 t to steps of 4."""
        linear_1, linear_2 = self.timestep_embedder["linear_1"], self.timestep_embedder["linear_2"]
        return linear_2(F.silu(linear_1(sinusoids(t).to(dtype))))


def sinusoids(t: Tensor, channels: int = TIME_CHANNELS, period: float = 1e4) -> Tensor:
    """`b -> b channels`, float32: cosines, then sines, of 1000 t at geometric frequencies from 1 down to 1 / period."""
    half = channels // 2
    frequencies = torch.exp(-math.log(period) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angles = 1000.0 * t.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)
