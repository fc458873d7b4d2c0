"""Pages keep their promises: the same everywhere, splits apart, parts whole and readable, facts in the pixels."""

import dataclasses
import hashlib
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from PIL import features

from fourstroke.evaluate.reading import compare, read_line
from fourstroke.fonts import find_font
from fourstroke.world.atlas import INDEX
from fourstroke.world.graph import Split, is_held_out
from fourstroke.world.pages import FONTS, KINDS, Page, PageConfig, Pages, letter_boxes, split_of_page, words_that_fit
from fourstroke.world.pages.colours import COLOURS, FEW_THEMES, THEMES, differ, stand_out
from fourstroke.world.pages.graph import Box, pixel_box, text_of, word_count
from fourstroke.world.pages.marks import bar_boxes, slots
from fourstroke.world.pages.phrases import FIELD, grammar, words_of
from fourstroke.world.pages.render import picture_box
from fourstroke.world.palette import INK_OF_BOARD
from fourstroke.world.words import WORDS

SCRIPTS = ("latin", "cyrillic", "chinese")
SIZES = ((128, 128), (256, 128), (96, 192), (64, 64), (192, 192), (256, 256))

READABLE = 4.5
"""Least contrast of an ink with what lies below it, as WCAG 2 asks of small text."""


def contrast(first: str, second: str) -> float:
    """The contrast of two named colours by WCAG 2, 1 (none) to 21."""
    return contrast_of(COLOURS[first], COLOURS[second])


def contrast_of(first: tuple[int, int, int], second: tuple[int, int, int]) -> float:
    """The contrast of two colours, 1 to 21."""
    darker, lighter = sorted((_luminance(first), _luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: tuple[int, int, int]) -> float:
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def pages(
    size: tuple[int, int], count: int = 40, split: Split = "train", scripts: Sequence[str] = SCRIPTS
) -> list[Page]:
    """Pages of all kinds in turn."""
    found = []
    for seed in range(count):
        kinds = tuple(1.0 if kind == KINDS[seed % 6] or size == (64, 64) else 0.0 for kind in KINDS)
        config = PageConfig(width=size[0], height=size[1], kinds=kinds, scripts=tuple(scripts))
        found.append(Pages(config).page(seed, split))
    return found


def overlap(first: Box, second: Box) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def chart_marks(page: Page) -> list[Box]:
    """What charts cover: each bar, or a whole disc or plot."""
    found: list[Box] = []
    for chart in page.charts:
        box = pixel_box(chart, page.width, page.height)
        found += bar_boxes(chart, box) if chart.kind == "bars" else [box]
    return found


def without_text(page: Page) -> np.ndarray:
    return Pages(PageConfig()).render(dataclasses.replace(page, lines=()))


def test_a_seed_gives_the_same_page_in_another_process() -> None:
    program = (
        "import hashlib; from fourstroke.world.pages import Pages, PageConfig;"
        "p = Pages(PageConfig(scripts=('latin', 'chinese'))); d = hashlib.sha256()\n"
        "for seed in range(12):\n"
        "    page = p.page(seed); d.update(p.render(page).tobytes() + p.caption(page, True, seed).encode())\n"
        "print(d.hexdigest())"
    )
    digests = {subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout for _ in range(2)}
    assert len(digests) == 1
    assert len(digests.pop()) == 65


def test_every_machine_draws_the_same_pictures() -> None:
    """These were written down on one machine."""
    for size, expected in (((128, 128), "2a78704e1d4aa51a"), ((256, 192), "9ccf70b789e89224")):
        found = b"".join(Pages(PageConfig()).render(page).tobytes() for page in pages(size, 24))
        assert hashlib.sha256(found).hexdigest()[:16] == expected


@pytest.mark.parametrize("size", SIZES)
def test_pages_survive_json(size: tuple[int, int]) -> None:
    for page in pages(size, 12):
        assert Page.from_dict(json.loads(json.dumps(page.to_dict()))) == page


@pytest.mark.parametrize("size", SIZES)
def test_parts_lie_inside_and_apart(size: tuple[int, int]) -> None:
    for page in pages(size):
        lines = [pixel_box(line, *size) for line in page.lines]
        pictures = [picture_box(picture, *size) for picture in page.pictures]
        marks = [pixel_box(accent, *size) for accent in page.accents if accent.kind in ("bullet", "square", "dots")]
        parts = [*lines, *pictures, *chart_marks(page), *marks]
        for box in parts:
            assert 0 <= box[0] < box[2] <= size[0], (page.kind, box)
            assert 0 <= box[1] < box[3] <= size[1], (page.kind, box)
        for first, second in itertools.combinations(parts, 2):
            assert not overlap(first, second), (page.kind, page.script, first, second)


@pytest.mark.parametrize("size", SIZES)
def test_text_can_be_read(size: tuple[int, int]) -> None:
    """Capitals of 7 pixels and more, and enough contrast with each pixel that lies below a letter."""
    for page in pages(size):
        assert all(line.size >= 7 for line in page.lines)
        below = without_text(page)[..., :3]
        inks = [COLOURS[line.ink] for line in page.lines for _ in line.text.replace(" ", "")]
        boxes = letter_boxes(page)
        assert len(inks) == len(boxes)
        for ink, (_, left, top, right, bottom) in zip(inks, boxes, strict=True):
            ground = {tuple(map(int, pixel)) for pixel in below[top:bottom, left:right].reshape(-1, 3)}
            assert min(contrast_of(ink, colour) for colour in ground) >= 0.98 * READABLE, (page.kind, page.paper)


@pytest.mark.parametrize("size", SIZES)
def test_letter_boxes_hold_the_ink_in_reading_order(size: tuple[int, int]) -> None:
    for page in pages(size, 24):
        changed = (Pages(PageConfig()).render(page) != without_text(page)).any(-1)
        boxes = letter_boxes(page)
        assert [letter for letter, *_ in boxes] == [c for line in page.lines for c in line.text if c != " "]
        outside = changed.copy()
        for _, left, top, right, bottom in boxes:
            inside = changed[top:bottom, left:right]
            assert inside.any(0).sum() >= 0.6 * (right - left)
            assert inside[0].any() or inside[1].any()
            outside[top:bottom, left:right] = False
        assert not outside.any()
        start = 0
        for line in page.lines:
            own = boxes[start : start + len(line.text.replace(" ", ""))]
            start += len(own)
            assert [box[1] for box in own] == sorted(box[1] for box in own)
            assert pixel_box(line, *size)[0] == min(box[1] for box in own)


def test_blocks_are_read_downwards() -> None:
    for page in pages((256, 256), 60):
        for block in page.blocks:
            heights = [line.y for line in block]
            assert heights == sorted(heights)
            assert len({(line.role, line.font, line.ink, line.size) for line in block}) == 1
        assert page.blocks[0][0].role == "title"
        assert page.lines[0].size == max(line.size for line in page.lines)


def test_words_are_as_many_as_asked() -> None:
    assert [words_that_fit(side, side) for side in (128, 192, 256, 400)] == [8, 16, 40, 40]
    counts = [word_count(page) for page in pages((128, 128), 120)]
    assert min(counts) == 1
    assert max(counts) == 8
    dense = Pages(PageConfig(width=256, height=256, kinds=(0, 1, 0, 0, 0, 0), words=(25, 40)))
    assert all(25 <= word_count(dense.page(seed)) <= 40 for seed in range(10))


def test_held_out_pages_share_no_content_word_with_training() -> None:
    """Nor does a training page write any word of the lists that is held out, frame words neither."""
    seen: dict[str, set[str]] = {}
    for split in ("train", "heldout"):
        found = [page for size in ((128, 128), (256, 256)) for page in pages(size, 60, split)]  # type: ignore[arg-type]
        assert all(split_of_page(page) == split for page in found)
        seen[split] = {word for page in found for word in page.words}
        if split == "train":
            texts = " ".join(text_of(block) for page in found for block in page.blocks if page.script != "chinese")
            listed = {word for word in texts.lower().replace(",", "").split() if is_held_out("word", word)}
            assert not listed & (set(WORDS["latin"]) | set((INDEX.parent / "cyrillic.txt").read_text("utf-8").split()))
    assert len(seen["heldout"]) > 60
    assert len(seen["train"]) > 250
    assert not seen["train"] & seen["heldout"]


def test_content_words_are_what_is_written() -> None:
    for page in pages((192, 192), 60, scripts=("latin", "cyrillic")):
        rules = grammar()[page.script]
        frame = {
            t for name, entry in rules.items() if name not in ("words", "letters") for e in entry for t in tokens(e)
        }
        written = {t for block in page.blocks for t in tokens(text_of(block).lower()) if not any(map(str.isdigit, t))}
        letters = set(rules["letters"].lower())
        assert set(page.words) <= written
        assert written - set(page.words) <= frame | letters


def tokens(text: str | list[str]) -> set[str]:
    joined = FIELD.sub(" ", text if isinstance(text, str) else " ".join(text)).replace(",", " ")
    return {token for token in joined.lower().split() if any(map(str.isalnum, token))}


@pytest.mark.parametrize("script", SCRIPTS)
def test_phrases_use_the_words_of_the_world(script: str) -> None:
    """Their words are those of the lists, their frame words are held out nowhere, and the fonts have the letters."""
    rules = grammar()[script]
    files = {"cyrillic": "cyrillic.txt", "chinese": "chinese.txt"}
    listed = set(WORDS["latin"] if script == "latin" else (INDEX.parent / files[script]).read_text("utf-8").split())
    words = {word for entry in rules["words"].values() for word in entry.split()}
    assert words <= listed
    assert all(words_of(script, name, "heldout") for name in rules["words"])
    frame = {t for name, entry in rules.items() if name not in ("words", "letters") for e in entry for t in tokens(e)}
    assert not {token for token in frame & listed if is_held_out("word", token)}
    texts = [rules["letters"], *(FIELD.sub("", str(entry)) for name, entry in rules.items() if name != "words"), *words]
    letters = {c for text in texts for c in text + text.upper() if c.isprintable()} - set("[]'{}\"")
    for file_name in FONTS[script].values():
        assert letters <= {chr(code) for code in TTFont(find_font(file_name)).getBestCmap()}


def test_colours_of_themes_go_together() -> None:
    for theme in THEMES + FEW_THEMES:
        papers = [paper for paper in (theme.paper, theme.second) if paper]
        for ink in (theme.ink, theme.title):
            assert min(contrast(ink, paper) for paper in papers) >= READABLE, theme
        assert contrast(theme.on_band, theme.band) >= READABLE, theme
        assert sum(stand_out(theme, accent) >= 100 for accent in theme.accents) >= 3, theme
        assert any(differ(first, second) for first, second in itertools.combinations(theme.accents, 2)), theme


def test_few_colours_are_those_of_boards() -> None:
    """Each word of a page is in the board's colour and ink of a sign, and there are no fewer than signs have."""
    some = Pages(PageConfig(few_colours=True))
    drawn = [some.page(seed) for seed in range(200)]
    grounds = {page.paper: {line.ink for line in page.lines} for page in drawn if not page.accents and not page.charts}
    assert grounds == {"dark green" if name == "green" else name: {ink} for name, ink in INK_OF_BOARD.items()}
    assert {line.ink for page in drawn for line in page.lines} == {"white", "black"}


def test_charts_show_their_values() -> None:
    """Pixels of bars, slices and lines are where the values say."""
    kinds = set()
    for page in pages((192, 192), 90):
        picture = without_text(page)[..., :3].astype(int)
        for chart in page.charts:
            kinds.add((chart.kind, chart.horizontal))
            left, top, right, bottom = box = pixel_box(chart, page.width, page.height)
            if chart.kind == "bars":
                for value, bar, colour in zip(chart.values, bar_boxes(chart, box), chart.colours, strict=True):
                    length, most = (
                        (bar[2] - bar[0], right - left) if chart.horizontal else (bar[3] - bar[1], bottom - top)
                    )
                    assert abs(length / most - value / max(chart.values)) <= 1 / most
                    assert (picture[bar[1] : bar[3], bar[0] : bar[2]] == COLOURS[colour]).all()
            elif chart.kind == "pie":
                area = {c: (picture[top:bottom, left:right] == COLOURS[c]).all(-1).sum() for c in chart.colours}
                whole = np.pi / 4 * (right - left) ** 2
                for value, colour in zip(chart.values, chart.colours, strict=True):
                    assert abs(area[colour] / whole - value / sum(chart.values)) < 0.06
            else:
                for value, (a, b) in zip(chart.values, slots(left, right, len(chart.values)), strict=True):
                    y = min(round(bottom - (bottom - top) * value / max(chart.values)), bottom - 1)
                    assert (picture[y, (a + b) // 2] == COLOURS[chart.colours[0]]).all()
    assert len(kinds) == 4


def test_what_cannot_be_drawn_is_refused() -> None:
    for wrong, message in (
        ({"width": 40}, "64 pixels a side"),
        ({"width": 300}, "ratio from 1:2"),
        ({"words": (9, 20)}, "8 fit 128x128"),
        ({"kinds": (0.0,) * 6}, "six weights"),
        ({"kinds": (-1.0, 1, 1, 1, 1, 1)}, "kinds"),
        ({"scripts": ("runes",)}, "choose from latin"),
        ({"script_weights": (1.0, 2.0)}, "one weight each"),
        ({"styles": ("oil",)}, "choose from flat"),
        ({"scripts": ("devanagari",)}, "FOURSTROKE_FONTS|Raqm"),
    ):
        with pytest.raises(ValueError, match=message):
            PageConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no page of the asked kinds"):
        Pages(PageConfig(width=64, height=64, kinds=(0, 1, 0, 0, 0, 0))).page(0)
    with pytest.raises(ValueError, match="'train' or 'heldout'"):
        Pages(PageConfig()).page(0, "test")  # type: ignore[arg-type]


@pytest.mark.skipif(not features.check("raqm"), reason="needs Pillow with Raqm")
def test_arabic_is_written_from_the_right() -> None:
    for page in pages((192, 192), 18, scripts=("arabic",)):
        boxes, start = letter_boxes(page), 0
        for line in page.lines:
            own = boxes[start : start + len(line.text.split())]
            start += len(own)
            assert [text for text, *_ in own] == line.text.split()
            assert [box[1] for box in own] == sorted((box[1] for box in own), reverse=True)


def test_pages_are_drawn_fast() -> None:
    world = Pages(PageConfig(scripts=SCRIPTS))
    made = [world.page(seed) for seed in range(150)]
    for page in made:
        world.render(page)
    start = time.process_time()
    for page in made:
        world.render(page)
    assert len(made) / (time.process_time() - start) > 300


@pytest.mark.slow
def test_titles_of_large_pages_can_be_read() -> None:
    pytest.importorskip("rapidocr")
    scores = []
    for page in pages((256, 256), 36, scripts=("latin", "chinese")):
        picture = Pages(PageConfig()).render(page)[..., :3]
        for line in page.blocks[0]:
            left, top, right, bottom = pixel_box(line, 256, 256)
            crop = picture[max(0, top - 3) : bottom + 3, max(0, left - 3) : right + 3]
            alone = np.broadcast_to(crop[0, 0], (192, 288, 3)).copy()
            alone[80 : 80 + crop.shape[0], 8 : 8 + crop.shape[1]] = crop[:112]
            scores.append(compare(read_line(alone), line.text).ned)
    assert len(scores) >= 36
    assert np.mean(scores) > 0.93
    assert np.mean(np.asarray(scores) == 1) > 0.8
