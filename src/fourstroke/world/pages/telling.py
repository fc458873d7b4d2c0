"""Sentences about the parts of a page: where things stand, what decorates it, what its charts show."""

from __future__ import annotations

from collections.abc import Sequence

from fourstroke.world.caption import size_word, with_article
from fourstroke.world.pages.caption import NUMBER_WORDS, STYLE_WORDS, chart_noun, listed, quote
from fourstroke.world.pages.graph import Accent, Align, Chart, Page, Picture, Placed, TextLine, text_of

Block = tuple[TextLine, ...]
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
ALIGNED: dict[Align, str] = {"left": "aligned left", "center": "centered", "right": "aligned right"}


def place_words(part: Placed) -> str:
    """Where a part stands: ``at the top left``, ``on the right``, ``in the middle``."""
    row = "top" if part.y < 0.37 else "bottom" if part.y > 0.63 else ""
    side = "" if part.width > 0.6 or abs(part.x - 0.5) < 0.12 else "left" if part.x < 0.5 else "right"
    if row:
        return f"at the {row} {side}".rstrip()
    return f"on the {side}" if side else "in the middle"


def text_size(page: Page, line: TextLine) -> str:
    """``very large`` to ``small``: height of capitals as a share of the page's shorter side."""
    share = line.size / min(page.width, page.height)
    return (
        "very large" if share >= 0.14 else "large" if share >= 0.09 else "medium-sized" if share >= 0.065 else "small"
    )


def paper_words(page: Page) -> str:
    """The paper: plain, or how it fades."""
    if page.second is None:
        return f"plain {page.paper} paper"
    return f"paper that fades from {page.paper} at the top to {page.second} at the bottom"


def decorations(page: Page) -> list[str]:
    """A sentence for each band, panel, frame and line."""
    found = []
    for accent in page.accents:
        if accent.kind == "band" and accent.width < 0.1:
            found.append(f"{with_article(accent.colour).capitalize()} bar stands to the left of the title.")
        elif accent.kind == "band":
            side = "the left" if accent.x < 0.4 else "the right" if accent.x > 0.6 else ""
            where = (
                f"fills {side} half"
                if side and accent.height > 0.9
                else (f"covers the {'top' if accent.y < 0.5 else 'bottom'}")
            )
            found.append(f"{with_article(accent.colour).capitalize()} band {where}.")
        elif accent.kind == "panel":
            found.append(f"In the middle lies {with_article(accent.colour)} panel with round corners.")
        elif accent.kind == "frame":
            found.append(f"A thin {accent.colour} frame with round corners runs around the text.")
        elif accent.kind == "dashes":
            line = "horizontal" if accent.width > accent.height else "vertical"
            found.append(f"A dashed {accent.colour} {line} line sets the stub apart.")
        elif accent.kind == "rule" and not _is_baseline(page, accent):
            found.append(f"A thin {accent.colour} line runs below the title.")
    return found


def _is_baseline(page: Page, accent: Accent) -> bool:
    """Whether a rule is the axis of a chart."""
    return any(abs(accent.x - chart.x) < 1e-3 and abs(accent.width - chart.width) < 1e-3 for chart in page.charts)


def style_words(page: Page, block: Block) -> str:
    """Size, colour and font of a text: ``large white bold serif letters``."""
    return f"{text_size(page, block[0])} {block[0].ink} {block[0].font} letters"


def labelled_chart(page: Page, chart: Chart, blocks: Sequence[Block]) -> list[str]:
    """A chart with its labels and numbers, each quoted in its place in the reading order."""
    labels, numbers = blocks[::2], blocks[1::2]
    pairs = [f"{quote(text_of(a))} at {quote(text_of(b))}" for a, b in zip(labels, numbers, strict=True)]
    if chart.kind == "pie" or len(set(chart.colours)) > 1:
        pairs = [f"{pair} in {colour}" for pair, colour in zip(pairs, chart.colours, strict=True)]
    places = {
        "pie": "The legend beside it has the labels on the left",
        "line": "The labels stand below the line",
        "bars": "The labels stand to the left of the bars" if chart.horizontal else "The labels stand below the bars",
    }
    ends = {
        "pie": "on the right",
        "line": "along the top",
        "bars": "at their ends" if chart.horizontal else "on top of them",
    }
    return [
        f"{_chart(chart)} {listed(pairs)}.",
        f"{places[chart.kind]} in {style_words(page, labels[0])}, the numbers {ends[chart.kind]} in "
        f"{style_words(page, numbers[0])}.",
    ]


def spelled_chart(page: Page, chart: Chart, blocks: Sequence[Block]) -> list[str]:
    """A labelled chart with a sentence for each value."""
    part = {"pie": "slice", "line": "point", "bars": "bar"}[chart.kind]
    most = sum(chart.values) if chart.kind == "pie" else max(chart.values)
    whole = {"pie": "of the disc", "line": "of the full height", "bars": "of the longest one"}[chart.kind]
    sentences = [f"{_chart(chart).rstrip(':')}."]
    for i, value in enumerate(chart.values):
        label, number = blocks[2 * i : 2 * i + 2]
        colour = chart.colours[i % len(chart.colours)]
        verb = "takes" if chart.kind == "pie" else "reaches"
        sentences.append(
            f"The {ORDINALS[i]} {part}, in {colour}, {verb} {round(100 * value / most)} percent {whole}; it is labelled"
            f" {quote(text_of(label))} in {style_words(page, label)}, {ALIGNED[label[0].align]}, and its number is "
            f"{quote(text_of(number))} in {style_words(page, number)}, {ALIGNED[number[0].align]}."
        )
    return sentences


def plain_chart(chart: Chart) -> str:
    """A chart without text: its values as shares of the largest, or of the whole."""
    most = sum(chart.values) if chart.kind == "pie" else max(chart.values)
    shares = [f"{round(100 * value / most)} percent" for value in chart.values]
    if len(set(chart.colours)) > 1:
        shares = [f"{share} in {colour}" for share, colour in zip(shares, chart.colours, strict=True)]
    return f"{_chart(chart)} {listed(shares)}{'' if chart.kind == 'pie' else ' of its full height'}."


def _chart(chart: Chart) -> str:
    """The beginning of a chart's sentence, up to its values."""
    noun, count = chart_noun(chart), NUMBER_WORDS[len(chart.values)]
    same = f"{chart.colours[0]} " if len(set(chart.colours)) == 1 else ""
    parts = {
        "pie": f"has {count} slices, clockwise from the top:",
        "line": f"has {count} points on {with_article(f'{same}line')}, from left to right:",
        "bars": f"has {count} {same}bars, from {'top to bottom' if chart.horizontal else 'left to right'}:",
    }
    return f"{with_article(noun).capitalize()} {place_words(chart)} {parts[chart.kind]}"


def picture_sentence(page: Page, picture: Picture) -> str:
    """Where which thing is, how large, in which style."""
    thing = with_article(f"{size_word(picture.size)} {STYLE_WORDS[picture.style]} {picture.name}")
    disc = [accent.colour for accent in page.accents if accent.kind == "disc"]
    before = f" before {with_article(disc[0])} disc" if disc else ""
    return f"{picture_place(page, picture).capitalize()} there is {thing}{before}."


def picture_place(page: Page, picture: Picture) -> str:
    """Where a thing stands, as `place_words` says it."""
    width = picture.size * min(page.width, page.height) / page.width
    return place_words(Accent(kind="disc", colour="", x=picture.x, y=picture.y, width=width, height=picture.size))
