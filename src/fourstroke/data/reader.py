"""Reads a batch by its plan, in any process: decodes, scales, crops, and chooses captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
import torch.utils.data
from torch import Tensor

from fourstroke.data.buckets import Crop, show
from fourstroke.data.frames import Frames
from fourstroke.data.sample import Batch, Caption, Dataset, Record, Sample, SampleError, Shape


class Latents(Protocol):
    """Latents that were made beforehand."""

    def find(self, dataset: Dataset, index: int, sizes: Shape, crops: Sequence[Crop]) -> list[Tensor] | None:
        """Of a picture and its inputs, each (tokens, channels) float16; None if one is not there."""


class Features(Protocol):
    """Features of captions that were made beforehand."""

    def find(self, dataset: Dataset, index: int, caption: str, sizes: Shape, crops: Sequence[Crop]) -> Tensor | None:
        """(length, channels), or None if they are not there."""


@dataclass(frozen=True)
class PlannedSample:
    """A sample of a batch: those to try, in order, and where its random numbers come from."""

    indices: tuple[int, ...]
    seed: tuple[int, ...]
    drawn: bool
    part: int
    """Of a mixture."""


@dataclass(frozen=True)
class Plan:
    """What a batch is to be made of."""

    target: Shape
    rows: Sequence[PlannedSample]


@dataclass(frozen=True)
class Made:
    """A batch, what was skipped on the way, or why there is none."""

    batch: Batch | None
    skipped: Sequence[tuple[int, SampleError]]

    def pin_memory(self) -> Made:
        """With the batch in page-locked memory."""
        return self if self.batch is None else replace(self, batch=self.batch.pin_memory())


class BatchReader(torch.utils.data.Dataset[Made]):
    """Makes batches by plans, in any process."""

    def __init__(
        self,
        dataset: Dataset,
        frames: Frames,
        captions: Mapping[str, float],
        latents: Latents | None,
        features: Features | None,
        drop: float = 0.0,
    ) -> None:
        self.dataset, self.frames, self.captions, self.drop = dataset, frames, captions, drop
        self.latents, self.features = latents, features

    def __getitem__(self, plan: Plan) -> Made:
        rows, skipped = [], []
        for row in plan.rows:
            for index in row.indices:
                try:
                    rows.append(self._row(row, index, plan.target))
                    break
                except SampleError as error:
                    skipped.append((index, error))
            else:
                return Made(None, skipped)
        try:
            return Made(self._batch(plan.target, rows), skipped)
        except SampleError as error:  # of a picture whose latents are there, and which is gone
            return Made(None, [*skipped, (rows[0].index, error)])

    def _row(self, row: PlannedSample, index: int, target: Shape) -> _Read:
        """A sample, scaled and cropped; raises SampleError."""
        rng = np.random.default_rng((*row.seed, 1))
        wanted: Record | Sample = self.dataset.sample(index) if self.latents is None else self.dataset.record(index)
        record = wanted.record if isinstance(wanted, Sample) else wanted
        whole = np.random.default_rng((*row.seed[:-1], 3)).random()  # the same for all rows of a step
        caption = choose(record.captions, self.captions, rng, whole)
        if self.drop and rng.random() < self.drop:
            caption = ""
        crops = self.frames.crops((record.size, record.inputs[: len(target[1])]), target, row.drawn, rng)
        found = None if self.latents is None else self.latents.find(self.dataset, index, target, crops)
        features = None if self.features is None else self.features.find(self.dataset, index, caption, target, crops)
        read = _Read(index, row.part, record, caption, crops, [], found, features)
        if found is None:
            return self._shown(read, target, wanted if isinstance(wanted, Sample) else self.dataset.sample(index))
        return read

    def _shown(self, row: _Read, target: Shape, sample: Sample) -> _Read:
        shown = zip((sample.image, *sample.inputs), (target[0], *target[1]), row.crops, strict=False)
        return replace(row, pixels=[show(*one) for one in shown])

    def _batch(self, target: Shape, rows: list[_Read]) -> Batch:
        features = [row.features for row in rows if row.features is not None]
        latents = [row.latents for row in rows if row.latents is not None]
        cached, encoded = len(latents) == len(rows), len(features) == len(rows)
        if not cached or (target[1] and not encoded):  # who encodes the words of an edit must see its inputs
            rows = [row if row.pixels else self._shown(row, target, self.dataset.sample(row.index)) for row in rows]
        pictures = [row.pixels[0] for row in rows if row.pixels and not cached]
        return Batch(
            size=target[0],
            records=[row.record for row in rows],
            prompts=[row.caption for row in rows],
            images=torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous() if pictures else None,
            inputs=[[_channels_first(pixels) for pixels in row.pixels[1:]] for row in rows if row.pixels],
            latents=torch.stack([z[0] for z in latents]) if cached else None,
            input_latents=torch.stack([torch.cat(z[1:]) for z in latents]) if cached and target[1] else None,
            crops=[row.crops[0] for row in rows],
            input_sizes=target[1],
            parts=[row.part for row in rows],
            features=features if encoded else None,
        )


@dataclass(frozen=True)
class _Read:
    """A row of a batch; `pixels` are empty where its latents are there."""

    index: int
    part: int
    record: Record
    caption: str
    crops: Sequence[Crop]
    pixels: list[np.ndarray]
    latents: list[Tensor] | None
    features: Tensor | None


def choose(captions: Sequence[Caption], weights: Mapping[str, float], rng: np.random.Generator, kind: float) -> str:
    """One of a sample's captions: first a kind, by the weights of those that it has, then one of it; "" of none.

    `kind`, 0 to 1, picks the kind: where the rows of a batch share it, short captions are not padded to long ones.
    """
    kinds = sorted({caption.kind for caption in captions if weights.get(caption.kind, 1.0) > 0})
    if not kinds:
        return ""
    shares = np.array([weights.get(kind, 1.0) for kind in kinds])
    chosen = kinds[min(int(np.searchsorted(np.cumsum(shares / shares.sum()), kind, side="right")), len(kinds) - 1)]
    own = [caption.text for caption in captions if caption.kind == chosen]
    return own[int(rng.integers(len(own)))]


def _channels_first(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
