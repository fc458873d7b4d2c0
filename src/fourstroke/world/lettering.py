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

WIDEST = {"latin": "m", "cyrillic": "щ", "chinese": "一"}
"""The letter of a script that fills its pitch."""
Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels of the picture."""
Starts = list[tuple[float, float]]
"""Where on a board the letters of a word start, each its origin at the left and its ascender at the top."""


def stamp_of(sign: Sign, width: int, height: int) -> Stamp:
    """The sign as it stands in a picture of ``width`` x ``height`` pixels."""
    pixels = *_pixels(sign, width, height), sign.pitch * width
    return sign_stamp(sign.word, sign.script, sign.font, sign.board, sign.ink, *pixels)


def letter_boxes(sign: Sign, width: int, height: int) -> list[tuple[str, Box]]:
    """Each character of the sign's word with the box of its ink, in a picture of ``width`` x ``height`` pixels."""
    across, down = _pixels(sign, width, height)
    file_name = SIGN_FONTS[sign.script][sign.font]
    font, starts = _layout(sign.word, sign.script, file_name, across, down, sign.pitch * width)
    x, y = round(sign.x * width - across / 2), round(sign.y * height - down / 2)
    found = []
    for character, (start, drop) in zip(sign.word, starts, strict=True):
        left, top, right, bottom = font.getbbox(character)
        found.append((character, (x + start + left, y + drop + top, x + start + right, y + drop + bottom)))
    return found


@functools.lru_cache(maxsize=512)
def sign_stamp(
    word: str, script: str, font: str, board: str, ink: str, width: int, height: int, pitch: float = 0.0
) -> Stamp:
    """A board of ``width`` x ``height`` pixels with a border and one word, ``pitch`` pixels a letter (see `Sign`)."""
    x = np.abs(np.arange(width, dtype=np.float32) + 0.5 - width / 2)[None, :]
    y = np.abs(np.arange(height, dtype=np.float32) + 0.5 - height / 2)[:, None]
    corner = 0.16 * height
    to_corner = np.hypot(np.maximum(x - width / 2 + corner, 0.0), np.maximum(y - height / 2 + corner, 0.0))
    inside = corner - to_corner
    planes = tinted(np.clip(inside + 0.5, 0.0, 1.0), BOARD_COLOURS[board], shade=0.0)
    line = _line(height)
    border = np.clip(0.5 + line / 2 - np.abs(inside - 1.8 * line), 0.0, 1.0)
    for coverage in (border, _set_word(word, script, SIGN_FONTS[script][font], width, height, pitch)):
        layer = tinted(coverage, INKS[ink], shade=0.0)
        planes = planes * (1.0 - layer[3] / 255.0) + layer
    return Stamp(planes)


def _set_word(word: str, script: str, file_name: str, width: int, height: int, pitch: float) -> Array:
    font, starts = _layout(word, script, file_name, width, height, pitch)
    mask = Image.new("L", (width, height), 0)
    pieces = zip(word, starts, strict=True) if pitch else [(word, starts[0])]
    for piece, start in pieces:
        ImageDraw.Draw(mask).text(start, piece, font=font, fill=255)
    return np.asarray(mask, np.float32) / 255.0


def letter_pixels(script: str, file_name: str, pitch: float, height: int) -> int:
    """The font's size, in pixels, of letters that take ``pitch`` pixels each on a board of ``height``."""
    em = 64 * pitch / load_font(file_name, 64).getlength(WIDEST[script])
    return max(6, int(min(em, 0.66 * height)))


def _layout(
    word: str, script: str, file_name: str, width: int, height: int, pitch: float
) -> tuple[ImageFont.FreeTypeFont, Starts]:
    """The font at its size, and where the letters start: at a pitch if there is one, else together and as large."""
    if pitch:
        font = load_font(file_name, letter_pixels(script, file_name, pitch, height))
        ascent = font.getmetrics()[0]
        begin, y = (width - pitch * len(word)) / 2, round(height / 2 + 0.35 * font.size) - ascent
        slots = ((round(begin + pitch * place), font.getlength(letter)) for place, letter in enumerate(word))
        return font, [(slot + round((pitch - length) / 2), y) for slot, length in slots]
    margin = 4.5 * _line(height)
    room_x, room_y = width - 2 * margin, height - 2 * margin
    probe = load_font(file_name, 64).getbbox(word)
    size = max(6, int(64 * min(room_x / (probe[2] - probe[0]), room_y / (probe[3] - probe[1]))))
    font = load_font(file_name, min(size, int(0.75 * height)))
    left, top, right, bottom = font.getbbox(word)
    start = (width - left - right) / 2, (height - top - bottom) / 2
    ends = enumerate(word, start=1)
    return font, [(start[0] + font.getlength(word[:end]) - font.getlength(letter), start[1]) for end, letter in ends]


def _line(height: int) -> float:
    """Width of the border's line."""
    return max(1.0, 0.035 * height)


def _pixels(sign: Sign, width: int, height: int) -> tuple[int, int]:
    return round(sign.width * width), round(sign.height * height)
