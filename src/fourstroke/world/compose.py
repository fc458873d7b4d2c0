"""Draws scenes by chance: what stands where, before what, in which light. Objects stay large, whole and apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fourstroke.chance import pick, pick_weighted, uniform
from fourstroke.world.graph import Background, Object, Relation, Scene, Sign
from fourstroke.world.palette import BACKGROUND_COLOURS, BOARD_COLOURS, INK_OF_BOARD, SHAPE_COLOURS, stands_out
from fourstroke.world.words import SIGN_FONTS

SHAPES = ("circle", "square", "triangle", "diamond")
TEXTURES = ("paper", "stripes", "dots", "checks")
LIGHTS = ("left", "right", "top", "vignette", "warm", "dusk")
BACKGROUND_KINDS: tuple[Literal["flat", "gradient", "horizon"], ...] = ("flat", "gradient", "horizon")
PREDICATES: tuple[Literal["left of", "right of", "above", "below"], ...] = ("left of", "right of", "above", "below")

Spot = tuple[float, float, float]
"""Centre x, centre y and size, in fractions of the picture."""


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """A layout with a spot for each object and the relations that follow from the spots."""

    layout: Literal["alone", "pair", "row", "column", "pyramid", "funnel"]
    spots: tuple[Spot, ...]
    relations: tuple[Relation, ...] = ()


def draw_background(rng: np.random.Generator, kinds: Sequence[float], textures: float, lights: float) -> Background:
    """A background; ``kinds`` weighs flat, gradient and horizon, the other two are shares."""
    names = tuple(BACKGROUND_COLOURS)
    kind = pick_weighted(rng, BACKGROUND_KINDS, kinds)
    colour = pick(rng, names)
    second = None if kind == "flat" else pick(rng, [name for name in names if name != colour])
    return Background(
        kind=kind,
        colour=colour,
        second=second,
        horizon=uniform(rng, 0.55, 0.75) if kind == "horizon" else None,
        texture=pick(rng, TEXTURES) if rng.random() < textures else "plain",
        light=pick(rng, LIGHTS) if rng.random() < lights else "even",
    )


def draw_titles(
    rng: np.random.Generator, count: int, sprites: Sequence[str], shape_share: float, background: Background
) -> list[tuple[str, str | None]]:
    """``count`` different things as (name, colour or None); shapes have colours that stand out from the background."""
    colours = [colour for colour in SHAPE_COLOURS if all(stands_out(colour, b) for b in background.colours)]
    titles: list[tuple[str, str | None]] = []
    while len(titles) < count:
        if rng.random() < shape_share:
            title: tuple[str, str | None] = (pick(rng, SHAPES), pick(rng, colours))
        else:
            title = (pick(rng, sprites), None)
        if title not in titles:
            titles.append(title)
    return titles


def arrange(rng: np.random.Generator, count: int, centred: float, lines: bool = True) -> Arrangement:
    """Spots for one, two or three objects; a lone object stands in the centre with probability ``centred``.

    Three stand in a line too unless ``lines`` is False.
    """
    if count == 1:
        return Arrangement(layout="alone", spots=(_alone(rng, centred),))
    if count == 2:
        predicate = pick(rng, PREDICATES)
        return Arrangement(
            layout="pair",
            spots=_pair(rng, predicate),
            relations=(Relation(subject=0, predicate=predicate, object=1),),
        )
    return pick(rng, (_row, _column, _pyramid, _funnel) if lines else (_pyramid, _funnel))(rng)


def arrange_beside_sign(rng: np.random.Generator, count: int, sign_place: str) -> Arrangement:
    """Spots for one or two objects in the part of the picture that a sign at the top or bottom leaves free."""
    y = 0.67 if sign_place == "top" else 0.33
    if count == 1:
        spot = (0.5 + uniform(rng, -0.05, 0.05), y + uniform(rng, -0.01, 0.01), uniform(rng, 0.48, 0.58))
        return Arrangement(layout="alone", spots=(spot,))
    left, right = (
        (x + uniform(rng, -0.01, 0.01), y + uniform(rng, -0.05, 0.05), uniform(rng, 0.38, 0.45)) for x in (0.27, 0.73)
    )
    if rng.random() < 0.5:
        return Arrangement(layout="pair", spots=(left, right), relations=(_relation(0, "left of", 1),))
    return Arrangement(layout="pair", spots=(right, left), relations=(_relation(0, "right of", 1),))


def draw_sign(rng: np.random.Generator, word: str, script: str, place: str, fonts: Sequence[str] = ()) -> Sign:
    """A sign with ``word`` at the ``center``, ``top`` or ``bottom``; the board is wide enough for the word.

    The font is one of ``fonts``, where the script has some of them.
    """
    fonts = tuple(font for font in SIGN_FONTS[script] if font in fonts) or tuple(SIGN_FONTS[script])
    board = pick(rng, tuple(BOARD_COLOURS))
    share = min(1.0, 0.55 + 0.09 * len(word)) * uniform(rng, 0.92, 1.0)
    return Sign(
        word=word,
        script=script,
        font=pick(rng, fonts),
        board=board,
        ink=INK_OF_BOARD[board],
        x=0.5,
        y={"center": 0.5, "top": 0.185, "bottom": 0.815}[place] + uniform(rng, -0.01, 0.01),
        width=round(0.9 * share, 4),
        height=uniform(rng, 0.34, 0.42) if place == "center" else uniform(rng, 0.25, 0.28),
    )


def build_objects(titles: Sequence[tuple[str, str | None]], arrangement: Arrangement) -> tuple[Object, ...]:
    """Puts each thing on its spot."""
    return tuple(
        Object(
            name=name,
            kind="sprite" if colour is None else "shape",
            colour=colour,
            x=round(x, 4),
            y=round(y, 4),
            size=round(size, 4),
        )
        for (name, colour), (x, y, size) in zip(titles, arrangement.spots, strict=True)
    )


def build_scene(
    width: int,
    height: int,
    background: Background,
    titles: Sequence[tuple[str, str | None]],
    arrangement: Arrangement | None,
    sign: Sign | None,
) -> Scene:
    """The scene of these parts; without an arrangement it shows the sign alone."""
    return Scene(
        width=width,
        height=height,
        layout="sign" if arrangement is None else arrangement.layout,
        background=background,
        objects=() if arrangement is None else build_objects(titles, arrangement),
        relations=() if arrangement is None else arrangement.relations,
        sign=sign,
    )


def _relation(subject: int, predicate: Literal["left of", "right of", "above", "below"], other: int) -> Relation:
    return Relation(subject=subject, predicate=predicate, object=other)


def _alone(rng: np.random.Generator, centred: float) -> Spot:
    if rng.random() < centred:
        return 0.5 + uniform(rng, -0.04, 0.04), 0.5 + uniform(rng, -0.04, 0.04), uniform(rng, 0.48, 0.66)
    across, along = uniform(rng, 0.29, 0.33), 0.5 + uniform(rng, -0.04, 0.04)
    size = uniform(rng, 0.48, 0.56)
    return (*pick(rng, ((across, along), (1 - across, along), (along, across), (along, 1 - across))), size)


def _pair(rng: np.random.Generator, predicate: str) -> tuple[Spot, Spot]:
    near, far = 0.265 + uniform(rng, -0.01, 0.015), 0.735 + uniform(rng, -0.015, 0.01)
    first, second = (near, far) if predicate in ("left of", "above") else (far, near)
    across = [0.5 + uniform(rng, -0.06, 0.06) for _ in range(2)]
    sizes = [uniform(rng, 0.38, 0.46) for _ in range(2)]
    if predicate in ("left of", "right of"):
        return (first, across[0], sizes[0]), (second, across[1], sizes[1])
    return (across[0], first, sizes[0]), (across[1], second, sizes[1])


def _line(rng: np.random.Generator) -> list[tuple[float, float, float]]:
    middle = 0.5 + uniform(rng, -0.06, 0.06)
    return [
        (along + uniform(rng, -0.005, 0.005), middle + uniform(rng, -0.02, 0.02), uniform(rng, 0.3, 0.33))
        for along in (0.18, 0.5, 0.82)
    ]


def _row(rng: np.random.Generator) -> Arrangement:
    relations = (_relation(0, "left of", 1), _relation(1, "left of", 2))
    return Arrangement(layout="row", spots=tuple(_line(rng)), relations=relations)


def _column(rng: np.random.Generator) -> Arrangement:
    relations = (_relation(0, "above", 1), _relation(1, "above", 2))
    return Arrangement(layout="column", spots=tuple((x, y, s) for y, x, s in _line(rng)), relations=relations)


def _corners(rng: np.random.Generator, first_y: float, others_y: float) -> tuple[Spot, ...]:
    places = ((0.5, first_y), (0.27, others_y), (0.73, others_y))
    return tuple(
        (x + uniform(rng, -0.02, 0.02), y + uniform(rng, -0.02, 0.02), uniform(rng, 0.31, 0.36)) for x, y in places
    )


def _pyramid(rng: np.random.Generator) -> Arrangement:
    relations = (_relation(0, "above", 1), _relation(0, "above", 2), _relation(1, "left of", 2))
    return Arrangement(layout="pyramid", spots=_corners(rng, 0.27, 0.73), relations=relations)


def _funnel(rng: np.random.Generator) -> Arrangement:
    relations = (_relation(0, "below", 1), _relation(0, "below", 2), _relation(1, "left of", 2))
    return Arrangement(layout="funnel", spots=_corners(rng, 0.73, 0.27), relations=relations)
