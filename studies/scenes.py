"""An endless stream of world samples, a function of (seed, step) alone, so that a run can be resumed anywhere."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fourstroke.world import Sample, World, WorldConfig
from fourstroke.world.graph import Split


class WorldSamples(Dataset[Sample]):
    """Sample i of the world: rendered when asked for, in any process."""

    def __init__(self, config: WorldConfig, split: Split = "train") -> None:
        self.world, self.split = World(config), split

    def __getitem__(self, index: int) -> Sample:
        return self.world.sample(index, self.split)


def batches(
    config: WorldConfig,
    batch_size: int,
    *,
    start: int = 0,
    seed: int = 0,
    split: Split = "train",
    workers: int = 0,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[list[Sample]]:
    """Batches from step `start` on; step s holds the samples s * batch_size … of a range of its own for each seed.

    Of several ranks each takes every `ranks`-th sample of what all of them draw in a step.
    """
    first = (seed << 40) + start * batch_size * ranks + rank
    loader: DataLoader[Sample] = DataLoader(
        WorldSamples(config, split),
        batch_size=batch_size,
        sampler=itertools.count(first, ranks),
        num_workers=workers,
        collate_fn=list,
        prefetch_factor=4 if workers else None,
        persistent_workers=False,
    )
    yield from loader


def pixels(samples: list[Sample]) -> Tensor:
    """Pictures of a batch as (B, 4, H, W) float32 in [-1, 1]."""
    return as_pixels([sample.image for sample in samples])


def as_pixels(pictures: Sequence[np.ndarray]) -> Tensor:
    """Pictures (H, W, 4) uint8 of one size as (B, 4, H, W) float32 in [-1, 1]; (0,) of none."""
    if not pictures:
        return torch.empty(0)
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
