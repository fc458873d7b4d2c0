"""Several datasets in one, each with a weight: the report's T2I : TI2I of 9 : 1 is such a mixture.

Report, Table 2. Batches come from one part each (`by: batch`), as edits and pictures without inputs must; or every
picture's part is chosen alone (`by: sample`).
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from fourstroke.data.datasets.items import named, starts
from fourstroke.data.sample import Data, Dataset, Hints, Record, Sample, Split, hints
from fourstroke.ranges import NonNegative, check_ranges


@dataclass(frozen=True, kw_only=True)
class Part:
    """A dataset of a mixture."""

    data: Data
    weight: NonNegative = 1.0
    """Share of the batches (or samples), as against the other weights; however large the dataset is."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class MixtureData:
    """Parts with weights."""

    kind: ClassVar[str] = "mixture"
    parts: tuple[Part, ...]
    by: Literal["batch", "sample"] = "batch"

    def __post_init__(self) -> None:
        if not any(part.weight for part in self.parts):
            raise ValueError("a mixture needs a part whose weight is above 0")

    def open(self, split: Split = "train") -> Dataset:
        """Open every part; raises ValueError if one of them has no sample."""
        return Mixture([part.data.open(split) for part in self.parts], [part.weight for part in self.parts], self.by)


class Mixture:
    """Datasets one after the other; who draws from them goes by `weights`."""

    name = "mixture"

    def __init__(
        self, parts: Sequence[Dataset], weights: Sequence[float], by: Literal["batch", "sample"] = "batch"
    ) -> None:
        self.parts, self.weights, self.by = list(parts), list(weights), by
        self.starts = starts([len(part) for part in parts])
        self.names = [f"{number}-{part.name}" for number, part in enumerate(parts)]
        skipped = {
            f"{name}/{key}": reason
            for name, part in zip(self.names, parts, strict=True)
            for key, reason in hints(part).skipped.items()
        }
        self.hints = Hints(skipped=skipped)

    def __len__(self) -> int:
        return self.starts[-1] + len(self.parts[-1])

    def record(self, index: int) -> Record:
        """The record of a part, with the part in its name; raises SampleError."""
        part, place = self._place(index)
        with named(self.names[part]):
            record = self.parts[part].record(place)
        return replace(record, name=f"{self.names[part]}/{record.name}")

    def sample(self, index: int) -> Sample:
        """The sample of a part, with the part in its name; raises SampleError."""
        part, place = self._place(index)
        with named(self.names[part]):
            sample = self.parts[part].sample(place)
        return replace(sample, record=replace(sample.record, name=f"{self.names[part]}/{sample.record.name}"))

    def digest(self, index: int) -> str:
        """The digest of the part's sample, the same as outside the mixture; raises SampleError."""
        part, place = self._place(index)
        with named(self.names[part]):
            return self.parts[part].digest(place)

    def _place(self, index: int) -> tuple[int, int]:
        part = bisect.bisect_right(self.starts, index) - 1
        return part, index - self.starts[part]


@dataclass(frozen=True)
class Stretch:
    """Consecutive samples of one dataset, and its share of what is drawn."""

    dataset: Dataset
    first: int
    weight: float

    @property
    def indices(self) -> np.ndarray:
        """Where they stand in the whole."""
        return np.arange(self.first, self.first + len(self.dataset))


def stretches(dataset: Dataset, first: int = 0, weight: float = 1.0) -> list[Stretch]:
    """The datasets that a dataset is made of, mixtures of mixtures taken apart; weights sum to `weight`."""
    if not isinstance(dataset, Mixture):
        return [Stretch(dataset, first, weight)]
    whole = sum(dataset.weights)
    return [
        stretch
        for part, start, share in zip(dataset.parts, dataset.starts, dataset.weights, strict=True)
        for stretch in stretches(part, first + start, weight * share / whole)
    ]
