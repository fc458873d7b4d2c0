"""Signs: a board with one word, and where each of its letters stands."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fourstroke.fonts import load_font
from fourstroke.world.graph import Sign
from fourstroke.world.palette import BOARD_COLOURS, INKS
from fourstroke.world.stamps import Array, Stamp, tinted
from fourstroke.world.words import SIGN_FONTS

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels of the picture."""


def stamp_of(sign: Sign, width: int, height: int) -> Stamp:
    """The sign as it stands in a picture of ``width`` x ``height`` pixels."""
    return sign_stamp(sign.word, sign.script, sign.font, sign.board, sign.ink, *_pixels(sign, width, height))


def letter_boxes(sign: Sign, width: int, height: int) -> list[tuple[str, Box]]:
    """Each character of the sign's word with the box of its ink, in a picture of ``width`` x ``height`` pixels."""
    across, down = _pixels(sign, width, height)
    font, (x, y) = _layout(sign.word, SIGN_FONTS[sign.script][sign.font], across, down)
    x += round(sign.x * width - across / 2)
    y += round(sign.y * height - down / 2)
    found = []
    for end, character in enumerate(sign.word, start=1):
        start = x + font.getlength(sign.word[:end]) - font.getlength(character)
        left, top, right, bottom = font.getbbox(character)
        found.append((character, (start + left, y + top, start + right, y + bottom)))
    return found


@functools.lru_cache(maxsize=512)
def sign_stamp(word: str, script: str, font: str, board: str, ink: str, width: int, height: int) -> Stamp:
    """A board of ``width`` x ``height`` pixels with a border and one word set as large as it fits."""
    x = np.abs(np.arange(width, dtype=np.float32) + 0.5 - width / 2)[None, :]
    y = np.abs(np.arange(height, dtype=np.float32) + 0.5 - height / 2)[:, None]
    corner = 0.16 * height
    to_corner = np.hypot(np.maximum(x - width / 2 + corner, 0.0), np.maximum(y - height / 2 + corner, 0.0))
    inside = corner - to_corner
    planes = tinted(np.clip(inside + 0.5, 0.0, 1.0), BOARD_COLOURS[board], shade=0.0)
    line = _line(height)
    border = np.clip(0.5 + line / 2 - np.abs(inside - 1.8 * line), 0.0, 1.0)
    for coverage in (border, _set_word(word, SIGN_FONTS[script][font], width, height)):
        layer = tinted(coverage, INKS[ink], shade=0.0)
        planes = planes * (1.0 - layer[3] / 255.0) + layer
    return Stamp(planes)


def _set_word(word: str, file_name: str, width: int, height: int) -> Array:
    font, start = _layout(word, file_name, width, height)
    mask = Image.new("L", (width, height), 0)
    ImageDraw.Draw(mask).text(start, word, font=font, fill=255)
    return np.asarray(mask, np.float32) / 255.0


def _layout(word: str, file_name: str, width: int, height: int) -> tuple[ImageFont.FreeTypeFont, tuple[float, float]]:
    """The font at the size in which the word fits the board, and where on the board the word starts."""
    margin = 4.5 * _line(height)
    room_x, room_y = width - 2 * margin, height - 2 * margin
    probe = load_font(file_name, 64).getbbox(word)
    size = max(6, int(64 * min(room_x / (probe[2] - probe[0]), room_y / (probe[3] - probe[1]))))
    font = load_font(file_name, min(size, int(0.75 * height)))
    left, top, right, bottom = font.getbbox(word)
    return font, ((width - left - right) / 2, (height - top - bottom) / 2)


def _line(height: int) -> float:
    """Width of the border's line."""
    return max(1.0, 0.035 * height)


def _pixels(sign: Sign, width: int, height: int) -> tuple[int, int]:
    return round(sign.width * width), round(sign.height * height)
