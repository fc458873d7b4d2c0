"""Scenes on a lattice: things and signs of few sizes that begin at few places, and letters of one pitch.

A latent is 16 pixels wide. Where a thing may stand anywhere and have any size, a network has to learn a new set of
latents for every pixel that it is moved by; on a lattice of 8 pixels it stands in four ways.
"""

from __future__ import annotations

from dataclasses import replace

from fourstroke.world.graph import Object, Scene, Sign

EDGE = 0.25
"""A size is rounded down to the lattice unless it is nearer than this to the next step: what is close stays apart."""


def snapped(scene: Scene, step: int) -> Scene:
    """The scene with things in squares of whole steps, a quarter of a step smaller than these, and its sign on it.

    Where captions speak of sizes, or one thing hides a part of another, things stay as they were drawn.
    """
    free = scene.layout == "front" or any(thing.scale for thing in scene.objects)
    objects = scene.objects if free else tuple(_thing(thing, scene, step) for thing in scene.objects)
    return replace(scene, objects=objects, sign=scene.sign and _sign(scene.sign, scene, step))


def _thing(thing: Object, scene: Scene, step: int) -> Object:
    side = min(scene.width, scene.height)
    square = max(2, int(thing.size * side / step + EDGE)) * step
    x, y = (_centre(at, square, length, step) for at, length in ((thing.x, scene.width), (thing.y, scene.height)))
    return replace(thing, x=x, y=y, size=(square - step / 4) / side)


def _centre(at: float, square: int, length: int, step: int) -> float:
    """Of a square that is moved to the lattice and stays within the picture's `length`, as a fraction of that."""
    start = round((at * length - square / 2) / step) * step
    return (max(0, min(start, (length - square) // step * step)) + square / 2) / length


def _sign(sign: Sign, scene: Scene, step: int) -> Sign:
    """Two steps a letter, three in Chinese, fewer where the word is too long; a board of whole steps with a margin."""
    room, letters = scene.width - 3 * step, len(sign.word)
    wanted = (3, 2.5, 2) if sign.script == "chinese" else (2, 1.5)
    pitch = next((steps * step for steps in wanted if steps * step * letters <= room), room / letters)
    height = (6 if sign.place == "center" else 4) * step
    y = {"center": scene.height / 2, "top": step + height / 2, "bottom": scene.height - step - height / 2}[sign.place]
    width = pitch * letters + 2 * step
    return replace(
        sign,
        y=y / scene.height,
        width=width / scene.width,
        height=height / scene.height,
        pitch=pitch / scene.width,
    )
