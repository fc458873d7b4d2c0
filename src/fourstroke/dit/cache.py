"""Keys and values of the prefix: computed once, read at every step and by every draw of noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fourstroke.nn import KeysValues, Rotary


@dataclass(frozen=True, kw_only=True)
class PrefixCache:
    """What `Transformer.prefill` leaves for `Transformer.denoise`; gradients flow through it.

    The layers hold (B, P, heads, head_dim), also after `repeat`: a prefix is copied to the rows that share it only
    when a layer reads it.
    """

    layers: tuple[KeysValues, ...]
    rotary: Rotary  # of the target tokens, (rows or 1, T, 1, head_dim / 2)
    key_mask: Tensor | None  # (rows, 1, 1, P + T)
    rows: int
    target_tokens: int

    def repeat(self, n: int) -> PrefixCache:
        """Let every prefix serve `n` consecutive rows, in the order of `x.repeat_interleave(n, dim=0)`."""
        if n < 1:
            raise ValueError(f"a prefix cannot serve {n} rows; n must be at least 1")
        return dataclasses.replace(
            self,
            rotary=self.rotary.repeat(n),
            key_mask=None if self.key_mask is None else self.key_mask.repeat_interleave(n, dim=0),
            rows=self.rows * n,
        )

    @classmethod
    def join(cls, caches: Sequence[PrefixCache]) -> PrefixCache:
        """The caches as one batch, row after row, so that strangers of one target size share a step.

        Shorter prefixes are padded on the right and the padding is masked: every row stays what it is alone.

        Raises:
            ValueError: no caches, or targets of different numbers of tokens.
        """
        if not caches or len({cache.target_tokens for cache in caches}) != 1:
            sizes = [cache.target_tokens for cache in caches]
            raise ValueError(f"only caches of one target size can be joined, found sizes {sizes}")
        if len(caches) == 1:
            return caches[0]
        lengths = [cache.layers[0].keys.shape[1] for cache in caches]
        longest, target = max(lengths), caches[0].target_tokens
        layers = tuple(
            KeysValues(*(torch.cat([_rows(t, c.rows, longest) for t, c in zip(kind, caches)]) for kind in zip(*layer)))
            for layer in zip(*(cache.layers for cache in caches), strict=True)
        )
        turns = zip(*(cache.rotary for cache in caches))
        rotary = Rotary(*(torch.cat([t.expand(c.rows, -1, -1, -1) for t, c in zip(kind, caches)]) for kind in turns))
        key_mask = None
        if len(set(lengths)) > 1 or any(cache.key_mask is not None for cache in caches):
            key_mask = torch.cat([_mask(cache, length, longest) for cache, length in zip(caches, lengths)])
        rows = sum(cache.rows for cache in caches)
        return cls(layers=layers, rotary=rotary, key_mask=key_mask, rows=rows, target_tokens=target)

    @property
    def nbytes(self) -> int:
        """Memory of the keys and values."""
        return sum(tensor.nbytes for layer in self.layers for tensor in layer)


def _rows(past: Tensor, rows: int, length: int) -> Tensor:
    """`b p h d -> rows length h d`: one prefix for each row, padded on the right."""
    past = past.repeat_interleave(rows // past.shape[0], dim=0)
    return F.pad(past, (0, 0, 0, 0, 0, length - past.shape[1]))


def _mask(cache: PrefixCache, length: int, longest: int) -> Tensor:
    """The key mask of a cache after padding its prefix from `length` to `longest`: (rows, 1, 1, longest + T)."""
    mask = cache.key_mask
    if mask is None:
        device = cache.layers[0].keys.device
        mask = torch.ones(cache.rows, 1, 1, length + cache.target_tokens, dtype=torch.bool, device=device)
    padding = mask.new_zeros(cache.rows, 1, 1, longest - length)
    return torch.cat((mask[..., :length], padding, mask[..., length:]), dim=-1)
