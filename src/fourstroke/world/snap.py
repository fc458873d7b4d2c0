"""Scenes on a lattice: things of few sizes that begin at few places, and letters of one size and pitch.

A latent is 16 pixels wide. Where a thing may stand anywhere and have any size, a network has to learn a new set of
latents for every pixel that it is moved by; on a lattice of 8 pixels it stands in four ways, on one of 16 in one.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

from fourstroke.world.graph import Object, Scene, Sign

SQUARES = 32, 64, 96
"""Pixels of the sides of the squares that things stand in; the largest is for what is nearly as large by itself."""
GROWTH = 28, 14, 8, 4
"""By how many pixels things may grow to fill a square: the first that keeps all apart."""
NEARLY = 8
"""The same of the largest square, and where captions call things small and large."""
LATENT = 16
"""Pixels of a latent's side."""
BOARD = 40
"""Height in pixels of every board; its middle is that of a row of latents."""
PITCHES = {"latin": (16, 12), "cyrillic": (16, 12), "chinese": (32, 24, 20, 16)}
"""Pixels that a letter may take, the wanted ones first."""
Box = tuple[float, float, float, float]


def snapped(scene: Scene, step: int) -> Scene | None:
    """The scene with things in `SQUARES` that begin at whole steps, a quarter of a step smaller, and its sign on it.

    Where one thing hides a part of another, or captions tell three sizes apart, they stay as they were drawn. None if
    the lattice brings things together that stood apart. What lies on the lattice already stays as it is.
    """
    scene = replace(scene, sign=scene.sign and _sign(scene.sign, scene))
    scales = {thing.scale for thing in scene.objects} - {None}
    if scene.layout == "front" or len(scales) > 2:
        return scene
    growth = (NEARLY,) if scales else GROWTH
    grown = (replace(scene, objects=tuple(_thing(each, scene, step, by) for each in scene.objects)) for by in growth)
    return next((found for found in grown if _is_apart(found, step)), None)


def _thing(thing: Object, scene: Scene, step: int, growth: int) -> Object:
    side = min(scene.width, scene.height)
    pixels = thing.size * side
    small, large, largest = SQUARES
    square = largest if pixels + NEARLY >= largest else large if pixels + growth >= large else small
    x, y = (_centre(at, square, length, step) for at, length in ((thing.x, scene.width), (thing.y, scene.height)))
    return replace(thing, x=x, y=y, size=(square - step / 4) / side)


def _centre(at: float, square: int, length: int, step: int) -> float:
    """Of a square that is moved to the lattice and stays within the picture's `length`, as a fraction of that."""
    start = round((at * length - square / 2) / step) * step
    return (max(0, min(start, (length - square) // step * step)) + square / 2) / length


def _sign(sign: Sign, scene: Scene) -> Sign:
    """A board half a latent wider than its word on either side; letters begin where latents do, or halfway."""
    letters, room = len(sign.word), scene.width - 1.5 * LATENT
    pitch = next((pitch for pitch in PITCHES[sign.script] if pitch * letters <= room), room / letters)
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
    """Whether the squares of things keep clear of each other and of the board."""
    boxes = [_box(thing, scene, step) for thing in scene.objects]
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
