"""Keys and values of the prefix: computed once, read at every step and by every draw of noise."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

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
