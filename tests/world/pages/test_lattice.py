"""Posters on a lattice: letters where signs have them, pictures in squares, captions true of both."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from fourstroke.world.lettering import letter_boxes as sign_letter_boxes
from fourstroke.world.pages import Page, PageConfig, Pages, letter_boxes, render_page, text_of
from fourstroke.world.pages.render import picture_box
from fourstroke.world.world import World, WorldConfig

CONFIG = PageConfig(
    kinds=(1, 0, 0, 0, 0, 0), words=(1, 6), scripts=("latin", "cyrillic", "chinese"), things=72, snap=16
)


@pytest.fixture(scope="module")
def posters() -> list[Page]:
    return [Pages(CONFIG).page(seed) for seed in range(120)]


def test_letters_fill_latents_and_pictures_squares(posters: list[Page]) -> None:
    tops = set()
    for page in posters:
        for line in page.lines:
            pitch = 32 if page.script == "chinese" else 16
            assert line.pitch == pitch
            boxes = [box for box in letter_boxes(replace(page, lines=(line,))) if box[0] != " "]
            slots = [((left + right) / 2 - pitch / 2) / 16 for _, left, _, right, _ in boxes]
            assert all(abs(slot - round(slot)) <= 5 / 16 for slot in slots)
            assert all(b - a > pitch / 16 - 0.6 for a, b in itertools.pairwise(slots))
        ((left, top, right, bottom),) = [picture_box(picture, 128, 128) for picture in page.pictures]
        assert max(right - left, bottom - top) == 60
        assert ((left + right) // 2 - 32) % 16 in (0, 1, 15)
        tops.add(((top + bottom) // 2 - 32) // 16)
    assert tops >= {0, 2, 4}


def test_a_letter_is_as_large_and_as_high_in_its_row_as_on_a_sign() -> None:
    world = World(WorldConfig(width=128, height=128, things=8, words=1.0, snap=16, sign_fonts=("monospaced",)))
    signs = [scene.sign for scene in map(world.scene, range(200)) if scene.sign is not None]
    heights = {c: (b - t, t % 16) for s in signs for c, (_, t, _, b) in sign_letter_boxes(s, 128, 128)}
    page = Pages(replace(CONFIG, scripts=("latin",), words=(1, 1)))
    found = [(c, bottom - top, top % 16) for p in map(page.page, range(60)) for c, _, top, _, bottom in letter_boxes(p)]
    common = [(heights[c], (tall, start)) for c, tall, start in found if c in heights]
    assert len(common) > 100
    assert all(abs(a[0] - b[0]) <= 1 and abs(a[1] - b[1]) <= 1 for a, b in common)


def test_title_and_subtitle_keep_clear_of_the_picture(posters: list[Page]) -> None:
    two = [page for page in posters if len(page.blocks) == 2]
    assert 30 < len(two) < 110
    for page in posters:
        drawn = render_page(page)[..., :3].astype(int)
        assert all(len(block) == 1 and text_of(block) for block in page.blocks)
        bare = render_page(replace(page, lines=()))[..., :3].astype(int)
        ink = np.abs(drawn - bare).sum(-1) > 90
        left, top, right, bottom = picture_box(page.pictures[0], 128, 128)
        assert ink[top + 8 : bottom - 8, left:right].sum() == 0
        assert ink.sum() > 40


def test_twice_the_side_has_larger_pictures_and_the_same_letters() -> None:
    page = Pages(replace(CONFIG, width=256, height=256)).page(1)
    left, top, right, bottom = picture_box(page.pictures[0], 256, 256)
    assert max(right - left, bottom - top) in (123, 124)
    assert {line.pitch for line in page.lines} <= {16, 32}


def test_what_has_no_lattice_is_refused() -> None:
    with pytest.raises(ValueError, match="snap=16: sides are multiples of 16, scripts of latin, cyrillic, chinese"):
        replace(CONFIG, width=120)
    with pytest.raises(ValueError, match="snap=16"):
        replace(CONFIG, scripts=("devanagari",))
    with pytest.raises(ValueError, match="found no train poster"):
        Pages(replace(CONFIG, height=64, width=64, words=(1, 1))).page(0)
