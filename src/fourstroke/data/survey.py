"""A first look at a dataset: which samples can be used, of which sizes, and a report of the others.

It costs a header each, and a decoded picture each where a filter looks at pixels. Datasets that say the size of all
their samples beforehand are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch.utils.data

from fourstroke.data.datasets.mixture import Stretch, stretches
from fourstroke.data.filters import Filter, FilterConfig
from fourstroke.data.report import Report
from fourstroke.data.sample import Dataset, Record, SampleError, Shape, hints

THREADS = 8
PROBES = 100
"""So many samples that cannot be decoded, and none before them that can, are taken for a set without any."""


@dataclass(frozen=True)
class Surveyed:
    """The usable samples of one of the datasets that a dataset is made of."""

    stretch: Stretch
    indices: np.ndarray
    """In the whole dataset, ascending."""
    shapes: Sequence[Shape]
    """One for each index; fewer come again and again."""

    def often(self, indices: np.ndarray) -> np.ndarray:
        """Some of the indices, each as often as it comes in an epoch."""
        given = hints(self.stretch.dataset).repeats
        return np.repeat(indices, np.asarray(given)[indices - self.stretch.first]) if len(given) else indices


def survey(
    dataset: Dataset, filters: Sequence[FilterConfig] = (), *, captioned: bool = False, workers: int = 0
) -> tuple[list[Surveyed], Report]:
    """Look at every sample of a dataset; `captioned` refuses those without a caption.

    Raises:
        ValueError: in one line, if a part that is drawn from has no sample that can be used, or a filter cannot work.
    """
    report = Report(skipped=dict(hints(dataset).skipped))
    opened = [(config.kind, config.open()) for config in filters]
    found = []
    for stretch in stretches(dataset):
        part = hints(stretch.dataset)
        if not stretch.weight:  # nobody draws from it
            found.append(Surveyed(stretch, stretch.indices[:0], []))
            continue
        if part.shapes:
            report.used += len(stretch.dataset)
            found.append(Surveyed(stretch, stretch.indices, part.shapes))
            continue
        kept = _by_record(dataset, stretch, opened, captioned, report)
        if any(one.pixels for _, one in opened):
            kept = _by_pixels(dataset, kept, opened, workers, report)
        else:
            _probe(dataset, [index for index, _ in kept], report)
        if not kept:
            raise ValueError(f"no sample of {stretch.dataset.name} can be used: {report}")
        report.used += len(kept)
        indices = np.array([index for index, _ in kept], np.int64)
        found.append(Surveyed(stretch, indices, [(record.size, record.inputs) for _, record in kept]))
    return found, report


def _by_record(
    dataset: Dataset, stretch: Stretch, filters: Sequence[tuple[str, Filter]], captioned: bool, report: Report
) -> list[tuple[int, Record]]:
    def look(index: int) -> Record | SampleError:
        try:
            record = dataset.record(index)
        except SampleError as error:
            return error
        if captioned and not record.captions:
            return SampleError("has no caption", "caption", record.name)
        for stage, one in filters:
            if (reason := one.check(record)) is not None:
                return SampleError(reason, stage, record.name)
        kept = record.captions[:1]  # the rest is read when it is wanted
        return Record(name=record.name, size=record.size, inputs=record.inputs, captions=kept)

    kept = []
    with ThreadPoolExecutor(THREADS) as pool:
        indices = stretch.indices.tolist()
        for index, seen in zip(indices, pool.map(look, indices), strict=True):
            if isinstance(seen, SampleError):
                report.skip(f"{stretch.dataset.name} {index}", seen)
                continue
            if not seen.captions:
                report.uncaptioned.append(seen.name)
            kept.append((index, replace(seen, captions=())))
    return kept


def _by_pixels(
    dataset: Dataset,
    records: Sequence[tuple[int, Record]],
    filters: Sequence[tuple[str, Filter]],
    workers: int,
    report: Report,
) -> list[tuple[int, Record]]:
    wanted = [(stage, one) for stage, one in filters if one.pixels]
    measured = _Measured(dataset, [index for index, _ in records], [one for _, one in wanted])
    loader: Any = torch.utils.data.DataLoader(measured, batch_size=None, num_workers=workers)
    kept = []
    for (index, record), values in zip(records, loader, strict=True):
        if isinstance(values, SampleError):
            report.skip(record.name, values)
            continue
        for (stage, one), value in zip(wanted, values, strict=True):
            if (reason := one.judge(record.name, value)) is not None:
                report.skip(record.name, SampleError(reason, stage))
                break
        else:
            kept.append((index, record))
    return kept


class _Measured(torch.utils.data.Dataset[Any]):
    """What filters need of each sample, or why it cannot be read."""

    def __init__(self, dataset: Dataset, indices: Sequence[int], filters: Sequence[Filter]) -> None:
        self.dataset, self.indices, self.filters = dataset, indices, filters

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> list[Any] | SampleError:
        try:
            sample = self.dataset.sample(self.indices[place])
        except SampleError as error:
            return error
        return [one.measure(sample) for one in self.filters]


def _probe(dataset: Dataset, indices: Sequence[int], report: Report) -> None:
    """Decode samples until one can be; raises ValueError if none of the first can."""
    for index in indices[:PROBES]:
        try:
            dataset.sample(index)
            return
        except SampleError as error:
            report.skip(str(index), error)
    if indices:
        raise ValueError(f"none of {min(PROBES, len(indices))} pictures can be decoded: {report}")


def shapes_of(surveyed: Surveyed) -> Iterator[tuple[np.ndarray, Shape]]:
    """Indices by shape."""
    if (period := len(surveyed.shapes)) < len(surveyed.indices):
        for first, shape in enumerate(surveyed.shapes):
            yield surveyed.indices[first::period], shape
        return
    groups: dict[Shape, list[int]] = {}
    for index, shape in zip(surveyed.indices.tolist(), surveyed.shapes, strict=True):
        groups.setdefault(shape, []).append(index)
    for shape, indices in groups.items():
        yield np.array(indices, np.int64), shape
