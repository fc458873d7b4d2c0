"""Keys and values of the prefix: computed once, read at every step and by every draw of noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fourstroke.nn import KeysValues, Rotary


@dataclass(frozen=True)
class JoinedKeysValues:
    """One layer of joined prefixes: references to theirs, copied to the rows only while that layer reads them."""

    parts: tuple[tuple[KeysValues, int], ...]  # a prefix's keys and values (B, P, H, D), and the rows that it serves

    def then(self, new: KeysValues) -> KeysValues:
        """Append `new` (rows, S, H, D) to each row's own past, shorter ones padded on their right, in one copy."""
        copies = len(new.keys) // sum(rows for _, rows in self.parts)
        shared = [(past, rows * copies // len(past.keys)) for past, rows in self.parts]
        keys = [row for past, n in shared for row in past.keys for _ in range(n)]
        values = [row for past, n in shared for row in past.values for _ in range(n)]
        return KeysValues(_append_each(keys, new.keys), _append_each(values, new.values))

    @property
    def nbytes(self) -> int:
        """Memory of all, each once however many rows it serves."""
        return sum(past.nbytes for past in {id(past): past for past, _ in self.parts}.values())


@dataclass(frozen=True, kw_only=True)
class PrefixCache:
    """What `Transformer.prefill` leaves for `Transformer.denoise`; gradients flow through it.

    The layers hold (B, P, heads, head_dim), also after `repeat` and `join`: a prefix is copied to the rows that share
    it only when a layer reads it.
    """

    layers: tuple[KeysValues | JoinedKeysValues, ...]
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

    def row(self, index: int) -> PrefixCache:
        """One row alone, in the same memory; of a cache that was not joined."""
        layers = []
        for layer in self.layers:
            assert isinstance(layer, KeysValues)
            prompt = index * len(layer.keys) // self.rows
            layers.append(KeysValues(layer.keys[prompt : prompt + 1], layer.values[prompt : prompt + 1]))
        return dataclasses.replace(
            self,
            layers=tuple(layers),
            rotary=Rotary(*(table[index : index + 1] if len(table) > 1 else table for table in self.rotary)),
            key_mask=None if self.key_mask is None else self.key_mask[index : index + 1],
            rows=1,
        )

    @classmethod
    def join(cls, caches: Sequence[PrefixCache]) -> PrefixCache:
        """The caches as one batch, row after row, so that strangers of one target size share a step.

        Nothing is copied, and a cache that comes several times is there once. Shorter prefixes are padded on the right
        and the padding is masked: every row stays what it is alone.

        Raises:
            ValueError: no caches, targets of different numbers of tokens, or caches that are joined already.
        """
        if not caches or len({cache.target_tokens for cache in caches}) != 1:
            sizes = [cache.target_tokens for cache in caches]
            raise ValueError(f"only caches of one target size can be joined, found sizes {sizes}")
        if len(caches) == 1:
            return caches[0]
        plain = [[layer for layer in cache.layers if isinstance(layer, KeysValues)] for cache in caches]
        if any(len(layers) < len(cache.layers) for layers, cache in zip(plain, caches)):
            raise ValueError("a joined cache cannot be joined again; join what it was made of")
        lengths = [layers[0].keys.shape[1] for layers in plain]
        longest, target = max(lengths), caches[0].target_tokens
        rows_of = [cache.rows for cache in caches]
        layers = tuple(JoinedKeysValues(tuple(zip(layer, rows_of))) for layer in zip(*plain, strict=True))
        turns = zip(*(cache.rotary for cache in caches))
        rotary = Rotary(*(torch.cat([t.expand(c.rows, -1, -1, -1) for t, c in zip(kind, caches)]) for kind in turns))
        key_mask = None
        if len(set(lengths)) > 1 or any(cache.key_mask is not None for cache in caches):
            key_mask = torch.cat([_mask(cache, length, longest) for cache, length in zip(caches, lengths)])
        return cls(layers=layers, rotary=rotary, key_mask=key_mask, rows=sum(rows_of), target_tokens=target)

    @property
    def nbytes(self) -> int:
        """Memory of the keys and values."""
        return sum(layer.nbytes for layer in self.layers)


def _append_each(past: Sequence[Tensor], new: Tensor) -> Tensor:
    """`rows of p h d, b s h d -> b (longest p + s) h d`, with zeros between a shorter past and what is new."""
    longest = max(len(row) for row in past)
    pieces = [(row, row.new_zeros(longest - len(row), *row.shape[1:]), own) for row, own in zip(past, new, strict=True)]
    return torch.cat([piece for row in pieces for piece in row]).unflatten(0, (len(new), -1))


def _mask(cache: PrefixCache, length: int, longest: int) -> Tensor:
    """The key mask of a cache after padding its prefix from `length` to `longest`: (rows, 1, 1, longest + T)."""
    mask = cache.key_mask
    if mask is None:
        shape = (cache.rows, 1, 1, length + cache.target_tokens)
        mask = torch.ones(shape, dtype=torch.bool, device=cache.rotary.cos.device)
    padding = mask.new_zeros(cache.rows, 1, 1, longest - length)
    return torch.cat((mask[..., :length], padding, mask[..., length:]), dim=-1)
