"""How pictures come to the size of a batch: into buckets near their own shape, or through windows of given sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from fourstroke.data.buckets import Buckets, Crop, crop_of, window_of
from fourstroke.data.sample import SampleError, Shape, Size


class Frames(Protocol):
    """The sizes of batches, in groups (areas, say) that each have a share of them."""

    shares: Sequence[float]
    """Of each group, with sum 1."""
    fixed: bool
    """Whether a picture is always cropped alike, so that what is made of it can be kept."""

    def place(self, shape: Shape) -> dict[int, Shape]:
        """By group, the sizes at which a sample is shown there; raises SampleError if there is none."""

    def crops(self, shape: Shape, target: Shape, drawn: bool, rng: np.random.Generator) -> tuple[Crop, ...]:
        """What is shown of a picture and of each of its inputs; `drawn` are pictures that were made for their size."""


class Bucketed:
    """Each picture at the nearest ratio, at every area for which it is large enough."""

    def __init__(self, buckets: Buckets) -> None:
        self.buckets = buckets
        self.shares: Sequence[float] = buckets.config.shares()
        self.fixed = buckets.config.crop == "center"

    def place(self, shape: Shape) -> dict[int, Shape]:
        """The picture's and its inputs' buckets in each area that has one for the picture."""
        found: dict[int, Shape] = {}
        refused = None
        for area in range(len(self.shares)):
            try:
                bucket = self.buckets.fit(shape[0], area)
            except SampleError as error:
                refused = refused or error
                continue
            found[area] = bucket, tuple(self.buckets.nearest(size, area) for size in shape[1])
        if refused is not None and not found:
            raise refused
        return found

    def crops(self, shape: Shape, target: Shape, drawn: bool, rng: np.random.Generator) -> tuple[Crop, ...]:
        """The middle, or a random place that picture and inputs have in common."""
        place = (0.5, 0.5) if self.fixed else (float(rng.random()), float(rng.random()))
        pairs = zip((shape[0], *shape[1]), (target[0], *target[1]), strict=True)
        return tuple(crop_of(size, bucket, place) for size, bucket in pairs)


class Windows:
    """A random part of each picture, as large as one of some sizes; inputs are left out.

    A photograph is seen at any scale between the whole and its own pixels. Drawn pictures keep their scale.
    """

    fixed = False

    def __init__(self, sizes: Sequence[Size]) -> None:
        self.sizes = list(sizes)
        self.shares: Sequence[float] = [1 / len(self.sizes)] * len(self.sizes)

    def place(self, shape: Shape) -> dict[int, Shape]:
        """Every size."""
        return {number: (size, ()) for number, size in enumerate(self.sizes)}

    def crops(self, shape: Shape, target: Shape, drawn: bool, rng: np.random.Generator) -> tuple[Crop, ...]:
        """The window."""
        return (window_of(shape[0], target[0], rng, rescale=not drawn),)
