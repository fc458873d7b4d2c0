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
    """The scene with its things' corners and sizes, and its sign, at multiples of `step` pixels.

    Things whose size is spoken of keep it, as does what stands in front of something: only their corners move, by half
    a step at most.
    """
    objects = tuple(_thing(thing, scene, step) for thing in scene.objects)
    return replace(scene, objects=objects, sign=scene.sign and _sign(scene.sign, scene, step))


def _thing(thing: Object, scene: Scene, step: int) -> Object:
    side, size = min(scene.width, scene.height), thing.size
    if thing.scale is None and scene.layout != "front":
        size = max(2, int(size * side / step + EDGE)) * step / side
    x, y = (_centre(at, size * side, length, step) for at, length in ((thing.x, scene.width), (thing.y, scene.height)))
    return replace(thing, x=x, y=y, size=size)


def _centre(at: float, size: float, length: int, step: int) -> float:
    """Of something `size` pixels long whose start is moved to the lattice, as a fraction of the picture's `length`."""
    start = round((at * length - size / 2) / step) * step
    return (min(start, (length - size) // step * step) + size / 2) / length if size <= length else at


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
