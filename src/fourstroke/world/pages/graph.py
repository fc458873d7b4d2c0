"""The graph of a page: every line of text, chart, picture and decoration, as plain data that draws, checks and tells.

Places are fractions of the picture, as in scenes: ``x`` and ``y`` are the centre, ``width`` and ``height`` those of the
tight box. `pixel_box` gives the pixels. ``lines`` stand in reading order.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from fourstroke.world.graph import Split, is_held_out

PageKind = Literal["poster", "slide", "infographic", "menu", "ticket", "sign"]
KINDS: tuple[PageKind, ...] = ("poster", "slide", "infographic", "menu", "ticket", "sign")
Role = Literal["title", "subtitle", "bullet", "label", "number", "price", "date", "place", "seat"]
Align = Literal["left", "center", "right"]
Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; the latter two are the first pixels outside."""


class Placed(Protocol):
    """Whatever has a place on the page."""

    @property
    def x(self) -> float: ...  # noqa: D102
    @property
    def y(self) -> float: ...  # noqa: D102
    @property
    def width(self) -> float: ...  # noqa: D102
    @property
    def height(self) -> float: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class TextLine:
    """One line of text; the box is that of its ink."""

    text: str
    role: Role
    block: int
    """Lines of one block are one text, broken where a space was (in Chinese: between words)."""
    script: str
    font: str
    """As captions say it: ``bold serif``."""
    ink: str
    x: float
    y: float
    width: float
    height: float
    size: float
    """Height of a capital letter in pixels."""
    align: Align
    pitch: int = 0
    """Pixels that every letter takes; 0 are its own."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Values as bars, as shares of a disc clockwise from the top, or as a line from left to right.

    Bars start at the box's bottom, or at its left if ``horizontal``; the largest value fills it. A line runs from 0 at
    the bottom to the largest value at the top. ``labels`` are empty where none are drawn.
    """

    kind: Literal["bars", "pie", "line"]
    values: tuple[float, ...]
    labels: tuple[str, ...]
    numbers: tuple[str, ...]
    """The values as they are written; empty where none are."""
    colours: tuple[str, ...]
    """One for each value; a line has one."""
    horizontal: bool = False
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of the atlas; ``size`` is its longer side as a fraction of the page's shorter one."""

    name: str
    style: str
    x: float
    y: float
    size: float


@dataclass(frozen=True, kw_only=True)
class Accent:
    """A decoration of one colour.

    ``band`` is a filled rectangle, ``panel`` one with round corners, ``rule`` a line, ``dashes`` and ``dots`` broken
    lines, ``frame`` the outline of a box, ``disc`` an ellipse, ``bullet`` and ``square`` marks beside a line.
    """

    kind: Literal["band", "panel", "rule", "dashes", "dots", "frame", "disc", "bullet", "square"]
    colour: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page before it is drawn; ``width`` and ``height`` in pixels."""

    kind: PageKind
    width: int
    height: int
    script: str
    paper: str
    second: str | None = None
    """The colour that the paper fades to at the bottom."""
    ink: str
    lines: tuple[TextLine, ...]
    words: tuple[str, ...]
    """The content words, as the word lists spell them; the split looks at these."""
    charts: tuple[Chart, ...] = ()
    pictures: tuple[Picture, ...] = ()
    accents: tuple[Accent, ...] = ()

    @property
    def blocks(self) -> tuple[tuple[TextLine, ...], ...]:
        """The lines of each text, in reading order."""
        return tuple(tuple(lines) for _, lines in itertools.groupby(self.lines, key=lambda line: line.block))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON; ``Page.from_dict`` reads it back."""
        return _lists(asdict(self))

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Page:
        """The page that ``to_dict`` wrote."""
        parts = {"lines": TextLine, "charts": Chart, "pictures": Picture, "accents": Accent}
        made = {name: tuple(part(**_tuples(entry)) for entry in plain[name]) for name, part in parts.items()}
        return cls(**{**plain, **made, "words": tuple(plain["words"])})


def text_of(block: tuple[TextLine, ...]) -> str:
    """The text of a block on one line."""
    return ("" if block[0].script == "chinese" else " ").join(line.text for line in block)


def word_count(page: Page) -> int:
    """Words and numbers on the page; Chinese counts content words and numbers."""
    if page.script == "chinese":
        return len(page.words) + sum(len(re.findall(r"[\d.:]+", line.text)) for line in page.lines)
    return sum(len(re.findall(r"\S*\w\S*", line.text)) for line in page.lines)


def pixel_box(part: Placed, width: int, height: int) -> Box:
    """The pixels of a part on a picture of ``width`` x ``height``."""
    left, top = round((part.x - part.width / 2) * width), round((part.y - part.height / 2) * height)
    return left, top, left + round(part.width * width), top + round(part.height * height)


def place_of(box: tuple[float, float, float, float], width: int, height: int) -> dict[str, float]:
    """The fields ``x``, ``y``, ``width`` and ``height`` of a box in pixels."""
    left, top, right, bottom = box
    return {
        "x": round((left + right) / 2 / width, 5),
        "y": round((top + bottom) / 2 / height, 5),
        "width": round((right - left) / width, 5),
        "height": round((bottom - top) / height, 5),
    }


def split_of_page(page: Page) -> Split | None:
    """``heldout`` if all content words are, ``train`` if none is, None for a mix or for no content words."""
    verdicts = {is_held_out("word", word) for word in page.words}
    if len(verdicts) != 1:
        return None
    return "heldout" if verdicts.pop() else "train"


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _lists(entry) for name, entry in value.items()}
    return [_lists(entry) for entry in value] if isinstance(value, tuple | list) else value


def _tuples(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
