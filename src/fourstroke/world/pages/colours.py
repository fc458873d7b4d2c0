"""Named colours of pages, and themes: which paper goes with which ink, band and chart colours."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from fourstroke.world.palette import BACKGROUND_COLOURS, INKS, RGB, SHAPE_COLOURS, distance

COLOURS: dict[str, RGB] = {
    **BACKGROUND_COLOURS,
    **SHAPE_COLOURS,
    "white": INKS["white"],
    "ivory": (252, 248, 234),
    "navy": (22, 38, 88),
    "dark green": (14, 78, 54),
    "maroon": (116, 20, 42),
    "plum": (76, 26, 90),
    "brown": (94, 56, 30),
    "gold": (214, 162, 40),
    "coral": (240, 106, 88),
    "turquoise": (28, 158, 162),
}


@dataclass(frozen=True)
class Theme:
    """Colours that go together, by name."""

    paper: str
    second: str | None
    ink: str
    title: str
    accents: tuple[str, ...]
    """For charts, rules and marks; each stands out from the paper."""
    band: str
    on_band: str


def _theme(paper: str, ink: str, title: str, accents: str, band: str, on_band: str) -> Theme:
    first, _, second = paper.partition(" > ")
    return Theme(first, second or None, ink, title, tuple(accents.split(", ")), band, on_band)


THEMES = (
    _theme("white", "black", "navy", "blue, coral, turquoise, gold, purple", "navy", "white"),
    _theme("white", "black", "red", "red, navy, gold, turquoise, plum", "red", "white"),
    _theme("white", "navy", "plum", "purple, turquoise, coral, blue, gold", "plum", "yellow"),
    _theme("white", "black", "dark green", "green, gold, navy, coral, turquoise", "dark green", "white"),
    _theme("ivory", "brown", "maroon", "coral, dark green, gold, maroon, turquoise", "maroon", "ivory"),
    _theme("ivory", "black", "navy", "navy, red, turquoise, gold, plum", "navy", "gold"),
    _theme("ivory", "dark green", "dark green", "dark green, coral, gold, navy, turquoise", "dark green", "ivory"),
    _theme("cream", "black", "maroon", "red, navy, dark green, turquoise, plum", "maroon", "cream"),
    _theme("cream", "navy", "navy", "blue, red, dark green, purple, coral", "navy", "cream"),
    _theme("mint", "dark green", "dark green", "dark green, coral, navy, purple, red", "dark green", "mint"),
    _theme("sky blue", "navy", "navy", "navy, red, yellow, purple, coral", "navy", "white"),
    _theme("lavender", "plum", "plum", "plum, coral, navy, red, turquoise", "plum", "white"),
    _theme("apricot", "brown", "maroon", "maroon, navy, turquoise, dark green, red", "maroon", "apricot"),
    _theme("blush", "maroon", "maroon", "red, plum, navy, turquoise, dark green", "maroon", "blush"),
    _theme("beige", "brown", "dark green", "dark green, maroon, navy, turquoise, coral", "dark green", "beige"),
    _theme("gray", "black", "navy", "navy, maroon, dark green, red, plum", "navy", "white"),
    _theme("white > sky blue", "navy", "navy", "navy, red, purple, coral, dark green", "navy", "white"),
    _theme("cream > apricot", "brown", "maroon", "maroon, navy, dark green, plum, blue", "maroon", "cream"),
    _theme("lavender > blush", "plum", "navy", "plum, navy, red, turquoise, dark green", "plum", "white"),
    _theme("ivory > mint", "dark green", "navy", "dark green, coral, navy, purple, red", "dark green", "ivory"),
    _theme("navy", "white", "yellow", "yellow, coral, sky blue, mint, pink", "yellow", "navy"),
    _theme("navy", "white", "white", "coral, sky blue, gold, mint, lavender", "white", "navy"),
    _theme("black", "white", "gold", "gold, coral, sky blue, mint, white", "gold", "black"),
    _theme("black", "white", "yellow", "yellow, red, sky blue, green, pink", "yellow", "black"),
    _theme("dark green", "ivory", "cream", "gold, cream, coral, mint, apricot", "cream", "dark green"),
    _theme("maroon", "ivory", "apricot", "apricot, gold, blush, cream, mint", "ivory", "maroon"),
    _theme("plum", "white", "blush", "pink, yellow, sky blue, mint, apricot", "blush", "plum"),
    _theme("brown", "ivory", "cream", "gold, apricot, mint, coral, cream", "ivory", "brown"),
    _theme("blue", "white", "white", "yellow, white, mint, apricot, coral", "white", "blue"),
    _theme("red", "white", "white", "white, yellow, navy, cream, black", "white", "red"),
    _theme("yellow", "black", "black", "red, navy, black, dark green, purple", "black", "yellow"),
    _theme("orange", "black", "black", "navy, black, maroon, white, dark green", "black", "orange"),
    _theme("turquoise", "black", "black", "yellow, navy, white, maroon, black", "black", "white"),
    _theme("navy > plum", "white", "yellow", "yellow, coral, mint, pink, sky blue", "yellow", "navy"),
    _theme("dark green > navy", "white", "cream", "gold, coral, mint, sky blue, cream", "cream", "dark green"),
)

FEW_THEMES = (
    _theme("white", "black", "black", "blue, coral, turquoise, gold, purple", "blue", "white"),
    _theme("white", "black", "black", "red, navy, gold, turquoise, plum", "red", "white"),
    _theme("yellow", "black", "black", "red, navy, black, dark green, purple", "black", "white"),
    _theme("red", "white", "white", "white, yellow, navy, cream, black", "white", "black"),
    _theme("dark green", "white", "white", "gold, cream, coral, mint, apricot", "yellow", "black"),
    _theme("blue", "white", "white", "yellow, white, mint, apricot, coral", "white", "black"),
    _theme("black", "white", "white", "yellow, red, sky blue, green, pink", "yellow", "black"),
)
"""Words in six pairs of colours, those of the boards of signs; `THEMES` have some sixty."""


@functools.cache
def differ(first: str, second: str) -> bool:
    """Whether two named colours can be told apart when they lie side by side."""
    return distance(COLOURS[first], COLOURS[second]) >= 70


def stand_out(theme: Theme, colour: str) -> float:
    """Distance of a colour from the paper, from both of its colours where it fades."""
    return min(distance(COLOURS[colour], COLOURS[paper]) for paper in (theme.paper, theme.second) if paper is not None)
