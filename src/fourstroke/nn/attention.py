"""Multi-head attention with RMS norm on queries and keys and rotary positions.

One module serves three shapes of attention: everything sees everything, block-causal (a list of `Span`s), and new
tokens over the keys and values that earlier tokens left behind (`past`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourstroke.nn.linear import Linear
from fourstroke.nn.norm import RMSNorm
from fourstroke.nn.rotary import Rotary, rotate

LARGE = 2**24
"""Scores of a call from which PyTorch's fused attention is always taken: it keeps none of them."""


class Span(NamedTuple):
    """Queries [start, stop) see keys [0, stop): all, none to their right (`causal`), or those where `mask` is true.

    A causal span has `start == 0`; later ones carry a mask that fits (B, heads, stop - start, stop).
    """

    start: int
    stop: int
    causal: bool = False
    mask: Tensor | None = None


class Past(Protocol):
    """What earlier tokens left behind, in whatever form."""

    def then(self, new: KeysValues) -> KeysValues:
        """The past of every row with `new` after it, (rows, past + S, H, D)."""


class KeysValues(NamedTuple):
    """What a layer's tokens leave for later ones: keys (normalised, rotated) and values, each (B, S, H, D)."""

    keys: Tensor
    values: Tensor

    def then(self, new: KeysValues) -> KeysValues:
        """Append `new` along the sequence. Where it has n times the samples, each of ours serves n of its rows."""
        return KeysValues(_append(self.keys, new.keys), _append(self.values, new.values))

    @property
    def nbytes(self) -> int:
        """Memory of both."""
        return self.keys.nbytes + self.values.nbytes


class Attention(nn.Module):
    """Attention without biases: width -> num_heads * head_dim -> width."""

    def __init__(self, width: int, num_heads: int, head_dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        inner = num_heads * head_dim
        self.head_dim = head_dim
        self.to_q = Linear(width, inner)
        self.to_k = Linear(width, inner)
        self.to_v = Linear(width, inner)
        self.norm_q = RMSNorm(head_dim, eps)
        self.norm_k = RMSNorm(head_dim, eps)
        self.to_out = nn.Sequential(Linear(inner, width))

    def forward(
        self,
        x: Tensor,
        rotary: Rotary,
        *,
        spans: Sequence[Span] = (),
        past: Past | None = None,
        key_mask: Tensor | None = None,
        since: int = 0,
    ) -> tuple[Tensor, KeysValues]:
        """`b s d -> b (s - since) d`, and the keys and values of all these tokens (without the past).

        `spans` make it block-causal and must cover the sequence in order. Otherwise every token sees the whole past
        and all of `x`; `key_mask` (B, 1, 1, past + S) is true at the keys that may be seen. The tokens before `since`,
        where a span begins, are seen and do not look.
        """
        looking = (x[:, since:], Rotary(*(table[:, since:] for table in rotary))) if since else (x, rotary)
        query = norm_rotate(self._heads(self.to_q(looking[0])), self.norm_q, looking[1])
        own = self.keys_values(x, rotary)
        keys, values = own if past is None else past.then(own)
        if spans:
            seen = [
                _attend(query[:, s.start - since : s.stop - since], keys[:, : s.stop], values[:, : s.stop], s)
                for s in spans
                if s.start >= since
            ]
            out = seen[0] if len(seen) == 1 else torch.cat(seen, dim=1)
        else:
            out = _attend(query, keys, values, Span(0, keys.shape[1], mask=key_mask))
        return self.to_out(out.flatten(2)), own

    def keys_values(self, x: Tensor, rotary: Rotary) -> KeysValues:
        """Keys and values alone, for a last layer of which nothing else is used: `b s d -> b s h d`, twice."""
        return KeysValues(norm_rotate(self._heads(self.to_k(x)), self.norm_k, rotary), self._heads(self.to_v(x)))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim))


def norm_rotate(x: Tensor, norm: RMSNorm, rotary: Rotary) -> Tensor:
    """`rotate(norm(x), rotary)`, `b s h d -> b s h d`; without gradients in place and rounded once, at the end."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return rotate(norm(x), rotary)
    squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_()
    turned = x * squares.div_(x.shape[-1]).add_(norm.eps).rsqrt_()
    turned.mul_(norm.weight)
    torch.view_as_complex(turned.unflatten(-1, (-1, 2))).mul_(rotary.turns)
    return turned.to(x.dtype)


def _attend(query: Tensor, keys: Tensor, values: Tensor, span: Span) -> Tensor:
    """`b q h d, b k h d, b k h d -> b q h d`."""
    query, keys, values = (tensor.transpose(1, 2) for tensor in (query, keys, values))
    attend = _multiply if _is_small_training(query, keys) else F.scaled_dot_product_attention
    return attend(query, keys, values, attn_mask=span.mask, is_causal=span.causal).transpose(1, 2)


def _is_small_training(query: Tensor, keys: Tensor) -> bool:
    """Where the backward pass of PyTorch's fused attention is slower than that of the products which it fuses."""
    small = query.shape[:3].numel() * keys.shape[2] <= LARGE
    return small and torch.is_grad_enabled() and query.device.type == "cpu" and query.dtype == torch.bfloat16


def _multiply(query: Tensor, keys: Tensor, values: Tensor, attn_mask: Tensor | None, is_causal: bool) -> Tensor:
    """What `F.scaled_dot_product_attention` computes, product by product."""
    scores = (query * query.shape[-1] ** -0.5) @ keys.mT
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    return scores.softmax(-1) @ values


def _append(past: Tensor, new: Tensor) -> Tensor:
    """`b p h d, (b n) s h d -> (b n) (p + s) h d` with a single copy and no repeated past in between."""
    copies = new.shape[0] // past.shape[0]
    if copies == 1:
        return torch.cat((past, new), dim=1)
    shared = past.unsqueeze(1).expand(-1, copies, -1, -1, -1)
    return torch.cat((shared, new.unflatten(0, (-1, copies))), dim=2).flatten(0, 1)
