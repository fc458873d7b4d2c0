"""What every dataset offers, whoever made it: samples with a picture and captions, and what is known without pixels.

A dataset has a length and random access; the same index always gives the same sample, in any process. What cannot be
used raises `SampleError`, which names the stage that refused it, so that reports can count by reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
from torch import Tensor

from fourstroke.registry import Registered

Split = Literal["train", "heldout"]
Size = tuple[int, int]
"""Width and height in pixels."""
Shape = tuple[Size, tuple[Size, ...]]
"""Sizes of a picture and of its inputs."""


class SampleError(ValueError):
    """A sample that cannot be used; `stage` is the filter or reader that refused it, the message says why.

    `name` is that of the sample, where whoever raises it knows it.
    """

    def __init__(self, reason: str, stage: str = "read", name: str = "") -> None:
        super().__init__(reason)
        self.stage, self.name = stage, name

    def __reduce__(self) -> tuple[type[SampleError], tuple[str, str, str]]:
        return SampleError, (str(self), self.stage, self.name)


@dataclass(frozen=True)
class Caption:
    """A description of a picture, or the instruction of an edit; `kind` is free: short, rich, tags …"""

    text: str
    kind: str = "caption"


@dataclass(frozen=True, kw_only=True)
class Record:
    """All that is known of a sample without its pixels."""

    name: str
    """Unique within the dataset; reports name samples by it."""
    size: Size
    captions: tuple[Caption, ...] = ()
    inputs: tuple[Size, ...] = ()
    """Sizes of the images that it is edited from, in order; none for text-to-image."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Anything; whoever makes a dataset may read it again, such as a scene graph."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A record with its pixels."""

    record: Record
    image: np.ndarray
    """(height, width, 4) uint8 sRGB with straight alpha."""
    inputs: tuple[np.ndarray, ...] = ()
    """Images to edit from, each as `image`, of sizes of their own."""
    mask: np.ndarray | None = None
    """(height, width) uint8, 255 where an edit may change the picture."""


class Dataset(Protocol):
    """Samples by index, the same on every machine and in every process."""

    name: str

    def __len__(self) -> int: ...

    def record(self, index: int) -> Record:
        """All but the pixels, as cheaply as can be (a header, not a decoded picture); raises SampleError."""

    def sample(self, index: int) -> Sample:
        """The record with its pixels; raises SampleError."""

    def digest(self, index: int) -> str:
        """Of the content of the picture (and its inputs), by which caches know it again; raises SampleError."""


@dataclass(frozen=True, kw_only=True)
class Hints:
    """What a dataset may say beforehand, in an attribute `hints`; a loader does without what is left out."""

    shapes: Sequence[Shape] = ()
    """Of sample i, `shapes[i % len(shapes)]`: of pictures that are drawn when asked for, which nobody looks at
    beforehand. A stage that wants less than their size crops them, and leaves their scale."""
    blocks: Sequence[int] = ()
    """First index of each shard, ascending from 0; a few shards at a time are read from."""
    repeats: Sequence[int] = ()
    """How often each sample comes in an epoch; once where this is left out."""
    skipped: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """What is there and is no sample: by name, the stage that refused it and why."""


def hints(dataset: Dataset) -> Hints:
    """What a dataset says beforehand."""
    return getattr(dataset, "hints", None) or Hints()


class DatasetConfig(Protocol):
    """A kind of dataset in a recipe: a frozen dataclass of its options."""

    kind: ClassVar[str]

    def open(self, split: Split = "train") -> Dataset:
        """The samples to train on, or those held out; raises ValueError, in one line, if there is none."""


Data = Annotated[DatasetConfig, Registered("datasets")]
"""A recipe's key that names a dataset: `data: {kind: folder, path: pictures}`."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples of one size, as stages take them. Pixels are left out where a cache holds their latents."""

    size: Size
    """Of the pictures, after scaling and cropping."""
    records: Sequence[Record]
    prompts: Sequence[str]
    """One caption of each record, as this step chose it; "" where there is none."""
    images: Tensor | None
    """(b, 4, height, width) uint8."""
    inputs: Sequence[Sequence[Tensor]] = ()
    """By record, its input images, each (4, h, w) uint8; all records have as many, of the same sizes."""
    latents: Tensor | None = None
    """(b, tokens, channels) float16, in place of `images`."""
    input_latents: Tensor | None = None
    """(b, tokens of all inputs, channels) float16, in place of the pixels of `inputs`."""
    crops: Sequence[tuple[float, float, float, float]] = ()
    """By record: left, top, right and bottom of what is shown, as fractions of the picture."""
    input_sizes: Sequence[Size] = ()
    """Of the input images, as they are shown; none for text-to-image."""
    parts: Sequence[int] = ()
    """By record, which part of a mixture it is of."""
    features: Sequence[Tensor] | None = None
    """By record, the text encoder's features of its prompt (and inputs) from a cache, (length, channels)."""

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, from which copies to a GPU need not be waited for."""
        pinned = {
            name: value.pin_memory()
            for name in ("images", "latents", "input_latents")
            if (value := getattr(self, name)) is not None
        }
        inputs = [[image.pin_memory() for image in row] for row in self.inputs]
        features = None if self.features is None else [row.pin_memory() for row in self.features]
        return replace(self, inputs=inputs, features=features, **pinned)
