"""Scenes on a lattice: things of few sizes that begin at few places, and letters of one size and pitch.

A latent is 16 pixels wide. Where a thing may stand anywhere and have any size, a network has to learn a new set of
latents for every pixel that it is moved by; on a lattice of 8 pixels it stands in four ways, on one of 16 in one.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

from fourstroke.world.graph import Object, Scene, Sign
from fourstroke.world.units import STEP, hides, silhouette

SQUARES = 32, 64, 96
"""Sides of the squares that things stand in; the largest is for what is nearly as large by itself."""
GROWTH = 28, 14, 8, 4
"""By how much things may grow to fill a square: the first that keeps all apart."""
NEARLY = 8
"""The same of the largest square, and where captions call things small and large.

All of these are pixels of pictures whose shorter side is under 256."""
SIDE = 128
"""Of so many more pixels, squares and the lattice of things are as large again; letters and boards stay as they are."""
GAP = 1.12
"""Sizes of a thing from the middle of one to that of an equal one beside it, about."""
LATENT = 16
"""Pixels of a latent's side."""
BOARD = 40
"""Height in pixels of every board; its middle is that of a row of latents."""
PITCHES = {"latin": (16, 12), "cyrillic": (16, 12), "chinese": (32, 24, 20, 16)}
"""Pixels that a letter may take, the wanted ones first."""
Box = tuple[float, float, float, float]


def snapped(scene: Scene, step: int) -> Scene | None:
    """The scene with things in `SQUARES` that begin at whole steps, a quarter of a step smaller, and its sign on it.

    Equal things stand square by square. None if the lattice brings things together that stood apart, or the nearer
    thing no longer hides a fair part of the other. What lies on the lattice already stays as it is.
    """
    scene = replace(scene, sign=scene.sign and _sign(scene.sign, scene))
    step *= growth_of(scene.width, scene.height)
    scales = {thing.scale for thing in scene.objects} - {None}
    if scene.layout == "front":
        return _front(scene, step)
    growth = (NEARLY,) if scales else GROWTH
    grown = (_grown(scene, step, by) for by in growth)
    return next((found for found in grown if _is_apart(found, step)), None)


def _grown(scene: Scene, step: int, growth: int) -> Scene:
    things = list(scene.objects)
    for unit in scene.units:
        alike = [things[index] for index in unit]
        for index, placed in zip(unit, _placed(alike, scene, step, _square(alike[0], scene, growth)), strict=True):
            things[index] = placed
    return replace(scene, objects=tuple(things))


def _placed(things: list[Object], scene: Scene, step: int, square: int) -> list[Object]:
    """Equal things, each in a square of its own beside the next ones."""
    side = min(scene.width, scene.height)
    pitch = GAP * things[0].size * side
    across = _centres([thing.x for thing in things], square, scene.width, step, pitch)
    down = _centres([thing.y for thing in things], square, scene.height, step, pitch)
    size = (square - step / 4) / side
    return [replace(thing, x=x, y=y, size=size) for thing, x, y in zip(things, across, down, strict=True)]


def _square(thing: Object, scene: Scene, growth: int) -> int:
    times = growth_of(scene.width, scene.height)
    pixels = thing.size * min(scene.width, scene.height) / times
    small, large, largest = SQUARES
    return times * (largest if pixels + NEARLY >= largest else large if pixels + growth >= large else small)


def growth_of(width: int, height: int) -> int:
    """How many times as large as `SQUARES` those of a picture are."""
    return max(1, min(width, height) // SIDE)


def _centres(places: list[float], square: int, length: int, step: int, pitch: float) -> list[float]:
    """Middles of squares within a picture's `length`, the first of which begins at a whole step.

    `places` are those that the things had, fractions of the length, some `pitch` pixels apart or half as many.
    """
    first, last = min(places), max(places)
    halves = [round(2 * (place - first) * length / pitch) for place in places]
    span = square * (max(halves) / 2 + 1)
    wanted = round(((first + last) / 2 * length - span / 2) / step) * step
    start = max(0.0, min(wanted, (length - span) // step * step))
    return [(start + square * (half + 1) / 2) / length for half in halves]


def _front(scene: Scene, step: int) -> Scene | None:
    """Both in large squares, the nearer one lower, in the place next to its own where it hides a fair part."""
    square, side = SQUARES[1] * growth_of(scene.width, scene.height), min(scene.width, scene.height)
    farther, nearer = (_placed([thing], scene, step, square)[0] for thing in scene.objects)
    behind, before = (silhouette(t.name, t.colour, t.style, round(t.size * STEP)) for t in (farther, nearer))
    wanted = scene.objects[1]
    places = itertools.product(range(0, scene.width - square + 1, step), range(0, scene.height - square + 1, step))
    spots = [((x + square / 2) / scene.width, (y + square / 2) / scene.height) for x, y in places]
    for x, y in sorted(spots, key=lambda spot: (spot[0] - wanted.x) ** 2 + (spot[1] - wanted.y) ** 2):
        aside, down = (x - farther.x) * scene.width / side, (y - farther.y) * scene.height / side
        if down > 0 and hides(behind, before, aside, down):
            return replace(scene, objects=(farther, replace(nearer, x=x, y=y)))
    return None


def _sign(sign: Sign, scene: Scene) -> Sign:
    """A board half a latent wider than its word on either side, or off the picture; letters begin where latents do."""
    letters = len(sign.word)
    pitch = next((pitch for pitch in PITCHES[sign.script] if pitch * letters <= scene.width), scene.width / letters)
    width = pitch * letters + LATENT
    left = ((scene.width - width) // 2 - LATENT // 2) // LATENT * LATENT + LATENT // 2
    y = {"top": 1.5, "center": (scene.height // LATENT - 1) // 2 + 0.5, "bottom": scene.height / LATENT - 1.5}
    return replace(
        sign,
        x=(left + width / 2) / scene.width,
        y=y[sign.place] * LATENT / scene.height,
        width=width / scene.width,
        height=BOARD / scene.height,
        pitch=pitch / scene.width,
    )


def _is_apart(scene: Scene, step: int) -> bool:
    """Whether the squares of things lie in the picture and keep clear of each other and of the board."""
    boxes = [_box(thing, scene, step) for thing in scene.objects]
    if any(min(box) < -1e-6 or box[2] > scene.width + 1e-6 or box[3] > scene.height + 1e-6 for box in boxes):
        return False
    if (sign := scene.sign) is not None:
        x, y, across, down = sign.x * scene.width, sign.y * scene.height, sign.width * scene.width, BOARD
        boxes.append((x - across / 2, y - down / 2, x + across / 2, y + down / 2))
    return not any(itertools.starmap(_touch, itertools.combinations(boxes, 2)))


def _box(thing: Object, scene: Scene, step: int) -> Box:
    x, y = thing.x * scene.width, thing.y * scene.height
    half = (thing.size * min(scene.width, scene.height) + step / 4) / 2
    return x - half, y - half, x + half, y + half


def _touch(one: Box, other: Box) -> bool:
    return all(max(one[axis], other[axis]) < min(one[axis + 2], other[axis + 2]) - 1e-6 for axis in (0, 1))
