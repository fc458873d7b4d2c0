"""Pictures of things at a size, ready to be laid on a canvas: made once and kept."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

from fourstroke.world.atlas import sprite_picture
from fourstroke.world.palette import RGB, SHAPE_COLOURS

Array = np.ndarray


class Stamp:
    """Something ready to be laid on a canvas; stamps are compared by identity."""

    def __init__(self, planes: Array) -> None:
        self.planes = planes
        """(4, h, w) float32 in 0..255, premultiplied."""
        self.kept = 1.0 - planes[3] / 255.0
        """What stays of the canvas below, (h, w) in 0..1."""


@functools.lru_cache(maxsize=768)
def object_stamp(name: str, colour: str | None, size: int, style: str = "flat") -> Stamp:
    """A sprite (no colour) of a style, or a shape, whose longer side is ``size`` pixels."""
    if colour is None:
        picture = _premultiplied(name, style)
        scale = size / max(picture.size)
        shape = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        pixels = np.asarray(picture.resize(shape, Image.Resampling.LANCZOS), np.float32)
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        return Stamp(np.minimum(planes, planes[3]))
    return Stamp(tinted(shape_coverage(name, size), SHAPE_COLOURS[colour]))


@functools.lru_cache(maxsize=512)
def _premultiplied(name: str, style: str) -> Image.Image:
    return sprite_picture(name, style).convert("RGBa")


def shape_coverage(name: str, size: int) -> Array:
    """How much of each pixel the shape covers, (size, size) in 0..1, from the distance to its outline in pixels."""
    half = size / 2
    axis = np.arange(size, dtype=np.float32) + 0.5 - half
    x, y = axis[None, :], axis[:, None]
    if name == "circle":
        inside = half - np.hypot(x, y)
    elif name == "square":
        inside = 0.88 * half - np.maximum(np.abs(x), np.abs(y))
    elif name == "diamond":
        inside = (half - np.abs(x) - np.abs(y)) / np.sqrt(2.0)
    elif name == "triangle":
        top, bottom = -0.92 * half, 0.88 * half
        slope = (bottom - top) / half
        inside = np.minimum((y - top - slope * np.abs(x)) / np.hypot(slope, 1.0), bottom - y)
    else:
        raise ValueError(f"unknown shape {name!r}: choose circle, square, triangle or diamond")
    return np.clip(inside + 0.5, 0.0, 1.0).astype(np.float32)


def tinted(coverage: Array, colour: RGB, shade: float = 0.09) -> Array:
    """Premultiplied planes of one colour, a little lighter at the top and darker at the bottom by ``shade``."""
    tone = np.linspace(1 + shade, 1 - shade, coverage.shape[0], dtype=np.float32)[:, None]
    opaque = np.minimum(np.asarray(colour, np.float32)[:, None, None] * tone, 255.0)
    return np.concatenate([opaque * coverage, 255.0 * coverage[None]]).astype(np.float32)
