"""Sizes that pictures of any shape are brought to: each to the nearest, by scaling and cropping, never by squeezing.

Report, Table 2: several areas (256, 512, 1024, 2048 pixels a side) and ratios in one run. Here every batch is of one
size; how often an area comes is its weight, and within it each ratio as often as there are pictures for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from fourstroke.data.sample import SampleError, Size
from fourstroke.ranges import Count, NonNegative, Positive, PositiveFraction, check_ranges

Crop = tuple[float, float, float, float]
"""Left, top, right and bottom of what is shown, as fractions of the picture."""


@dataclass(frozen=True, kw_only=True)
class BucketConfig:
    """Areas and ratios of the sizes."""

    areas: tuple[Count, ...]
    """Each the side, in pixels, of a square that has the area."""
    weights: tuple[NonNegative, ...] = ()
    """How often each area comes, as against the others; equally often where this is left out."""
    ratios: tuple[tuple[Count, Count], ...] = ((1, 1), (4, 3), (3, 2), (16, 9))
    """Width to height; each also stands for its reverse."""
    enlarge: Positive = 1.25
    """How much a picture may be enlarged to fill a size; one that would be more is left out there."""
    keep: PositiveFraction = 0.5
    """Least share of a picture that must be seen; one of which less would be is left out."""
    crop: Literal["center", "random"] = "center"

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.areas or not self.ratios:
            raise ValueError("areas and ratios need at least one entry each")
        if len(self.weights) not in (0, len(self.areas)) or (self.weights and not any(self.weights)):
            raise ValueError(f"weights={self.weights}: give one for each of the {len(self.areas)} areas, one above 0")
        if self.enlarge < 1:
            raise ValueError(f"enlarge={self.enlarge}: it must be at least 1")

    def shares(self) -> list[float]:
        """The weights of the areas, with sum 1."""
        weights = self.weights or (1.0,) * len(self.areas)
        return [weight / sum(weights) for weight in weights]


class Buckets:
    """The sizes of a configuration, sides multiples of `multiple` pixels."""

    def __init__(self, config: BucketConfig, multiple: int) -> None:
        if small := [area for area in config.areas if area < multiple]:
            raise ValueError(f"areas={small[0]}: the smallest picture of this model has {multiple} pixels a side")
        self.config = config
        self.sizes: list[list[Size]] = [
            sorted({_size(area, w / h, multiple) for a, b in config.ratios for w, h in ((a, b), (b, a))})
            for area in config.areas
        ]
        """By area."""

    def nearest(self, size: Size, area: int) -> Size:
        """Of the `area`-th area, the size whose shape is nearest to that of a picture."""
        ratio = math.log(size[0] / size[1])
        return min(self.sizes[area], key=lambda bucket: abs(math.log(bucket[0] / bucket[1]) - ratio))

    def fit(self, size: Size, area: int) -> Size:
        """`nearest`, if the picture can be shown there.

        Raises:
            SampleError: if it would have to be enlarged too much, or less of it would be seen than `keep`.
        """
        bucket = self.nearest(size, area)
        if (shown := visible(size, bucket)) < self.config.keep:
            raise SampleError(f"{size[0]} x {size[1]}: only {shown:.0%} of it fits {bucket[0]} x {bucket[1]}", "ratio")
        if max(bucket[0] / size[0], bucket[1] / size[1]) > self.config.enlarge:
            raise SampleError(f"{size[0]} x {size[1]} pixels are too few for {bucket[0]} x {bucket[1]}", "small")
        return bucket


def visible(size: Size, bucket: Size) -> float:
    """Share of a picture that is seen when it fills a size."""
    ratio = size[0] / size[1] / (bucket[0] / bucket[1])
    return min(ratio, 1 / ratio)


def crop_of(size: Size, bucket: Size, place: tuple[float, float] = (0.5, 0.5)) -> Crop:
    """The part of a picture that fills a size; `place` goes from (0, 0), left and top, to (1, 1), right and bottom."""
    ratio = size[0] / size[1] / (bucket[0] / bucket[1])
    width, height = min(1.0, 1 / ratio), min(1.0, ratio)
    left, top = (1 - width) * place[0], (1 - height) * place[1]
    return left, top, left + width, top + height


def window_of(size: Size, window: Size, rng: np.random.Generator, rescale: bool) -> Crop:
    """A window at a random place, and with `rescale` at a random scale, from the whole picture to its own pixels.

    Pictures too small for it are enlarged.
    """
    fill = max(window[0] / size[0], window[1] / size[1])
    scale = max(fill, float(np.exp(rng.uniform(min(0.0, math.log(fill)), 0.0))) if rescale else 1.0)
    width, height = (min(1.0, part / (side * scale)) for part, side in zip(window, size, strict=True))
    left, top = (1 - width) * rng.random(), (1 - height) * rng.random()
    if scale == 1:  # whole pixels: nothing is resampled
        left, top = round(left * size[0]) / size[0], round(top * size[1]) / size[1]
    return left, top, left + width, top + height


def show(picture: np.ndarray, size: Size, crop: Crop, smooth: bool = True) -> np.ndarray:
    """What a crop shows of (H, W, 4) uint8, at a size: (height, width, 4) uint8."""
    height, width = picture.shape[:2]
    box = crop[0] * width, crop[1] * height, crop[2] * width, crop[3] * height
    whole = [round(edge) for edge in box]
    exact = max(abs(edge - near) for edge, near in zip(box, whole, strict=True)) < 1e-6
    if exact and (whole[2] - whole[0], whole[3] - whole[1]) == size:
        return picture[whole[1] : whole[3], whole[0] : whole[2]]
    kind = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    if (picture[..., 3] == 255).all():  # without alpha, which Pillow multiplies in and divides out again
        seen = Image.fromarray(np.ascontiguousarray(picture[..., :3])).resize(size, kind, box=box)
        return np.asarray(seen.convert("RGBA"))
    return np.asarray(Image.fromarray(picture).resize(size, kind, box=box))


def _size(area: int, ratio: float, multiple: int) -> Size:
    """The sides nearest to a ratio and, with a quarter of the weight, to an area."""
    wanted = (area / multiple) ** 2
    columns = range(1, math.ceil(math.sqrt(wanted * max(ratio, 1 / ratio))) + 2)
    sides: Sequence[Size] = [(c, max(1, r)) for c in columns for r in (math.floor(c / ratio), math.ceil(c / ratio))]

    def distance(size: Size) -> float:
        return abs(math.log(size[0] / size[1] / ratio)) + abs(math.log(size[0] * size[1] / wanted)) / 4

    found = min(sides, key=distance)
    return found[0] * multiple, found[1] * multiple
