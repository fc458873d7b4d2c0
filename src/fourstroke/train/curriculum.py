"""What an autoencoder is trained on at each moment of a run: batches of a dataset, in phases.

VAE-2.0 report, Curriculum: resolution and aspect ratio, and content, change as training goes on. A phase says the sizes
of its windows and the weights of the dataset's parts, and ends at a share of the run.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fourstroke.data.datasets.mixture import Mixture, MixtureData
from fourstroke.data.frames import Windows
from fourstroke.data.loader import Loader, LoaderConfig
from fourstroke.data.report import Report
from fourstroke.data.sample import Batch, Data, Dataset
from fourstroke.parallel.mesh import rank, world_size
from fourstroke.ranges import Count, NonNegative, PositiveFraction, check_ranges

HELD_OUT = 32
"""Held-out pictures in all, of the parts together."""
Sizes = tuple[tuple[Count, Count], ...]
"""Widths and heights."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of the curriculum; what it leaves out is as the recipe says."""

    until: PositiveFraction
    """Share of the run at which it ends; the last one ends at 1."""
    sizes: Sizes | None = None
    batch_size: Count | None = None
    weights: tuple[NonNegative, ...] | None = None
    """Of the parts of the mixture, instead of those it names."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.sizes is not None and not self.sizes:
            raise ValueError("sizes needs at least one entry")
        if self.weights is not None and not any(self.weights):
            raise ValueError(f"weights={self.weights}: one must be above 0")


@dataclass(frozen=True, kw_only=True)
class PhasePlan:
    """A phase with every number filled in; `weights` None are the mixture's own."""

    until: float
    sizes: Sizes
    batch_size: int
    weights: tuple[float, ...] | None


def plans(phases: Sequence[Phase], sizes: Sizes, batch_size: int, data: Data) -> tuple[PhasePlan, ...]:
    """The phases with what they leave out filled in; a single one where there are none.

    Raises:
        ValueError: if they do not end one after the other, or name weights that the data has no parts for.
    """
    ends = [phase.until for phase in phases]
    if ends and (ends != sorted(set(ends)) or ends[-1] != 1):
        raise ValueError(f"phases end at {ends}: each later than the one before, the last at 1")
    parts = len(data.parts) if isinstance(data, MixtureData) else 0
    for phase in phases:
        if phase.weights is not None and len(phase.weights) != parts:
            raise ValueError(f"weights={phase.weights}: the data is a mixture of {parts} parts")
        if not (phase.sizes or sizes):
            raise ValueError("there are no sizes: name those of the recipe, or of each phase")
    if not phases and not sizes:
        raise ValueError("there are no sizes: name those of the recipe, or of each phase")
    return tuple(
        PhasePlan(
            until=phase.until,
            sizes=phase.sizes or sizes,
            batch_size=phase.batch_size or batch_size,
            weights=phase.weights,
        )
        for phase in phases or (Phase(until=1.0),)
    )


class Curriculum:
    """Batches by step and share of the run; each phase has a seed of its own.

    Raises:
        ValueError: in one line, if there is nothing to train on.
    """

    def __init__(self, data: Data, schedule: Sequence[PhasePlan], config: LoaderConfig, seed: int) -> None:
        self.data, self.schedule, self.config, self.seed = data, schedule, config, seed
        self.dataset = data.open("train")
        self.report = Report()
        self._place = 0, -1
        self._batches: Iterator[Batch] = iter(())
        self._loader = self._open(0, seed)

    def batch(self, step: int, progress: float) -> Batch:
        """This rank's batch of a step, when a share of the run is done; quick for steps that follow one another."""
        ended = (number for number, plan in enumerate(self.schedule) if progress < plan.until)
        phase = next(ended, len(self.schedule) - 1)
        if self._place[0] != phase:
            self._loader = self._open(phase, self.seed + (phase << 20))
        if self._place != (phase, step):
            self._batches = self._loader.batches(step)
        self._place = phase, step + 1
        return next(self._batches)

    def fresh(self, count: int) -> Iterator[Tensor]:
        """Pictures of the last phase that no step sees, (b, 4, height, width) uint8, `count` or a few more."""
        batches = self._open(len(self.schedule) - 1, self.seed + 1, whole=True).batches()
        while count > 0:
            images = next(batches).images
            assert images is not None
            yield images[:count]
            count -= len(images)

    def held_out(self) -> list[Tensor]:
        """By part of the data, held-out pictures of the last phase's first size, (n, 4, height, width) uint8.

        Of data that holds nothing out they are of the training set, and a line says so.
        """
        try:
            dataset = self.data.open("heldout")
        except ValueError as error:
            print(f"pictures of the training set are watched, for there are no others: {error}", flush=True)
            dataset = self.dataset
        weights = self.schedule[-1].weights
        parts: Sequence[Dataset] = dataset.parts if isinstance(dataset, Mixture) else [dataset]
        if isinstance(dataset, Mixture):
            parts = [part for part, weight in zip(parts, weights or dataset.weights, strict=True) if weight]
        frames = Windows(self.schedule[-1].sizes[:1])
        found = []
        for part in parts:
            loader = Loader(part, frames, 1, config=LoaderConfig(workers=0))
            batches = itertools.islice(loader.batches(), min(HELD_OUT // len(parts), loader.samples))
            found.append(torch.cat([batch.images for batch in batches if batch.images is not None]))
        return found

    def _open(self, phase: int, seed: int, whole: bool = False) -> Loader:
        """The loader of a phase; with `whole`, all of each batch and not this rank's rows."""
        plan, dataset = self.schedule[phase], self.dataset
        if plan.weights is not None and isinstance(dataset, Mixture):
            dataset = Mixture(dataset.parts, plan.weights, dataset.by)
        ranks = 1 if whole else world_size()
        loader = Loader(
            dataset,
            Windows(plan.sizes),
            plan.batch_size,
            config=self.config,
            seed=seed,
            rank=0 if whole else rank(),
            ranks=ranks,
        )
        loader.report.skipped |= self.report.skipped
        self.report = loader.report
        return loader
