"""Named colours, and which of them can be told apart when one lies on the other. RGB in 0..255."""

from __future__ import annotations

import functools

RGB = tuple[int, int, int]

SHAPE_COLOURS: dict[str, RGB] = {
    "red": (222, 38, 42),
    "orange": (250, 134, 22),
    "yellow": (250, 212, 28),
    "green": (38, 158, 62),
    "blue": (34, 92, 226),
    "purple": (126, 48, 176),
    "pink": (252, 104, 172),
    "black": (30, 30, 34),
}

BACKGROUND_COLOURS: dict[str, RGB] = {
    "white": (247, 247, 245),
    "gray": (186, 189, 193),
    "beige": (232, 214, 184),
    "sky blue": (164, 212, 244),
    "mint": (178, 232, 202),
    "lavender": (206, 194, 240),
    "apricot": (252, 202, 170),
    "blush": (246, 192, 206),
    "cream": (250, 240, 166),
    "teal": (104, 168, 170),
    "slate": (112, 124, 144),
}

BOARD_COLOURS: dict[str, RGB] = {
    "white": (250, 250, 248),
    "yellow": (252, 222, 84),
    "red": (196, 40, 44),
    "green": (24, 112, 64),
    "blue": (30, 74, 168),
    "black": (34, 34, 38),
}
INKS: dict[str, RGB] = {"white": (252, 252, 252), "black": (24, 24, 28)}
INK_OF_BOARD = {board: "black" if board in ("white", "yellow") else "white" for board in BOARD_COLOURS}


def distance(first: RGB, second: RGB) -> float:
    """Euclidean distance of two colours, 0..441."""
    return sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) ** 0.5


@functools.cache
def stands_out(shape_colour: str, background_colour: str) -> bool:
    """Whether a shape of this colour is easy to see on this background."""
    return distance(SHAPE_COLOURS[shape_colour], BACKGROUND_COLOURS[background_colour]) >= 115.0
