"""Stickers: whether a picture's alpha is the outline of what was asked.

A caption says roughly where things stand and how large they are, so that the scene's own picture is fitted first: each
thing may be where it is asked or where the judge found it, and a few pixels from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fourstroke.world.graph import Object, Scene
from fourstroke.world.judging.judge import Detection, Judge, Verdict, match
from fourstroke.world.render import render_scene

REACH, ROUNDS = 3, 2
"""Pixels of 128 that a thing may be off, and how often each place and size is fitted."""
GOOD = 0.9
"""The overlap from which an outline counts as right."""


@dataclass(frozen=True, kw_only=True)
class StickerVerdict:
    """What of a sticker is right."""

    iou: float
    """Intersection of both alphas over their union, soft edges included, 0 to 1; 0 for a picture without alpha."""
    facts: Verdict

    @property
    def good(self) -> bool:
        """Whether the outline is right."""
        return self.iou >= GOOD


def judge_sticker(judge: Judge, image: np.ndarray, scene: Scene) -> StickerVerdict:
    """Judge a picture, (H, W, 3 or 4) uint8, of the scene's size; raises ValueError for another size."""
    if image.shape[:2] != (scene.height, scene.width):
        raise ValueError(f"the picture is {image.shape[1]}x{image.shape[0]}, the scene {scene.width}x{scene.height}")
    facts = judge.verdict(image, scene)
    if image.shape[2] == 3:
        return StickerVerdict(iou=0.0, facts=facts)
    alpha = image[..., 3].astype(np.float32)
    found = match(scene.objects, judge.find(image, scene)[0])
    starts = (scene, replace(scene, objects=_moved(scene.objects, found)))
    return StickerVerdict(iou=max(_fitted(alpha, start) for start in starts), facts=facts)


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two alphas (H, W) of one scale: the sum of the lower over that of the higher values.

    1 of two empty ones.
    """
    union = float(np.maximum(first, second).sum())
    return float(np.minimum(first, second).sum()) / union if union else 1.0


def _moved(objects: Sequence[Object], found: Sequence[Detection | None]) -> tuple[Object, ...]:
    """The objects where, and as large as, they were found."""
    pairs = zip(objects, found, strict=True)
    return tuple(o if d is None else replace(o, x=d.x, y=d.y, size=d.size) for o, d in pairs)


def _fitted(alpha: np.ndarray, scene: Scene) -> float:
    """The best overlap with the scene's picture, by moving and scaling one thing after the other."""
    best, side = _overlap_of(alpha, scene), min(scene.width, scene.height)
    reach = max(1, round(REACH * side / 128))
    lengths = {"x": scene.width, "y": scene.height, "size": side}
    for _ in range(ROUNDS):
        for index in range(len(scene.objects)):
            for name, length in lengths.items():
                thing = scene.objects[index]
                for step in (s for s in range(-reach, reach + 1) if s):
                    tried = replace(thing, **{name: max(4 / side, getattr(thing, name) + step / length)})
                    objects = (*scene.objects[:index], tried, *scene.objects[index + 1 :])
                    moved = replace(scene, objects=objects)
                    if (value := _overlap_of(alpha, moved)) > best:
                        best, scene = value, moved
    return best


def _overlap_of(alpha: np.ndarray, scene: Scene) -> float:
    return overlap(alpha, render_scene(scene)[..., 3].astype(np.float32))
