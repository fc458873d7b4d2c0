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

    def find(self, dataset: Dataset, index: int, caption: str, sizes: Shape) -> Tensor | None:
        """(length, channels), or None if they are not there."""


@dataclass(frozen=True)
class Row:
    """A sample of a batch: those to try, in order, and where its random numbers come from."""

    indices: tuple[int, ...]
    seed: tuple[int, ...]
    drawn: bool


@dataclass(frozen=True)
class Plan:
    """What a batch is to be made of."""

    target: Shape
    rows: Sequence[Row]


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
    ) -> None:
        self.dataset, self.frames, self.captions = dataset, frames, captions
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
        return Made(self._batch(plan.target, rows), skipped)

    def _row(self, row: Row, index: int, target: Shape) -> _Read:
        """A sample, scaled and cropped; raises SampleError."""
        rng = np.random.default_rng((*row.seed, 1))
        wanted: Record | Sample = self.dataset.sample(index) if self.latents is None else self.dataset.record(index)
        record = wanted.record if isinstance(wanted, Sample) else wanted
        caption = choose(record.captions, self.captions, rng)
        crops = self.frames.crops((record.size, record.inputs[: len(target[1])]), target, row.drawn, rng)
        found = None if self.latents is None else self.latents.find(self.dataset, index, target, crops)
        features = None if self.features is None else self.features.find(self.dataset, index, caption, target)
        pixels: list[np.ndarray] = []
        if found is None:
            sample = wanted if isinstance(wanted, Sample) else self.dataset.sample(index)
            shown = zip((sample.image, *sample.inputs), (target[0], *target[1]), crops, strict=False)
            pixels = [show(picture, size, crop) for picture, size, crop in shown]
        return _Read(record, caption, crops[0], pixels, found, features, index)

    def _batch(self, target: Shape, rows: list[_Read]) -> Batch:
        if any(row.latents is None for row in rows) and not all(row.latents is None for row in rows):
            rows = [self._decoded(row, target) for row in rows]
        cached = rows[0].latents is not None
        pictures = None if cached else torch.from_numpy(np.stack([row.pixels[0] for row in rows]))
        latents = [row.latents for row in rows if row.latents is not None]
        features = [row.features for row in rows if row.features is not None]
        return Batch(
            size=target[0],
            records=[row.record for row in rows],
            prompts=[row.caption for row in rows],
            images=None if pictures is None else pictures.permute(0, 3, 1, 2).contiguous(),
            inputs=[] if cached else [[_channels_first(pixels) for pixels in row.pixels[1:]] for row in rows],
            latents=torch.stack([z[0] for z in latents]) if cached else None,
            input_latents=torch.stack([torch.cat(z[1:]) for z in latents]) if cached and target[1] else None,
            crops=[row.crop for row in rows],
            features=features if len(features) == len(rows) else None,
        )

    def _decoded(self, row: _Read, target: Shape) -> _Read:
        """A row whose latents are there, with pixels instead, because another's are not."""
        if row.pixels:
            return row
        sample = self.dataset.sample(row.index)
        shape = row.record.size, row.record.inputs
        crops = self.frames.crops(shape, target, False, np.random.default_rng(0))  # fixed: nothing is drawn
        shown = zip((sample.image, *sample.inputs), (target[0], *target[1]), crops, strict=True)
        return replace(row, pixels=[show(*one) for one in shown], latents=None)


@dataclass(frozen=True)
class _Read:
    """A row of a batch."""

    record: Record
    caption: str
    crop: Crop
    pixels: list[np.ndarray]
    latents: list[Tensor] | None
    features: Tensor | None
    index: int


def choose(captions: Sequence[Caption], weights: Mapping[str, float], rng: np.random.Generator) -> str:
    """One of a sample's captions: first a kind, by the weights of those that it has, then one of it; "" of none."""
    kinds = sorted({caption.kind for caption in captions if weights.get(caption.kind, 1.0) > 0})
    if not kinds:
        return ""
    shares = np.array([weights.get(kind, 1.0) for kind in kinds])
    kind = kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]
    own = [caption.text for caption in captions if caption.kind == kind]
    return own[int(rng.integers(len(own)))]


def _channels_first(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
