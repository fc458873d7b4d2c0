"""Captions of pages quote exactly what is drawn, in reading order, and state what the graph says."""

import re

import pytest

from fourstroke.world.pages import KINDS, LANGUAGES, Page, PageConfig, Pages, category_of_page, text_of
from fourstroke.world.pages.caption import facts_of
from fourstroke.world.pages.graph import Chart
from fourstroke.world.pages.rich import OPENINGS, TEXTS
from fourstroke.world.pages.wordings import ENGLISH, FIELD, OTHERS, is_held_out_wording

SMALL = Pages(PageConfig(scripts=("latin", "cyrillic", "chinese")))
LARGE = Pages(PageConfig(width=256, height=256, scripts=("latin", "cyrillic", "chinese")))
SPLITS = ("train", "heldout")


def some(pages: Pages, count: int = 120) -> list[tuple[int, Page]]:
    return [(seed, pages.page(seed)) for seed in range(count)]


def quoted(caption: str) -> list[str]:
    return re.findall('"([^"]*)"', caption)


def written(page: Page) -> list[str]:
    return [text_of(block) for block in page.blocks]


@pytest.mark.parametrize("pages", [SMALL, LARGE])
def test_rich_captions_quote_each_text_once_in_reading_order(pages: Pages) -> None:
    for seed, page in some(pages):
        for split in SPLITS:
            caption = pages_caption(pages, page, seed, split)
            assert quoted(caption) == written(page), caption
            assert caption.count('"') == 2 * len(page.blocks)


def pages_caption(pages: Pages, page: Page, seed: int, split: str) -> str:
    return pages.caption(page, True, seed, wordings=split)  # type: ignore[arg-type]


@pytest.mark.parametrize("pages", [SMALL, LARGE])
def test_short_captions_quote_texts_in_order(pages: Pages) -> None:
    for seed, page in some(pages):
        for split in SPLITS:
            caption = pages.caption(page, False, seed, wordings=split)  # type: ignore[arg-type]
            rest = iter(written(page))
            assert quoted(caption)
            assert all(text in rest for text in quoted(caption)), caption
            assert "{" not in caption


def test_rich_captions_state_what_is_drawn() -> None:
    longest = 0
    for seed, page in some(LARGE):
        caption = LARGE.caption(page, True, seed)
        longest = max(longest, len(caption.split()))
        assert page.kind in caption
        assert page.paper in caption
        assert page.second is None or page.second in caption
        for line in page.lines:
            assert f"{line.ink} {line.font} letters" in caption
        for picture in page.pictures:
            assert picture.name in caption
        for chart in page.charts:
            assert all(colour in caption for colour in chart.colours)
            assert {"bars": "bar chart", "pie": "pie chart", "line": "line chart"}[chart.kind] in caption
    assert 200 < longest < 700  # words; about 1.4 tokens each


def test_charts_without_text_are_told_by_their_shares() -> None:
    charts = [(page, chart) for _, page in some(SMALL, 300) for chart in page.charts if not chart.labels]
    assert charts
    for page, chart in charts:
        caption = SMALL.caption(page, True, 0)
        for value in chart.values:
            whole = sum(chart.values) if chart.kind == "pie" else max(chart.values)
            assert f"{round(100 * value / whole)} percent" in caption


def test_short_captions_come_in_four_languages() -> None:
    for seed, page in some(SMALL, 150):
        for language in LANGUAGES:
            if page.kind in ("poster", "sign") or language == "en":
                assert quoted(SMALL.caption(page, False, seed, language))[0] == written(page)[0]
                continue
            with pytest.raises(ValueError, match="choose a poster or sign"):
                SMALL.caption(page, False, seed, language)
    with pytest.raises(ValueError, match="'fr'"):
        SMALL.caption(page, False, 0, "fr")


def test_articles_fit() -> None:
    for seed, page in some(SMALL, 300):
        for rich in (False, True):
            caption = SMALL.caption(page, rich, seed)
            assert not re.search(r"\b[Aa] [aeio]", re.sub('"[^"]*"', "", caption)), caption
            assert not re.search(r"\b[Aa]n [^aeiou]", re.sub('"[^"]*"', "", caption)), caption


def test_held_out_wordings_stay_out_of_training() -> None:
    """Each list has wordings of both splits that any page of the kind can fill."""
    lists = [*ENGLISH.values(), *(entry for language in OTHERS.values() for entry in language.values())]
    for templates in lists:
        always = [template for template in templates if set(FIELD.findall(template)) <= {"title", "paper", "ink"}]
        assert {is_held_out_wording(template) for template in always} == {False, True}, templates
        assert len(set(templates)) == len(templates)
    for templates in (OPENINGS, TEXTS):
        assert {is_held_out_wording(template) for template in templates} == {False, True}
    seen: dict[str, set[str]] = {split: set() for split in SPLITS}
    for seed, page in some(SMALL, 400):
        for split in SPLITS:
            caption = SMALL.caption(page, False, seed, wordings=split)  # type: ignore[arg-type]
            fitting = [t for t in ENGLISH[page.kind] if caption in (filled(t, page, False), filled(t, page, True))]
            assert fitting, caption
            seen[split].update(fitting)
    assert {is_held_out_wording(template) for template in seen["train"]} == {False}
    assert {is_held_out_wording(template) for template in seen["heldout"]} == {True}


def filled(template: str, page: Page, styled: bool) -> str:
    facts = facts_of(page, "en", styled)
    return template.format(**facts) if set(FIELD.findall(template)) <= facts.keys() else ""


def test_categories_are_those_of_the_report() -> None:
    found = {(page.kind, category_of_page(page)) for _, page in some(LARGE, 300)}
    assert {kind for kind, _ in found} == set(KINDS)
    assert {kind for kind, category in found if category == "Text"} == {"poster", "sign"}
    assert {category for _, category in found} == {"Text", "Complex Text"}


def test_values_are_told_with_labels_and_colours() -> None:
    for seed, page in some(LARGE, 120):
        caption = LARGE.caption(page, True, seed)
        for chart in page.charts:
            for label, number in pairs(chart):
                assert re.search(f'"{re.escape(label)}"[^"]*"{re.escape(number)}"', caption)


def pairs(chart: Chart) -> list[tuple[str, str]]:
    return list(zip(chart.labels, chart.numbers, strict=True))
