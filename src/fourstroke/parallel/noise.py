"""Noise of a batch, row by row: each row has a generator of its own, so that no rank draws the others' noise."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fourstroke.parallel.mesh import data_shard


def batch_rows(samples: int, each: int = 1) -> list[int]:
    """Numbers, within the common batch, of this rank's `samples * each` rows; `each` rows of a sample follow another.

    They are the rows that `local_rows` keeps: N ranks together have those of one process with N times the samples.
    """
    shard = data_shard()
    return [(shard.index + shard.count * n) * each + k for n in range(samples) for k in range(each)]


def row_generator(seed: int, step: int, row: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of one row of one step; another for every (seed, step, row)."""
    key = hashlib.blake2b(f"{seed} {step} {row}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(key, "little") >> 1)


def row_noise(
    seed: int, step: int, rows: Iterable[int], shape: Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """Normal noise (rows, *shape) in float32; a row depends on (seed, step, row) and the device's kind alone."""
    return torch.stack(
        [torch.randn(tuple(shape), generator=row_generator(seed, step, row, device), device=device) for row in rows]
    )
