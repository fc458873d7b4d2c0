"""A page while it is composed: places parts in frames of whole pixels, and gives up when text does not fit."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from fourstroke.chance import pick
from fourstroke.world.atlas import THINGS, sprite_picture, styles_of
from fourstroke.world.graph import Split
from fourstroke.world.lettering import letter_pixels
from fourstroke.world.pages.colours import FEW_THEMES, THEMES, Theme, differ, stand_out
from fourstroke.world.pages.graph import Accent, Align, Chart, Page, PageKind, Picture, Role, TextLine, place_of
from fourstroke.world.pages.phrases import Case, Writer
from fourstroke.world.pages.type import CAPITAL, FONTS, CrowdedError, Fitted, fit, pixels_of, typeset
from fourstroke.world.snap import BOARD, LATENT, PITCHES

Valign = Literal["top", "middle", "bottom"]
PAIRS = (
    ("bold sans-serif", "sans-serif"),
    ("bold sans-serif", "bold sans-serif"),
    ("bold serif", "serif"),
    ("bold serif", "sans-serif"),
    ("bold sans-serif", "serif"),
    ("sans-serif", "sans-serif"),
    ("serif", "serif"),
    ("monospaced", "monospaced"),
)
"""Fonts of title and text that go together."""


class Frame(NamedTuple):
    """A rectangle of whole pixels."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:  # noqa: D102
        return self.right - self.left

    @property
    def height(self) -> int:  # noqa: D102
        return self.bottom - self.top

    def inset(self, x: float, y: float | None = None) -> Frame:
        """Smaller by ``x`` at the left and right, and by ``y`` (``x``) at the top and bottom."""
        x, y = round(x), round(x if y is None else y)
        return Frame(self.left + x, self.top + y, self.right - x, self.bottom - y)

    def rows(self, *shares: float, gap: float = 0) -> list[Frame]:
        """Frames one below the other, in proportion to ``shares``."""
        return [Frame(self.left, a, self.right, b) for a, b in _cuts(self.top, self.bottom, shares, round(gap))]

    def columns(self, *shares: float, gap: float = 0) -> list[Frame]:
        """Frames beside each other, in proportion to ``shares``."""
        return [Frame(a, self.top, b, self.bottom) for a, b in _cuts(self.left, self.right, shares, round(gap))]


class Draft:
    """The parts placed so far, and the choices that the whole page shares."""

    def __init__(
        self,
        rng: np.random.Generator,
        kind: PageKind,
        size: tuple[int, int],
        script: str,
        split: Split,
        words: int,
        styles: Sequence[str],
        things: int = 0,
        few_colours: bool = False,
    ) -> None:
        self.rng, self.kind, self.script, self.words, self.styles, self.things = (
            rng,
            kind,
            script,
            words,
            styles,
            things,
        )
        self.width, self.height = size
        self.unit = math.sqrt(size[0] * size[1]) / 128
        """Pixels here for each pixel of a page of 128."""
        self.page = Frame(0, 0, *size)
        self.margin = round(7 * min(size) / 128)
        self.least = math.ceil((7 + max(0.0, self.unit - 1)) / CAPITAL) + (3 if script == "chinese" else 0)
        """Font pixels of the smallest text."""
        self.writer = Writer(rng, script, split)
        self.theme: Theme = pick(rng, FEW_THEMES if few_colours else THEMES)
        pair = pick(rng, [pair for pair in PAIRS if set(pair) <= set(FONTS[script])])
        self.title_font, self.font = pair
        self.title_case: Case = pick(rng, ("upper", "title", "title", "lower"))
        self.case: Case = pick(rng, ("sentence", "sentence", "lower", "upper"))
        self.align: Align = pick(rng, ("center", "center", "right" if script == "arabic" else "left"))
        self.lines: list[TextLine] = []
        self.charts: list[Chart] = []
        self.pictures: list[Picture] = []
        self.accents: list[Accent] = []
        self.blocks = 0

    def fit(self, words: Sequence[str], font: str, frame: Frame, most: float, max_lines: int = 1) -> Fitted:
        """The words as large as they fit the frame, up to ``most`` pixels of a page of 128, but less than the title."""
        largest = round(most * self.unit)
        if self.lines:
            largest = min(largest, round(0.9 * pixels_of(self.lines[0].size)))
        sizes = (self.least, max(self.least, largest))
        return fit(words, self.script, font, (frame.width, frame.height), sizes, max_lines)

    def write(
        self,
        words: Sequence[str],
        role: Role,
        frame: Frame,
        *,
        most: float = 60,
        font: str | None = None,
        ink: str | None = None,
        align: Align | None = None,
        valign: Valign = "middle",
        max_lines: int = 1,
        fitted: Fitted | None = None,
        baseline: int | None = None,
    ) -> Frame:
        """Writes a block into a frame and returns the frame of its ink.

        Lines stand by the height of their capitals, so that neighbours share baselines; ink stays in the frame, but for
        a first baseline that is given.
        """
        font, align = font or self.font, align or self.align
        fitted = fitted or self.fit(words, font, frame, most, max_lines)
        if fitted.width > frame.width or fitted.height > frame.height:
            raise CrowdedError
        ink_top, above = fitted.typesets()[0].box[1], fitted.above
        spare = frame.height - above - (len(fitted.lines) - 1) * fitted.pitch
        first = frame.top + above + {"top": 0, "middle": spare // 2, "bottom": spare}[valign]
        first = max(frame.top - ink_top, min(first, frame.bottom - fitted.height - ink_top))
        baseline, used = first if baseline is None else baseline, []
        for text, line in zip(fitted.lines, fitted.typesets(), strict=True):
            width = line.box[2] - line.box[0]
            left = frame.left + {"left": 0, "center": (frame.width - width) // 2, "right": frame.width - width}[align]
            used.append(Frame(left, baseline + line.box[1], left + width, baseline + line.box[3]))
            self._line(text, role, used[-1], font, ink or self.theme.ink, fitted.pixels, align)
            baseline += fitted.pitch
        self.blocks += 1
        return Frame(min(f.left for f in used), used[0].top, max(f.right for f in used), used[-1].bottom)

    def write_on_lattice(
        self, text: str, role: Role, column: int, row: int, *, font: str, ink: str, align: Align
    ) -> None:
        """One line whose letters fill whole latents from a column of them on, around the middle of a row."""
        pitch, file_name = PITCHES[self.script][0], FONTS[self.script][font]
        pixels = letter_pixels(self.script, file_name, pitch, BOARD)
        box = typeset(text, self.script, file_name, pixels, pitch).box
        x, baseline = column * LATENT, round((row + 0.5) * LATENT + 0.35 * pixels)
        ends = Frame(x + box[0], baseline + box[1], x + box[2], baseline + box[3])
        if min(ends) < 0 or ends.right > self.width or ends.bottom > self.height:
            raise CrowdedError
        self._line(text, role, ends, font, ink, pixels, align, pitch)
        self.blocks += 1

    def same_size(
        self, texts: Sequence[Sequence[str]], font: str, room: tuple[int, int], most: float, max_lines: int = 1
    ) -> list[Fitted]:
        """Each text as large as all of them fit a room of the same width and height."""
        frame = Frame(0, 0, *room)
        pixels = min(self.fit(words, font, frame, most, max_lines).pixels for words in texts)
        return [fit(words, self.script, font, room, (pixels, pixels), max_lines) for words in texts]

    def accent(self, kind: str, frame: Sequence[float], colour: str) -> None:
        """A decoration over a box of pixels."""
        self.accents.append(
            Accent(kind=kind, colour=colour, **place_of(tuple(frame), self.width, self.height))  # type: ignore[arg-type]
        )

    def picture(self, frame: Frame, most: float = 1.0) -> Frame:
        """A picture in the middle of a frame, as large as fits, up to ``most`` of the page's shorter side."""
        style = pick(self.rng, self.styles)
        name = self._thing(style)
        w, h = sprite_picture(name, style).size
        scale = min(frame.width / w, frame.height / h, most * min(self.width, self.height) / max(w, h))
        if scale * max(w, h) < 0.16 * min(self.width, self.height):
            raise CrowdedError
        width, height = int(w * scale), int(h * scale)
        left, top = frame.left + (frame.width - width) // 2, frame.top + (frame.height - height) // 2
        found = Frame(left, top, left + width, top + height)
        centre = place_of(found, self.width, self.height)
        size = round(max(width, height) / min(self.width, self.height), 4)
        self.pictures.append(Picture(name=name, style=style, x=centre["x"], y=centre["y"], size=size))
        return found

    def colours(self, count: int) -> tuple[str, ...]:
        """Different colours that stand out from the paper, for charts and marks."""
        accents = list(self.theme.accents)
        start, found = int(self.rng.random() * len(accents)), list[str]()
        for colour in accents[start:] + accents[:start]:
            if stand_out(self.theme, colour) >= 100 and all(differ(colour, other) for other in found):
                found.append(colour)
        if count > len(found):
            raise CrowdedError
        return tuple(found[:count])

    def done(self) -> Page:
        """The finished page."""
        return Page(
            kind=self.kind,
            width=self.width,
            height=self.height,
            script=self.script,
            paper=self.theme.paper,
            second=self.theme.second,
            ink=self.theme.ink,
            lines=tuple(self.lines),
            words=tuple(self.writer.words),
            charts=tuple(self.charts),
            pictures=tuple(self.pictures),
            accents=tuple(self.accents),
        )

    def _line(
        self, text: str, role: Role, ends: Frame, font: str, ink: str, pixels: int, align: Align, pitch: int = 0
    ) -> None:
        """A line of the present block whose ink has these ends; `pixels` is the font's size."""
        self.lines.append(
            TextLine(
                text=text,
                role=role,
                block=self.blocks,
                script=self.script,
                font=font,
                ink=ink,
                size=round(CAPITAL * pixels, 2),
                align=align,
                pitch=pitch,
                **place_of(ends, self.width, self.height),
            )
        )

    def _thing(self, style: str) -> str:
        """A thing that the title names, if it names one, else any."""
        things = things_of(style, self.things)
        named = [word for word in self.writer.words if word in things]
        return named[0] if named and self.rng.random() < 0.7 else pick(self.rng, things)


@functools.lru_cache(maxsize=8)
def things_of(style: str, count: int = 0) -> tuple[str, ...]:
    """The names that pages draw in a style, of the first ``count`` things of the atlas, or of all."""
    return tuple(name for name in THINGS[: count or None] if style in styles_of(name))


def _cuts(start: int, end: int, shares: Sequence[float], gap: int) -> list[tuple[int, int]]:
    room, found, done = end - start - gap * (len(shares) - 1), [], 0.0
    for i, share in enumerate(shares):
        first = start + round(room * done / sum(shares)) + i * gap
        done += share
        found.append((first, start + round(room * done / sum(shares)) + i * gap))
    return found
