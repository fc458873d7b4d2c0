"""Rotary positions over several axes (the MSRoPE of the Qwen-Image reports), with real numbers only.

A head's channels are taken as neighbouring pairs; the first pairs turn with the first axis of the position, the next
with the second, and so on. Angles are float32 whatever the model's dtype: bfloat16 cannot tell position 257 from 258.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Rotary(NamedTuple):
    """Cosines and sines of the angles, each (B or 1, S, 1, head_dim / 2); computed once, shared by all layers.

    `turns` are both as complex numbers.
    """

    cos: Tensor
    sin: Tensor
    turns: Tensor

    def repeat(self, n: int) -> Rotary:
        """Repeat every sample `n` times; a table that all samples share stays as it is."""
        return self if self.cos.shape[0] == 1 else Rotary(*(table.repeat_interleave(n, 0) for table in self))


def rotary_table(positions: Tensor, axes: Sequence[int], theta: float = 1e4) -> Rotary:
    """Angles of `positions` (B or 1, S, number of axes), integers of either sign.

    `axes[i]` channels turn with axis `i`, pair `j` of them by `position * theta ** (-2 j / axes[i])`.
    """
    angles = []
    for axis, channels in enumerate(axes):
        pairs = torch.arange(0, channels, 2, dtype=torch.float32, device=positions.device)
        angles.append(positions[..., axis, None].float() * (1.0 / theta ** (pairs / channels)))
    angle = torch.cat(angles, dim=-1).unsqueeze(-2)
    cos, sin = angle.cos(), angle.sin()
    return Rotary(cos, sin, torch.complex(cos, sin))


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Turn each pair of channels of `x` (B, S, H, D) by its angle: `(a, b) -> (a cos - b sin, a sin + b cos)`."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((a * rotary.cos - b * rotary.sin, a * rotary.sin + b * rotary.cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)
