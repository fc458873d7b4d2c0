"""The single-stream block and its modulation, which only multiplies (Qwen-Image-2.0 report, Transformer)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourstroke.nn import Attention, KeysValues, Past, Rotary, Span, SwiGLU


class Modulation(NamedTuple):
    """Factors from the time, each (B or 1, 1, width): of the norms (1 + scale) and of the residual branches.

    One row serves all samples.
    """

    scale_attn: Tensor
    gate_attn: Tensor
    scale_mlp: Tensor
    gate_mlp: Tensor

    @classmethod
    def of(cls, projected: Tensor) -> Modulation:
        """Split the shared projection, `b (4 d) -> 4 of b 1 d`. Scales come with their 1, gates through tanh."""
        scale_attn, gate_attn, scale_mlp, gate_mlp = projected.unsqueeze(1).chunk(4, dim=-1)
        return cls(1 + scale_attn, gate_attn.tanh(), 1 + scale_mlp, gate_mlp.tanh())


class Block(nn.Module):
    """`x + gate * f(LayerNorm(x) * (1 + scale))`, with f first attention and then SwiGLU; it owns no modulation."""

    def __init__(self, num_heads: int, head_dim: int, mlp_ratio: int, eps: float) -> None:
        super().__init__()
        width = num_heads * head_dim
        self.eps = eps
        self.attn = Attention(width, num_heads, head_dim, eps)
        self.img_mlp = SwiGLU(width, mlp_ratio * width)

    def forward(
        self,
        x: Tensor,
        modulation: Modulation,
        rotary: Rotary,
        spans: Sequence[Span] = (),
        past: Past | None = None,
        key_mask: Tensor | None = None,
        keys_only: bool = False,
    ) -> tuple[Tensor, KeysValues]:
        """`b s d -> b s d`, and the keys and values of these tokens; see `Attention` for spans, past and key mask.

        With `keys_only` the stream is returned untouched: of the last layer's prefix nothing but keys and values is
        ever used.
        """
        h = scale_norm(x, modulation.scale_attn, self.eps)
        if keys_only:
            return x, self.attn.keys_values(h, rotary)
        attended, own = self.attn(h, rotary, spans=spans, past=past, key_mask=key_mask)
        x = torch.addcmul(x, modulation.gate_attn, attended)
        hidden = self.img_mlp(scale_norm(x, modulation.scale_mlp, self.eps))
        x = torch.addcmul(x, modulation.gate_mlp, hidden)
        return x, own


def scale_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """`LayerNorm(x) * scale`, in one kernel where all rows have the same scale: `b s d, (b or 1) 1 d -> b s d`."""
    if len(scale) == 1:
        return F.layer_norm(x, x.shape[-1:], scale.flatten(), eps=eps)
    return F.layer_norm(x, x.shape[-1:], eps=eps) * scale
