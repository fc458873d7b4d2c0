"""Dead leaves: pictures with the statistics of photographs, drawn from a seed, to train autoencoders without any.

Lee, Mumford and Huang, "Occlusion models for natural images", International Journal of Computer Vision 41 (2001):
opaque shapes that fall on one another, their sizes by a power law, have the scale invariance, the edges and the
heavy tails of natural pictures. Ours differ in shape (discs, polygons, sticks), are shaded by a gradient each, and
carry textures with spectra of 1 / f^b. A slight blur and grain stand for the lens and the sensor. What is not in the
paper is our choice.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image, ImageDraw

from fourstroke.data.sample import Dataset, Hints, Record, Sample, Split
from fourstroke.ranges import Count, TrainingSeed, check_ranges

OVERSAMPLING = 2
"""Shapes are drawn on a canvas so many times as large, and averaged."""
EDITION = 1
"""Raised whenever a seed draws another picture."""
HELD_OUT = 1 << 40
"""Seeds from here on are those of held-out pictures."""
TEXTURES = 6
FIRST_LARGE = 12
"""So many of the shapes that fall first are large, so that little of the background is left."""


@dataclass(frozen=True, kw_only=True)
class LeavesData:
    """Pictures without captions; sample i is the same on every machine."""

    kind: ClassVar[str] = "leaves"
    samples: Count = 1_000_000
    size: Count = 256
    """Pixels a side."""
    seed: TrainingSeed = 0

    def __post_init__(self) -> None:
        check_ranges(self)

    def open(self, split: Split = "train") -> Dataset:
        """The pictures of a split; those of the two are never the same."""
        return Leaves(self, split)


class Leaves:
    """Drawn when asked for."""

    name = "leaves"

    def __init__(self, config: LeavesData, split: Split) -> None:
        self.config, self.first = config, HELD_OUT if split == "heldout" else 0
        self.hints = Hints(shapes=[((config.size, config.size), ())])

    def __len__(self) -> int:
        return self.config.samples

    def record(self, index: int) -> Record:
        """Its number and size."""
        return Record(name=f"{self.first + index}", size=(self.config.size, self.config.size))

    def sample(self, index: int) -> Sample:
        """The drawn picture, opaque."""
        picture = draw(self.first + index, self.config.size, self.config.seed)
        opaque = np.full((*picture.shape[:2], 1), 255, np.uint8)
        return Sample(record=self.record(index), image=np.concatenate([picture, opaque], 2))

    def digest(self, index: int) -> str:
        """Of what draws it."""
        parts = f"leaves {EDITION} {self.config.size} {self.config.seed} {self.first + index}"
        return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()


def draw(index: int, size: int, seed: int = 0) -> np.ndarray:
    """Picture `index` of a seed, (size, size, 3) uint8."""
    rng = np.random.default_rng((seed, index, EDITION))
    side = size * OVERSAMPLING
    leaf = _fallen(rng, side)
    count = int(leaf.max()) + 1
    base, slope = _colours(rng, count), rng.normal(0, 40, (2, count, 1)).astype(np.float32)
    where = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    picture = base[leaf] + slope[0][leaf] * where[:, None, None] + slope[1][leaf] * where[None, :, None]
    # an array of textures is looked up by the leaf's kind, and tinted by the leaf
    textures = np.stack([texture(rng, side, steepness) for steepness in rng.uniform(0.6, 2.4, TEXTURES)])
    kinds, strength = rng.integers(TEXTURES, size=count), rng.exponential(14, count).astype(np.float32)
    rows, columns = np.ogrid[:side, :side]
    grain = textures[kinds[leaf], rows, columns] * strength[leaf]
    picture += grain[..., None] * rng.uniform(0.7, 1.3, (count, 3)).astype(np.float32)[leaf]
    picture += 12 * rng.random() * texture(rng, side, 2.4)[..., None]  # light over all of it
    picture = _blurred(picture, rng.uniform(0.3, 1.6))
    picture = picture.reshape(size, OVERSAMPLING, size, OVERSAMPLING, 3).mean((1, 3))
    picture += rng.standard_normal((size, size, 3), np.float32) * rng.exponential(1.5)
    return picture.clip(0, 255).astype(np.uint8)


def _fallen(rng: np.random.Generator, side: int) -> np.ndarray:
    """Which shape is seen at each place, (side, side): 0 is the background, n the n-th that fell."""
    count, power = int(rng.integers(60, 500)), rng.uniform(2.2, 3.2)
    least, most = 2.0, side * rng.uniform(0.15, 0.5)
    spread = rng.random(count) * (most ** (1 - power) - least ** (1 - power)) + least ** (1 - power)
    radii = spread ** (1 / (1 - power))
    radii[:FIRST_LARGE] = rng.uniform(0.2, 0.6, FIRST_LARGE) * side
    canvas = Image.new("I", (side, side))
    pen = ImageDraw.Draw(canvas)
    for number, radius in enumerate(radii.tolist(), 1):
        (x, y), form = rng.uniform(0, side, 2).tolist(), int(rng.integers(4))
        if form == 0:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=number)
        elif form == 3 and radius > 4:
            angle = rng.uniform(0, np.pi)
            dx, dy = 2 * radius * np.cos(angle), 2 * radius * np.sin(angle)
            pen.line((x - dx, y - dy, x + dx, y + dy), fill=number, width=max(2, int(radius / 4)))
        else:
            corners = int(rng.integers(3, 9))
            angles, reach = np.sort(rng.uniform(0, 2 * np.pi, corners)), radius * rng.uniform(0.5, 1.2, corners)
            flat = rng.uniform(0.4, 1)
            outline = np.stack([x + reach * np.cos(angles), y + flat * reach * np.sin(angles)], 1)
            pen.polygon([tuple(corner) for corner in outline.tolist()], fill=number)
    return np.asarray(canvas)


def _colours(rng: np.random.Generator, count: int) -> np.ndarray:
    """A colour for each shape, (count, 3) float32, around a few that the picture has in common."""
    palette = rng.uniform(0, 255, (int(rng.integers(3, 9)), 3))
    grey = palette.mean(1, keepdims=True)
    palette = grey + (palette - grey) * rng.uniform(0.2, 0.9)
    return (palette[rng.integers(len(palette), size=count)] + rng.normal(0, 18, (count, 3))).astype(np.float32)


def texture(rng: np.random.Generator, side: int, steepness: float) -> np.ndarray:
    """Noise with a power spectrum of 1 / f^steepness, (side, side) float32 of mean 0 and deviation 1."""
    spectrum = rng.standard_normal((2, side, side // 2 + 1), np.float32)
    shaped = (spectrum[0] + 1j * spectrum[1]) * _frequencies(side) ** (-steepness / 2)
    shaped[0, 0] = 0
    noise = np.fft.irfft2(shaped, (side, side)).astype(np.float32)
    return noise / noise.std()


@functools.lru_cache(maxsize=4)
def _frequencies(side: int) -> np.ndarray:
    found = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]).astype(np.float32)
    found[0, 0] = 1
    return found


def _blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    """(h, w, c) through a Gaussian of `sigma` pixels, the edges mirrored."""
    reach = int(4 * sigma + 0.5)
    window = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2).astype(np.float32)
    window /= window.sum()
    for axis in (0, 1):
        pad = [(reach, reach) if axis == other else (0, 0) for other in range(3)]
        wide, length = np.pad(picture, pad, mode="symmetric"), picture.shape[axis]
        picture = sum(
            weight * wide.take(range(place, place + length), axis) for place, weight in enumerate(window.tolist())
        )
    return picture
