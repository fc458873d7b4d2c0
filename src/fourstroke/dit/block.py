"""The single-stream block and its modulation, which only multiplies (Qwen-Image-2.0 report, Transformer)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


class Front(NamedTuple):
    """The first tokens of a stream, modulated for themselves: a prefix that runs in one pass with its target."""

    tokens: int
    modulation: Modulation


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
        front: Front | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """`b s d -> b s d`, and the keys and values of these tokens; see `Attention` for spans, past and key mask.

        With `keys_only` the stream is returned untouched: of the last layer's prefix nothing but keys and values is
        ever used. Where the prefix is the `front` of the stream, only the tokens behind it are returned then.
        """
        parts = [(0, modulation)] if front is None else [(front.tokens, front.modulation), (0, modulation)]
        h = _each(parts, lambda m, x: scale_norm(x, m.scale_attn, self.eps), x)
        if keys_only and front is None:
            return x, self.attn.keys_values(h, rotary)
        since = front.tokens if keys_only and front is not None else 0
        attended, own = self.attn(h, rotary, spans=spans, past=past, key_mask=key_mask, since=since)
        if since:
            x, parts = x[:, since:], parts[1:]
        x = _each(parts, lambda m, x, y: torch.addcmul(x, m.gate_attn, y), x, attended)
        hidden = self.img_mlp(_each(parts, lambda m, x: scale_norm(x, m.scale_mlp, self.eps), x))
        return _each(parts, lambda m, x, y: torch.addcmul(x, m.gate_mlp, y), x, hidden), own


def scale_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """`LayerNorm(x) * scale`, in one kernel where all rows have the same scale: `b s d, (b or 1) 1 d -> b s d`."""
    if len(scale) == 1:
        return F.layer_norm(x, x.shape[-1:], scale.flatten(), eps=eps)
    return F.layer_norm(x, x.shape[-1:], eps=eps) * scale


def _each(parts: Sequence[tuple[int, Modulation]], function: Callable[..., Tensor], *streams: Tensor) -> Tensor:
    """`function` of every part's modulation and tokens, `b s d -> b s d`; the last part has all that are left."""
    if len(parts) == 1:
        return function(parts[0][1], *streams)
    sizes = [tokens for tokens, _ in parts[:-1]]
    sizes.append(streams[0].shape[1] - sum(sizes))
    pieces = zip(*(stream.split(sizes, dim=1) for stream in streams), strict=True)
    return torch.cat([function(m, *piece) for (_, m), piece in zip(parts, pieces, strict=True)], dim=1)
