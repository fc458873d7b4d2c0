"""What charts and decorations cover, in pixels: geometry that composing, drawing and checking share."""

from __future__ import annotations

import functools
import itertools

import numpy as np
from PIL import Image

from fourstroke.world.pages.graph import Box, Chart

FINE = 4
"""Samples a pixel along each axis, where edges slant."""


def slots(start: int, end: int, count: int) -> list[tuple[int, int]]:
    """``count`` equal spans of whole pixels."""
    cuts = [start + round((end - start) * i / count) for i in range(count + 1)]
    return list(itertools.pairwise(cuts))


def bar_boxes(chart: Chart, box: tuple[int, int, int, int]) -> list[Box]:
    """The pixels of each bar; the largest value spans the whole box."""
    left, top, right, bottom = box
    found = []
    most = max(chart.values)
    spans = slots(top, bottom, len(chart.values)) if chart.horizontal else slots(left, right, len(chart.values))
    for value, (a, b) in zip(chart.values, spans, strict=True):
        gap = max(1, round(0.17 * (b - a)))
        if chart.horizontal:
            found.append((left, a + gap, left + max(1, round((right - left) * value / most)), b - gap))
        else:
            found.append((a + gap, bottom - max(1, round((bottom - top) * value / most)), b - gap, bottom))
    return found


def line_points(chart: Chart, box: Box) -> list[tuple[float, float]]:
    """The points of a line chart."""
    left, top, right, bottom = box
    most = max(chart.values)
    across = [(a + b) / 2 for a, b in slots(left, right, len(chart.values))]
    return [(x, bottom - (bottom - top) * value / most) for x, value in zip(across, chart.values, strict=True)]


def pie_masks(values: tuple[float, ...], side: int) -> list[Image.Image]:
    """How much of each pixel the first slice, the first two, and so on cover; slices run clockwise from the top."""
    turn, inside = _disc(side)
    parts = np.cumsum(values) / sum(values)
    return [_mask(inside & (turn < (2.0 if i == len(values) - 1 else part))) for i, part in enumerate(parts)]


@functools.lru_cache(maxsize=256)
def disc_mask(width: int, height: int) -> Image.Image:
    """An ellipse that fills its box."""
    x, y = _axis(width)[None, :] / width, _axis(height)[:, None] / height
    return _mask(x * x + y * y <= 0.25)


@functools.lru_cache(maxsize=256)
def panel_mask(width: int, height: int, radius: int, border: int = 0) -> Image.Image:
    """A rectangle with round corners; only its outline of ``border`` pixels if that is not 0."""
    x, y = (np.abs(_axis(n, 1)) for n in (width, height))
    across, down = np.maximum(x - width / 2 + radius, 0)[None, :], np.maximum(y - height / 2 + radius, 0)[:, None]
    inside = radius - np.sqrt(across * across + down * down)
    straight = np.minimum((width / 2 - x)[None, :], (height / 2 - y)[:, None])
    inside = np.where((across > 0) & (down > 0), inside, np.minimum(straight, radius) if radius else straight)
    cover = np.clip(inside + 0.5, 0, 1)
    if border:
        cover = cover * np.clip(border + 0.5 - inside, 0, 1)
    return Image.fromarray((cover * 255 + 0.5).astype(np.uint8))


def line_mask(points: list[tuple[float, float]], box: Box, thick: float, dot: float) -> Image.Image:
    """A line of ``thick`` pixels through the points, with a dot of radius ``dot`` on each, over a box."""
    left, top, right, bottom = box
    x = np.arange(left, right, dtype=np.float32)[None, :] + 0.5
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5
    cover = np.zeros((bottom - top, right - left), np.float32)
    for (ax, ay), (bx, by) in itertools.pairwise(points):
        along = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2), 0, 1)
        away = np.sqrt((x - ax - along * (bx - ax)) ** 2 + (y - ay - along * (by - ay)) ** 2)
        cover = np.maximum(cover, thick / 2 + 0.5 - away)
    for ax, ay in points:
        cover = np.maximum(cover, dot + 0.5 - np.sqrt((x - ax) ** 2 + (y - ay) ** 2))
    return Image.fromarray((np.clip(cover, 0, 1) * 255 + 0.5).astype(np.uint8))


@functools.lru_cache(maxsize=128)
def _disc(side: int) -> tuple[np.ndarray, np.ndarray]:
    """For each fine sample of a disc's box: its turn from the top, 0..1, and whether it lies inside."""
    axis = _axis(side)
    x, y = axis[None, :], axis[:, None]
    turn = np.round(np.arctan2(x, -y + 0 * x) / (2 * np.pi) % 1.0, 6)
    return turn, x * x + y * y <= side * side / 4


def _axis(length: int, fine: int = FINE) -> np.ndarray:
    """Distances of samples from the middle of a length, in pixels."""
    return (np.arange(length * fine) + 0.5) / fine - length / 2


def _mask(inside: np.ndarray) -> Image.Image:
    h, w = (n // FINE for n in inside.shape)
    counts = inside.reshape(h, FINE, w, FINE).sum((1, 3))
    return Image.fromarray((counts * 255 // FINE**2).astype(np.uint8))
