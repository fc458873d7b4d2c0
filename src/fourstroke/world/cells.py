"""What stands at each cell of a picture, as the scene graph says: things, colours, styles, and the letters of signs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fourstroke.world.atlas import STYLES
from fourstroke.world.compose import SHAPES
from fourstroke.world.graph import Scene
from fourstroke.world.lettering import letter_boxes
from fourstroke.world.palette import BACKGROUND_COLOURS, SHAPE_COLOURS
from fourstroke.world.world import World

UNKNOWN = -100
"""The label of what the graph does not say; cross entropy passes over it."""
BACKGROUND, SIGN = "background", "sign"
SQUARE = 8
"""Pixels of a side of the squares that letters are looked for in."""
COVERED = 0.25
"""Least share of a square that a letter's box must cover for the letter to stand there."""


class CellNames(NamedTuple):
    """What the labels are indices into, and the pixels of a cell's side."""

    things: tuple[str, ...]
    colours: tuple[str, ...]
    factor: int = 16


class CellLabels(NamedTuple):
    """Indices (b, h, w) into the names of things and of colours and into `STYLES`, or UNKNOWN."""

    things: Tensor
    colours: Tensor
    styles: Tensor


def cell_names(world: World) -> CellNames:
    """What can be at a cell of this world, and in which colours."""
    things = (BACKGROUND, SIGN, *SHAPES, *world.sprites)
    return CellNames(things, tuple(dict.fromkeys((*BACKGROUND_COLOURS, *SHAPE_COLOURS))))


def cell_labels(scenes: Sequence[Scene], names: CellNames) -> CellLabels:
    """What is at each cell's centre.

    Later objects cover earlier ones, the sign covers all and has its board's colour; sprites, gradients and stickers'
    grounds have no colour that the graph knows, and only sprites have a style.
    """
    return CellLabels(*map(torch.stack, zip(*(_labels(scene, names) for scene in scenes), strict=True)))


def letter_labels(scene: Scene, alphabet: str) -> Tensor:
    """Which letter of the sign stands in each square of 8 pixels (`letter_squares`)."""
    boxes = [] if scene.sign is None else letter_boxes(scene.sign, scene.width, scene.height)
    return letter_squares(boxes, scene.width, scene.height, alphabet)


def letter_squares(boxes: Sequence[tuple[str, Sequence[float]]], width: int, height: int, alphabet: str) -> Tensor:
    """Which letter stands in each square of 8 pixels, (height / 8, width / 8) int64.

    Counted from 1 in the alphabet, 0 for none, UNKNOWN for a letter that the alphabet lacks; a capital that it lacks
    counts as the small letter. Of several the one whose box (left, top, right, bottom) covers most of the square stands
    there.
    """
    rows, columns = height // SQUARE, width // SQUARE
    labels = torch.zeros((rows, columns), dtype=torch.int64)
    most = torch.full((rows, columns), COVERED * SQUARE)
    y, x = torch.arange(rows)[:, None] * SQUARE, torch.arange(columns)[None] * SQUARE
    for letter, (left, top, right, bottom) in boxes:
        across = (x + SQUARE).clamp_max(right) - x.clamp_min(left)
        down = (y + SQUARE).clamp_max(bottom) - y.clamp_min(top)
        covered = across.clamp_min(0) * down.clamp_min(0) / SQUARE
        inside = covered > most
        forms = [form for form in (letter, letter.lower()) if len(form) == 1 and form in alphabet]
        labels[inside] = alphabet.index(forms[0]) + 1 if forms else UNKNOWN
        most = torch.maximum(most, covered)
    return labels


def _labels(scene: Scene, names: CellNames) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = scene.height // names.factor, scene.width // names.factor
    y = ((torch.arange(rows) + 0.5) * names.factor)[:, None].expand(rows, columns)
    x = ((torch.arange(columns) + 0.5) * names.factor)[None].expand(rows, columns)
    things = torch.full((rows, columns), names.things.index(BACKGROUND))
    colours, styles = (torch.full((rows, columns), UNKNOWN) for _ in range(2))
    ground = scene.background
    if ground.kind in ("flat", "horizon"):
        colours[:] = names.colours.index(str(ground.colour))
    if ground.kind == "horizon" and ground.horizon is not None:
        colours[y >= ground.horizon * scene.height] = names.colours.index(str(ground.second))
    for entry in scene.objects:
        half = entry.size * min(scene.width, scene.height) / 2
        inside = ((x - entry.x * scene.width).abs() <= half) & ((y - entry.y * scene.height).abs() <= half)
        things[inside] = names.things.index(entry.name)
        colours[inside] = UNKNOWN if entry.colour is None else names.colours.index(entry.colour)
        styles[inside] = UNKNOWN if entry.kind == "shape" else STYLES.index(entry.style)
    if (sign := scene.sign) is not None:
        inside = (x / scene.width - sign.x).abs() <= sign.width / 2
        inside &= (y / scene.height - sign.y).abs() <= sign.height / 2
        things[inside], styles[inside] = names.things.index(SIGN), UNKNOWN
        colours[inside] = names.colours.index(sign.board) if sign.board in names.colours else UNKNOWN
    return things, colours, styles
