"""Sets text: where each letter stands, which size fits a box, where lines break. Drawing and boxes share `typeset`.

Letters stand on whole pixels, moved by advances and kerning in the basic layout, so that they look the same on every
machine. Scripts whose letters join need Raqm, which shapes whole words.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, features

from fourstroke.fonts import find_font, load_font
from fourstroke.world.pages.graph import Box
from fourstroke.world.words import SIGN_FONTS

FONTS: dict[str, dict[str, str]] = {
    "latin": SIGN_FONTS["latin"],
    "cyrillic": SIGN_FONTS["latin"],
    "chinese": {"sans-serif": "NotoSansSC-Regular-subset.otf", "bold sans-serif": "NotoSansSC-Bold-subset.otf"},
    "arabic": {"sans-serif": "DejaVuSans.ttf", "bold sans-serif": "DejaVuSans-Bold.ttf"},
    "devanagari": {"sans-serif": "NotoSansDevanagari-Regular.ttf", "bold sans-serif": "NotoSansDevanagari-Bold.ttf"},
}
JOINED = ("arabic", "devanagari")
"""Scripts whose letters join: they are set a word at a time."""
CAPITAL = 0.729
"""Height of a capital letter, of the font's size: that of DejaVu, and nearly that of Noto."""
PITCH = {"chinese": 1.2, "devanagari": 1.45, "arabic": 1.35}
"""Distance of baselines, of the font's size; 1.2 elsewhere."""
NATURAL = 64


class CrowdedError(Exception):
    """The text does not fit its place at a size that can be read, or words run out: draw again."""


@dataclass(frozen=True)
class Typeset:
    """A line of text; coordinates in pixels from its origin on the baseline."""

    letters: tuple[tuple[str, Box, Image.Image], ...]
    """Each letter (each word, where letters join) with the box of its ink and its mask, in reading order."""
    box: Box


def check_script(script: str) -> None:
    """Raise ``ValueError`` if the script is unknown or cannot be set on this machine; the message says what to do."""
    if script not in FONTS:
        raise ValueError(f"unknown script {script!r}: choose from {', '.join(FONTS)}")
    if script in JOINED and not features.check("raqm"):
        raise ValueError(f"{script} needs Pillow with Raqm, which joins its letters: install libraqm and fribidi")
    try:
        for file_name in FONTS[script].values():
            find_font(file_name)
    except FileNotFoundError as error:
        raise ValueError(f"{script}: {error}") from None


def pixels_of(size: float) -> int:
    """The font's size of a line whose capitals are ``size`` pixels high."""
    return round(size / CAPITAL)


@functools.lru_cache(maxsize=8192)
def typeset(text: str, script: str, file_name: str, pixels: int, pitch: int = 0) -> Typeset:
    """Sets a line of text at a font's size in pixels, its letters in the middle of ``pitch`` pixels each if above 0."""
    parts = text.split(" ") if script in JOINED else list(text)
    placed: dict[int, tuple[str, Box, Image.Image]] = {}
    x, before = 0, ""
    order = list(enumerate(parts))
    for index, part in reversed(order) if script == "arabic" else order:
        advance, left, top, mask = _glyph(part, script, file_name, pixels)
        if pitch:
            x, before = index * pitch + (pitch - advance) // 2, ""
        if script in JOINED:
            x += _glyph(" ", script, file_name, pixels)[0] if before else 0
        elif before:
            x += _kerning(before + part, file_name, pixels)
        if mask is not None:
            box = (x + left, top, x + left + mask.width, top + mask.height)
            placed[index] = (part, box, mask)
        x, before = x + advance, part
    letters = tuple(placed[index] for index in sorted(placed))
    boxes = list(zip(*(box for _, box, _ in letters), strict=True))
    return Typeset(letters, (min(boxes[0]), min(boxes[1]), max(boxes[2]), max(boxes[3])))


@dataclass(frozen=True)
class Fitted:
    """Lines that fit, and the size of their font."""

    pixels: int
    lines: tuple[str, ...]
    script: str
    file_name: str

    @property
    def pitch(self) -> int:
        """Distance of baselines in pixels."""
        return round(PITCH.get(self.script, 1.2) * self.pixels)

    @property
    def above(self) -> int:
        """From the baseline to the top of a capital, or as far as a Chinese character's middle is from both ends."""
        return round((0.76 if self.script == "chinese" else CAPITAL) * self.pixels)

    def typesets(self) -> list[Typeset]:
        """Each line, set."""
        return [typeset(line, self.script, self.file_name, self.pixels) for line in self.lines]

    @property
    def width(self) -> int:
        """Of the widest line's ink, in pixels."""
        return max(line.box[2] - line.box[0] for line in self.typesets())

    @property
    def height(self) -> int:
        """From the top of the first line's ink to the bottom of the last one's, in pixels."""
        first, *_ = lines = self.typesets()
        return (len(lines) - 1) * self.pitch + lines[-1].box[3] - first.box[1]


def fit(
    words: Sequence[str],
    script: str,
    font: str,
    room: tuple[int, int],
    sizes: tuple[int, int],
    max_lines: int = 1,
) -> Fitted:
    """The words at the largest size (of ``sizes``, least and most, font pixels) at which they fit ``room`` (w, h).

    Raises:
        CrowdedError: if they do not fit at the least size.
    """
    file_name, joiner = FONTS[script][font], "" if script == "chinese" else " "
    best: Fitted | None = None
    for count in range(1, min(max_lines, len(words)) + 1):
        lines = _break(tuple(words), joiner, script, file_name, count)
        width = max(_natural_width(line, script, file_name) for line in lines)
        tall = (count - 1) * PITCH.get(script, 1.2) + 0.7
        pixels = min(sizes[1], int(NATURAL * room[0] / width) + 1, int(room[1] / tall))
        while pixels >= sizes[0] and (best is None or pixels > 1.1 * best.pixels):
            found = Fitted(pixels, lines, script, file_name)
            if found.width <= room[0] and found.height <= room[1]:
                best = found
                break
            pixels -= 1
    if best is None:
        raise CrowdedError
    return best


@functools.lru_cache(maxsize=4096)
def _break(words: tuple[str, ...], joiner: str, script: str, file_name: str, count: int) -> tuple[str, ...]:
    """The words in ``count`` lines, the widest as narrow as can be."""
    cuts = itertools.combinations(range(1, len(words)), count - 1)
    options = [tuple(joiner.join(words[a:b]) for a, b in itertools.pairwise((0, *cut, len(words)))) for cut in cuts]
    return min(options, key=lambda lines: max(_natural_width(line, script, file_name) for line in lines))


def _natural_width(line: str, script: str, file_name: str) -> int:
    box = typeset(line, script, file_name, NATURAL).box
    return box[2] - box[0]


@functools.lru_cache(maxsize=32768)
def _glyph(text: str, script: str, file_name: str, pixels: int) -> tuple[int, int, int, Image.Image | None]:
    """Advance, left and top of the ink from the origin, and its mask; no mask for a space."""
    font = _font(script, file_name, pixels)
    advance = round(font.getlength(text))
    left, top, right, bottom = font.getbbox(text, anchor="ls")
    mask = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4))
    ImageDraw.Draw(mask).text((2 - left, 2 - top), text, font=font, fill=255, anchor="ls")
    ink = mask.getbbox()
    if ink is None:
        return advance, 0, 0, None
    return advance, int(left) - 2 + ink[0], int(top) - 2 + ink[1], mask.crop(ink)


@functools.lru_cache(maxsize=32768)
def _kerning(pair: str, file_name: str, pixels: int) -> int:
    font = load_font(file_name, pixels)
    return round(font.getlength(pair) - font.getlength(pair[0]) - font.getlength(pair[1]))


@functools.lru_cache(maxsize=256)
def _font(script: str, file_name: str, pixels: int) -> ImageFont.FreeTypeFont:
    if script not in JOINED:
        return load_font(file_name, pixels)
    return ImageFont.truetype(str(find_font(file_name)), pixels, layout_engine=ImageFont.Layout.RAQM)
