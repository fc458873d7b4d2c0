"""Says shortly what a page shows, in English, Spanish, Russian or Chinese. Words stand in straight double quotes."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from fourstroke.world.atlas import INDEX
from fourstroke.world.caption import with_article
from fourstroke.world.graph import Split
from fourstroke.world.pages.graph import Chart, Page, Picture, text_of
from fourstroke.world.pages.wordings import ENGLISH, OTHERS, worded

LANGUAGES = ("en", *OTHERS)
STYLE_WORDS = {"flat": "flat", "3d": "glossy 3D", "clip-art": "clip-art", "rendered": "rendered"}
NUMBER_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
AND = {"en": " and ", "es": " y ", "ru": " и ", "zh": "和"}


def category_of_page(page: Page) -> str:
    """``Text`` for posters and signs of at most two texts, else ``Complex Text``."""
    return "Text" if page.kind in ("poster", "sign") and len(page.blocks) <= 2 else "Complex Text"


def describe_page_shortly(page: Page, rng: np.random.Generator, language: str = "en", wordings: Split = "train") -> str:
    """One clause, as people type prompts; Spanish, Russian and Chinese ones speak of posters and signs alone.

    Raises:
        ValueError: for a language that has no words for the page's kind.
    """
    templates = ENGLISH if language == "en" else OTHERS.get(language, {})
    if page.kind not in templates:
        raise ValueError(f"no captions of a {page.kind} in {language!r}: choose a poster or sign, or English")
    return worded(rng, templates[page.kind], facts_of(page, language, styled=rng.random() < 0.5), wordings)


def facts_of(page: Page, language: str, styled: bool = False) -> dict[str, str]:
    """What short captions may say, by name; ``rest`` are texts that follow the title."""
    paper = page.paper if page.second is None else f"{page.paper} to {page.second}"
    facts = {"title": quote(text_of(page.blocks[0])), "ink": page.lines[0].ink}
    facts |= {"paper": paper, "a_paper": with_article(paper)}
    if rest := _rest(page):
        facts["rest"] = listed(rest, language)
    if page.pictures:
        facts["thing"] = thing_of(page.pictures[0], language, styled)
    if page.charts:
        facts["chart"] = with_article(chart_noun(page.charts[0]))
        if len(page.charts) > 1:
            facts["chart"] = listed([with_article(chart_noun(chart)) for chart in page.charts], language)
    boards = [accent.colour for accent in page.accents if accent.kind == "panel"]
    if boards:
        facts |= {"board": boards[0], "a_board": with_article(boards[0])}
    if page.kind in ("slide", "menu"):
        facts["count"] = NUMBER_WORDS[sum(block[0].role == "bullet" for block in page.blocks)]
    grounds = _table("words.json")["backgrounds"]
    if language != "en" and page.paper in grounds and page.second is None:
        ground = grounds[page.paper][language]
        facts["ground"] = f"sobre {ground}" if language == "es" else ground
        if language == "ru":
            facts["ground"] = f"на {ground['prepositional']}"
    return facts


def quote(text: str) -> str:
    """The text in straight double quotes."""
    return f'"{text}"'


def listed(items: Sequence[str], language: str = "en") -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    comma = "、" if language == "zh" else ", "
    return comma.join(items[:-1]) + (AND[language] if len(items) > 1 else "") + items[-1]


def thing_of(picture: Picture, language: str, styled: bool = False) -> str:
    """The thing with its article or measure word; English says its style too if asked to."""
    if language == "en":
        return with_article(f"{STYLE_WORDS[picture.style]} {picture.name}" if styled else picture.name)
    name = _table("names.json")[picture.name][language]
    if language == "es":
        feminine = name["gender"] == "f" and name.get("article") != "m"
        return f"{'una' if feminine else 'un'} {name['one']}"
    return name["one"] if language == "ru" else f"一{name['measure']}{name['name']}"


def chart_noun(chart: Chart) -> str:
    """``bar chart``, ``horizontal bar chart``, ``pie chart`` or ``line chart``."""
    return {"bars": "horizontal bar chart" if chart.horizontal else "bar chart"}.get(chart.kind, f"{chart.kind} chart")


def _rest(page: Page) -> list[str]:
    """What follows the title: the bullets of a slide, dishes with prices, labels with numbers, or all."""
    blocks = [block for block in page.blocks[1:] if page.kind != "slide" or block[0].role == "bullet"]
    texts = [quote(text_of(block)) for block in blocks]
    if page.kind in ("menu", "infographic"):
        joint = "for" if page.kind == "menu" else "at"
        return [f"{first} {joint} {second}" for first, second in zip(texts[::2], texts[1::2], strict=True)]
    return texts


@functools.lru_cache(maxsize=4)
def _table(name: str) -> Any:
    return json.loads((INDEX.parent / name).read_text("utf-8"))
