"""Things of the second edition on their spots: alone or as groups of equals, with sizes against each other.

Sizes are multiples of 1/64 of the picture's shorter side, so that few pictures of a thing serve many scenes, and at
least 12/64, which is 24 pixels of 128.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fourstroke.chance import pick, uniform
from fourstroke.world.atlas import sprite_picture
from fourstroke.world.compose import Spot
from fourstroke.world.graph import Background, Object, Scale, Style
from fourstroke.world.palette import BACKGROUND_COLOURS
from fourstroke.world.stamps import object_stamp

STEP = 64
SMALLEST = 12
NARROWEST = 0.1
"""Least length of the shorter side of a thing's box, so that long ones are not too small to be known."""
ALIKE = 0.5
"""Greatest share of a thing that may look like a colour behind it."""
HIDDEN = 0.06, 0.4
"""Least and greatest share of the farther thing that the nearer one hides."""

Form = Literal["row", "column", "cluster"]
Box = tuple[float, float, float, float]
"""Centre x, centre y, width and height, in fractions of the picture."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A thing, or ``number`` equal ones that stand together."""

    name: str
    colour: str | None
    style: Style
    number: int = 1
    form: Form = "row"
    scale: Scale | None = None

    def recognisable(self, size: float, background: Background) -> bool:
        """Whether the thing can be told at this size and from what is behind it."""
        if self.colour is not None:
            return True
        sides = sprite_picture(self.name, self.style).size
        faint = any(alike(self.name, self.style, colour) > ALIKE for colour in background.colours)
        return size * min(sides) / max(sides) >= NARROWEST and not faint

    def objects(self, spots: Sequence[Spot]) -> list[Object]:
        """The things on their spots."""
        kind: Literal["sprite", "shape"] = "sprite" if self.colour is None else "shape"
        return [
            Object(
                name=self.name,
                kind=kind,
                colour=self.colour,
                x=round(x, 4),
                y=round(y, 4),
                size=size,
                style=self.style,
                scale=self.scale,
            )
            for x, y, size in spots
        ]


def draw_size(rng: np.random.Generator, low: float, high: float) -> float:
    """A size from ``low`` to ``high``, in steps of 1/64; the step below ``high`` where none lies between."""
    last = int(high * STEP + 1e-6)
    first = min(last, math.ceil(low * STEP - 1e-6))
    return (first + int(rng.random() * (last - first + 1))) / STEP


def draw_form(
    rng: np.random.Generator, number: int, width: float, height: float, smallest: float = SMALLEST / STEP
) -> Form:
    """How ``number`` equal things can stand in a box, so that none is smaller than ``smallest``."""
    fitting: list[Form] = [
        form for form in ("row", "column", "cluster") if 0.93 * _cell(number, form, width, height) >= smallest
    ]
    return pick(rng, [form for form in fitting if form != "cluster" or number > 2])


def pack(rng: np.random.Generator, number: int, form: Form, box: Box, largest: float = 0.44) -> list[Spot]:
    """Spots of one size for ``number`` things in a box, apart from each other."""
    x, y, width, height = box
    cell = _cell(number, form, width, height)
    size = draw_size(rng, max(SMALLEST / STEP, min(0.82 * cell, largest - 0.06)), min(0.93 * cell, largest))
    slack = max(0.0, 0.97 * cell - size) / 2
    pitch = min(cell, 1.18 * size)
    if form == "cluster":
        places = [(-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)]
        if number == 3:
            places = pick(rng, ([(0.0, -0.5), *places[2:]], [*places[:2], (0.0, 0.5)]))
    else:
        places = [(place - (number - 1) / 2, 0.0) for place in range(number)]
        if form == "column":
            places = [(down, along) for along, down in places]
    slack = min(slack, 0.03, (pitch - size) / 2)
    return [
        (x + pitch * dx + uniform(rng, -slack, slack), y + pitch * dy + uniform(rng, -slack, slack), size)
        for dx, dy in places
    ]


def draw_overlap(
    rng: np.random.Generator, nearer: Unit, farther: Unit, width: int, height: int
) -> tuple[Spot, Spot] | None:
    """Spots of two things of which the nearer one hides a part of the other, seen by their pixels; None if none is."""
    side = min(width, height)
    for _ in range(30):
        back, front = draw_size(rng, 0.5, 0.58), draw_size(rng, 0.34, 0.42)
        aside = pick(rng, (-1, 1)) * uniform(rng, 0.0, 0.3)
        down = uniform(rng, 0.14, 0.3)
        x, y = 0.5 - aside / 2 + uniform(rng, -0.03, 0.03), 0.42 + uniform(rng, -0.04, 0.02)
        if max(abs(x + aside - 0.5), abs(y + down - 0.5)) + front / 2 > 0.49 or abs(x - 0.5) + back / 2 > 0.49:
            continue
        if y + down + front / 2 < y + back / 2 + 0.04:
            continue  # it would not stand lower
        if hides(_silhouette(farther, back), _silhouette(nearer, front), aside, down):
            across, along = side / width, side / height
            return (
                (0.5 + (x + aside - 0.5) * across, 0.5 + (y + down - 0.5) * along, front),
                (0.5 + (x - 0.5) * across, 0.5 + (y - 0.5) * along, back),
            )
    return None


def _cell(number: int, form: Form, width: float, height: float) -> float:
    """The side of the square that each thing has for itself."""
    across, down = {"row": (number, 1), "column": (1, number), "cluster": (2, 2)}[form]
    return min(width / across, height / down)


def _silhouette(unit: Unit, size: float) -> np.ndarray:
    return silhouette(unit.name, unit.colour, unit.style, round(size * STEP))


@functools.lru_cache(maxsize=4096)
def silhouette(name: str, colour: str | None, style: str, size: int) -> np.ndarray:
    """Where the thing covers more than half of a pixel, (2 * STEP, 2 * STEP) bool, the thing in the middle."""
    alpha = object_stamp.__wrapped__(name, colour, size, style).planes[3] > 128
    grid = np.zeros((2 * STEP, 2 * STEP), bool)
    top, left = STEP - alpha.shape[0] // 2, STEP - alpha.shape[1] // 2
    grid[top : top + alpha.shape[0], left : left + alpha.shape[1]] = alpha
    return grid


@functools.lru_cache(maxsize=4096)
def alike(name: str, style: str, colour: str) -> float:
    """The share of a thing's pixels that are close to a background's colour, within 45 of 441."""
    pixels = np.asarray(sprite_picture(name, style), np.float32)
    close = np.linalg.norm(pixels[..., :3] - np.asarray(BACKGROUND_COLOURS[colour], np.float32), axis=2) < 45
    return float((close * pixels[..., 3]).sum() / pixels[..., 3].sum())


def hides(farther: np.ndarray, nearer: np.ndarray, aside: float, down: float) -> bool:
    """Whether a silhouette that stands so many sides of the picture aside and down hides a fair part of the other."""
    shift = round(down * STEP), round(aside * STEP)
    hidden = float((farther & np.roll(nearer, shift, (0, 1))).sum() / farther.sum())
    return HIDDEN[0] <= hidden <= HIDDEN[1]
