"""Where an edit may change the picture; outside, the pictures before and after are the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fourstroke.world.edits.graph import Edit
from fourstroke.world.graph import Background, Object, Scene, Sign
from fourstroke.world.lettering import stamp_of
from fourstroke.world.render import render_scene

MARGIN = 0.05
"""Around what changes, for its shadow, in fractions of the picture's shorter side."""


def allowed(edit: Edit) -> np.ndarray:
    """(height, width) uint8, 255 where the picture may change: around what does, or all but what stands before it."""
    scene = edit.after
    mask = np.zeros((scene.height, scene.width), bool)
    if edit.kind == "background":
        mask = render_scene(replace(scene, background=Background(kind="transparent")))[..., 3] < 255
    elif edit.kind == "words":
        for sign in _signs(edit):
            height, width = stamp_of(sign, scene.width, scene.height).kept.shape
            around = 2 * MARGIN * min(scene.width, scene.height) if _moves_board(edit) else 0
            _fill(mask, sign.x * scene.width, sign.y * scene.height, width + around, height + around)
    else:
        for part, indices in ((edit.before[0], edit.old), (edit.after, edit.new)):
            for index in indices:
                _mark(mask, scene, part.objects[index])
    return mask.astype(np.uint8) * 255


def _signs(edit: Edit) -> list[Sign]:
    return [sign for sign in (edit.before[0].sign, edit.after.sign) if sign is not None]


def _moves_board(edit: Edit) -> bool:
    """Whether the new word has a board of another size, so that the shadow changes too."""
    return len({(sign.x, sign.width) for sign in _signs(edit)}) > 1


def _mark(mask: np.ndarray, scene: Scene, entry: Object) -> None:
    length = (entry.size + 2 * MARGIN) * min(scene.width, scene.height)
    _fill(mask, entry.x * scene.width, entry.y * scene.height, length, length)


def _fill(mask: np.ndarray, x: float, y: float, width: float, height: float) -> None:
    left, top = max(0, int(np.floor(x - width / 2))), max(0, int(np.floor(y - height / 2)))
    mask[top : int(np.ceil(y + height / 2)), left : int(np.ceil(x + width / 2))] = True
