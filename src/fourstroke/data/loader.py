"""Batches of one size each, as a function of (seed, step, rank) alone: a run goes on from any step, bit for bit.

A step's batch is cut among the ranks, every `ranks`-th sample to each, so that N ranks with b samples see what one with
N b would. Every sample of a bucket comes once before any comes again. Pictures are read by worker processes; one that
turns out to be broken gives its place to another of its bucket, chosen by the step too, and is named in the report.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType

import numpy as np
import torch
import torch.utils.data

from fourstroke.data.datasets.mixture import Mixture
from fourstroke.data.filters import Filters
from fourstroke.data.frames import Frames
from fourstroke.data.reader import BatchReader, Features, Latents, Made, Plan, PlannedSample
from fourstroke.data.sample import Batch, Dataset, SampleError, Shape, hints
from fourstroke.data.schedule import Schedule, ShuffledIndices
from fourstroke.data.survey import Surveyed, shapes_of, survey
from fourstroke.ranges import Count, Natural, NonNegative, check_ranges

SPARE = 8
"""Samples that stand by for one that turns out to be broken."""


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How a dataset is read."""

    filters: Filters = ()
    captions: dict[str, NonNegative] = field(default_factory=dict)
    """How often each kind of caption is taken, as against the others that a sample has; 1 where nothing is said."""
    workers: Natural = 2
    """Processes that read; 0 reads in the training's own."""
    prefetch: Count = 4
    """Batches that each keeps ready."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass
class _Stream:
    """Samples of one dataset in one bucket."""

    order: ShuffledIndices
    weight: float
    drawn: bool
    part: int


class Loader:
    """Batches of a dataset.

    Args:
        dataset: what to read.
        frames: the sizes of batches.
        batch_size: samples of a batch on each rank; one number, or one for each group of sizes.
        config: filters, choice of captions, workers.
        seed: of the order, the crops and the captions.
        rank: which of `ranks` this is.
        ranks: how many share each batch.
        captioned: whether samples without a caption are refused.
        latents: takes the place of pixels where it has all of a batch's.
        features: gives the features of captions where it has all of a batch's.
        drop: share of the captions that are left out, "".
        accumulate: micro-batches of a step, which follow one another; together they are one batch of their sizes.

    Raises:
        ValueError: in one line, if a part of the dataset has no sample that can be used.
    """

    def __init__(
        self,
        dataset: Dataset,
        frames: Frames,
        batch_size: int | Sequence[int],
        *,
        config: LoaderConfig | None = None,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        captioned: bool = False,
        latents: Latents | None = None,
        features: Features | None = None,
        drop: float = 0.0,
        accumulate: int = 1,
    ) -> None:
        self.dataset, self.frames, self.config = dataset, frames, config or LoaderConfig()
        self.seed, self.rank, self.ranks, self.accumulate = seed, rank, ranks, accumulate
        sizes = [batch_size] * len(frames.shares) if isinstance(batch_size, int) else batch_size
        self.wholes = [size * ranks * accumulate for size in sizes]
        """Samples of a step on all ranks, by group of sizes."""
        if latents is not None and not frames.fixed:
            raise ValueError(
                "latents that are kept are those of one crop: set buckets.crop to center, or leave the cache"
            )
        self._reader = BatchReader(dataset, frames, self.config.captions, latents, features, drop)
        found, self.report = survey(dataset, self.config.filters, captioned=captioned, workers=self.config.workers)
        self._buckets = self._sorted(found)
        self.samples = self.report.used
        """That are used."""

    @property
    def sizes(self) -> dict[Shape, int]:
        """How many samples there are of each shape of batch."""
        counts: dict[Shape, int] = {}
        for (_, _, target), streams in self._buckets:
            counts[target] = counts.get(target, 0) + sum(len(stream.order) for stream in streams)
        return counts

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which as many samples are drawn as there are."""
        whole = sum(share * size for share, size in zip(self.frames.shares, self.wholes, strict=True))
        return math.ceil(self.samples / whole)

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """This rank's endless batches from step `start` on; raises ValueError where nothing can be read any more."""
        workers = self.config.workers
        loader: torch.utils.data.DataLoader[Made] = torch.utils.data.DataLoader(
            self._reader,
            sampler=self._plans(start),
            batch_size=None,
            num_workers=workers,
            worker_init_fn=_end_quietly if workers else None,
            prefetch_factor=self.config.prefetch if workers else None,
            pin_memory=torch.cuda.is_available(),
        )
        for made in loader:
            for index, error in made.skipped:
                self.report.skip(f"{self.dataset.name} {index}", error)
            if made.batch is None:
                raise ValueError(f"{SPARE + 1} samples in a row cannot be used: {self.report}")
            yield made.batch

    def _sorted(self, found: Sequence[Surveyed]) -> list[tuple[tuple[int, int, Shape], list[_Stream]]]:
        """Streams by group of sizes, part of a mixture and shape; samples that fit no size join the report."""
        apart = not (isinstance(self.dataset, Mixture) and self.dataset.by == "sample")
        streams: dict[tuple[int, int, Shape], list[_Stream]] = {}
        for number, one in enumerate(found):
            members = self._placed(one)
            counts = {group: sum(map(len, shapes.values())) for group, shapes in members.items()}
            share = sum(self.frames.shares[group] for group in counts)
            if one.stretch.weight and not share:
                raise ValueError(f"no sample of {one.stretch.dataset.name} can be used: {self.report}")
            part = hints(one.stretch.dataset)
            blocks = [block + one.stretch.first for block in part.blocks]
            for group, shapes in members.items():
                for target, indices in shapes.items():
                    key = group, number if apart else 0, target
                    weight = one.stretch.weight * self.frames.shares[group] / share * len(indices) / counts[group]
                    order = ShuffledIndices(indices, (self.seed, 1, number, group, len(streams)), blocks)
                    if weight:
                        streams.setdefault(key, []).append(_Stream(order, weight, bool(part.shapes), number))
        return list(streams.items())

    def _placed(self, one: Surveyed) -> dict[int, dict[Shape, np.ndarray]]:
        """Indices by group and shape of batch, as often as they come in an epoch."""
        members: dict[int, dict[Shape, list[np.ndarray]]] = {}
        for indices, shape in shapes_of(one):
            try:
                places = self.frames.place(shape)
            except SampleError as error:
                self.report.used -= len(indices)
                for index in indices.tolist():
                    self.report.skip(self.dataset.record(index).name, error)
                continue
            for group, target in places.items():
                members.setdefault(group, {}).setdefault(target, []).append(one.often(indices))
        return {
            group: {target: np.sort(np.concatenate(parts)) for target, parts in shapes.items()}
            for group, shapes in members.items()
        }

    def _plans(self, start: int) -> Iterator[Plan]:
        """What each step's batch is made of on this rank."""
        weights = [sum(stream.weight for stream in streams) for _, streams in self._buckets]
        inner: dict[int, Iterator[tuple[int, int]]] = {}
        draws = Schedule(weights, (self.seed, 2)).draws(start)
        for step, (bucket, turn) in enumerate(draws, start):
            (group, _, target), streams = self._buckets[bucket]
            whole = self.wholes[group]
            if bucket not in inner:
                own = Schedule([stream.weight for stream in streams], (self.seed, 3, bucket))
                inner[bucket] = own.draws(turn * whole)
            drawn = [next(inner[bucket]) for _ in range(whole)]
            for shard in range(self.rank, self.ranks * self.accumulate, self.ranks):
                rows = []
                for row in range(shard, whole, self.ranks * self.accumulate):
                    stream, position = drawn[row]
                    order, seed = streams[stream].order, (self.seed, 4, step, row)
                    spare = np.random.default_rng(seed).integers(len(order), size=SPARE)
                    indices = order[position], *order.members[spare].tolist()
                    rows.append(PlannedSample(indices, seed, streams[stream].drawn, streams[stream].part))
                yield Plan(target, rows)


def _end_quietly(worker: int) -> None:
    """Have a worker that is told to end do so without a failure, and go on at Ctrl-C, which a terminal sends to all.

    The process that trains was told too; it still wants the batch of its last step, and ends its workers itself.
    """

    def end(signum: int, frame: FrameType | None) -> None:
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
