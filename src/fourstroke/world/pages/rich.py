"""Says richly what a page shows, up to about 1,000 tokens, in reading order.

Every text has its place, size, colour, font and alignment, every chart its values, labels and colours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fourstroke.world.graph import Split
from fourstroke.world.pages.caption import NUMBER_WORDS, listed, quote
from fourstroke.world.pages.graph import Page, text_of
from fourstroke.world.pages.telling import (
    ALIGNED,
    ORDINALS,
    Block,
    decorations,
    labelled_chart,
    paper_words,
    picture_sentence,
    place_words,
    plain_chart,
    spelled_chart,
    style_words,
)
from fourstroke.world.pages.wordings import worded

SPELLED = 0.4
"""Share of captions that give each bullet, dish and value a sentence of its own."""
OPENINGS = (
    "{A_page} on {paper}.",
    "This is {a_page} on {paper}.",
    "The picture shows {a_page}, set on {paper}.",
    "A clean layout: {a_page} on {paper}.",
    "{A_page}, printed on {paper}.",
    "Here is {a_page} on {paper}.",
    "The image is {a_page} on {paper}.",
    "On {paper}: {a_page}.",
    "Before us lies {a_page} on {paper}.",
    "A flat view of {a_page} on {paper}.",
)
TEXTS = (
    "The {role} {text} stands {place} in {style}, {align}.",
    "{Place}, the {role} reads {text}, in {style}, {align}.",
    "The {role} {text} is set {place}, {align}, in {style}.",
    "{Place} comes the {role} {text} in {style}, {align}.",
    "{Place} one reads the {role} {text} in {style}, {align}.",
    "The {role} is {text}; it stands {place} in {style} and is {align}.",
    "{Place} is the {role} {text}, {align}, written in {style}.",
    "In {style}, {align}, the {role} {text} stands {place}.",
    "One finds the {role} {text} {place}, in {style}, {align}.",
    "The {role} {text} appears {place}, written in {style}, {align}.",
)
MARKS = {"bullet": "round", "square": "square"}


def describe_page_richly(page: Page, rng: np.random.Generator, wordings: Split = "train") -> str:
    """Several sentences that leave out nothing that is drawn; each text is quoted once, in reading order."""
    shape = "square" if page.width == page.height else "wide" if page.width > page.height else "tall"
    a_page = f"a {shape} {page.kind}"
    facts = {"a_page": a_page, "A_page": a_page.capitalize(), "paper": paper_words(page)}
    sentences = [worded(rng, OPENINGS, facts, wordings), *decorations(page)]
    spelled, charts, blocks = rng.random() < SPELLED, list(page.charts), list(page.blocks)
    while blocks:
        role = blocks[0][0].role
        if role == "label":
            chart = charts.pop(0)
            own, blocks = blocks[: 2 * len(chart.labels)], blocks[2 * len(chart.labels) :]
            sentences += (spelled_chart if spelled else labelled_chart)(page, chart, own)
        elif role == "bullet":
            end = next((i for i, block in enumerate(blocks) if block[0].role not in ("bullet", "price")), len(blocks))
            own, blocks = blocks[:end], blocks[end:]
            if spelled:
                sentences += _spelled_list(page, own, rng, wordings)
            else:
                sentences += _dishes(page, own) if page.kind == "menu" else _bullets(page, own)
        else:
            sentences.append(_text(page, blocks.pop(0), rng, wordings))
    sentences += [plain_chart(chart) for chart in charts]
    sentences += [picture_sentence(page, picture) for picture in page.pictures]
    return " ".join(sentences)


def _text(page: Page, block: Block, rng: np.random.Generator, wordings: Split, role: str | None = None) -> str:
    line, place = block[0], place_words(block[0])
    own = "line" if page.kind == "sign" and line.role == "subtitle" else line.role
    facts = {
        "role": role or own,
        "text": quote(text_of(block)),
        "place": place,
        "Place": place.capitalize(),
        "style": style_words(page, block) + (f" on {NUMBER_WORDS[len(block)]} lines" if len(block) > 1 else ""),
        "align": ALIGNED[line.align],
    }
    return worded(rng, TEXTS, facts, wordings)


def _spelled_list(page: Page, blocks: Sequence[Block], rng: np.random.Generator, wordings: Split) -> list[str]:
    """A sentence for each bullet, dish and price."""
    sentences = []
    if page.kind != "menu":
        sentences.append(f"Below come {NUMBER_WORDS[len(blocks)]} bullets, each after {_mark(page)}.")
    for i, block in enumerate(blocks):
        ordinal = ORDINALS[i // 2 if page.kind == "menu" else i]
        noun = "bullet" if page.kind != "menu" else "dish" if block[0].role == "bullet" else "price"
        sentences.append(_text(page, block, rng, wordings, f"{ordinal} {noun}"))
    return sentences


def _mark(page: Page) -> str:
    mark = next(accent for accent in page.accents if accent.kind in MARKS)
    return f"a {MARKS[mark.kind]} {mark.colour} mark"


def _bullets(page: Page, blocks: Sequence[Block]) -> list[str]:
    """All bullets at once."""
    style = f"{style_words(page, blocks[0])}, aligned left, each after {_mark(page)}"
    where = "on the left half" if blocks[0][0].x < 0.45 and page.width > 0.85 * page.height else "below the title"
    quoted = [quote(text_of(block)) for block in blocks]
    return [f"From top to bottom {where} stand {NUMBER_WORDS[len(blocks)]} bullets in {style}: {listed(quoted)}."]


def _dishes(page: Page, blocks: Sequence[Block]) -> list[str]:
    dishes, prices = blocks[::2], blocks[1::2]
    pairs = [f"{quote(text_of(dish))} for {quote(text_of(price))}" for dish, price in zip(dishes, prices, strict=True)]
    dots = ", joined by dotted lines" if any(accent.kind == "dots" for accent in page.accents) else ""
    return [
        f"Below, {NUMBER_WORDS[len(dishes)]} dishes in {style_words(page, dishes[0])} are aligned left, their prices "
        f"in {style_words(page, prices[0])} aligned right{dots}.",
        f"From top to bottom: {listed(pairs)}.",
    ]
