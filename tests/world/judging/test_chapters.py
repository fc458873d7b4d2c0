"""The world's chapters: true pictures are right in each of them, others are not, and what a world lacks is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourstroke.evaluate.reading import can_read
from fourstroke.evaluate.report.chapter import ALL, LeftOutError, Question, Rows, summarise
from fourstroke.folder import ModelInfo
from fourstroke.recipe import load_kind, load_recipe
from fourstroke.registry import find
from fourstroke.world import World, WorldConfig
from fourstroke.world.dataset import PosterData, WorldData
from fourstroke.world.edits import KINDS, Edits
from fourstroke.world.judging import stickers
from fourstroke.world.judging.chapters import words
from fourstroke.world.judging.composition import held_out_prompts
from fourstroke.world.judging.judge import Judge
from fourstroke.world.judging.pages import TWO_LINES
from fourstroke.world.judging.stickers import judge_sticker, overlap
from fourstroke.world.pages import PageConfig, Pages

RECIPES = Path(__file__).parents[3] / "recipes" / "micro"
DATA = load_kind("datasets", RECIPES / "data.yaml")
INFO = ModelInfo(width=128, height=128)
CHAPTERS = ("composition", "counts", "edits", "languages", "pages", "relations", "stickers", "wordings", "words")
SMALL = replace(load_recipe(WorldConfig, RECIPES / "world.yaml"), things=12, words=0.0)
needs_reader = pytest.mark.skipif(not can_read(), reason="RapidOCR is not installed: pip install fourstroke[eval]")


@pytest.fixture
def truth(monkeypatch) -> dict[tuple[str, int], np.ndarray]:
    """The true picture of every caption and instruction that is worded, by its seed."""
    found: dict[tuple[str, int], np.ndarray] = {}

    def recording(kind: Any, name: str, draw: Any) -> None:
        say = getattr(kind, name)

        def told(self, graph, rich, seed, *more):
            text = say(self, graph, rich, seed, *more)
            found[text, seed] = draw(self, graph)
            return text

        monkeypatch.setattr(kind, name, told)

    recording(World, "caption", World.render)
    recording(Pages, "caption", Pages.render)
    recording(Edits, "instruction", lambda self, edit: self.render(edit)[1])
    return found


def asked(name: str, n: int, data: Any = DATA) -> Rows:
    return find("chapters", name)().rows(data, n, INFO)


def shares(
    questions: list[Question], truth: dict[tuple[str, int], np.ndarray], turned: bool = False
) -> dict[str, float]:
    pictures = [truth[question.prompt, question.seeds[0]] for question in questions]
    pictures = pictures[1:] + pictures[:1] if turned else pictures
    found = summarise([question.judge([p]) for question, p in zip(questions, pictures, strict=True)])
    return {name: value.value for name, value in found.items()}


def test_true_pictures_are_those_that_are_asked_for(truth):
    world = replace(SMALL, words=0.25, scripts=("latin",), sign_fonts=())
    data = WorldData(world=world)
    edits = replace(DATA.parts[2].data, edits=replace(DATA.parts[2].data.edits, world=world))
    found = {name: asked(name, 4, edits if name == "edits" else data) for name in ("composition", "stickers", "edits")}
    if can_read():
        found["words"] = asked("words", 4, data)
        found["pages"] = asked("pages", 4, PosterData(pages=PageConfig(snap=16)))
    for name, rows in found.items():
        for question in next(iter(rows.values())):
            assert np.array_equal(question.truth(), truth[question.prompt, question.seeds[0]]), name
            assert question.copied().key != question.key


def test_they_ask_what_they_say(truth):
    data = WorldData(world=SMALL)
    style = asked("composition", 8, data)
    assert len(style[ALL]) == len(style["short captions"]) + len(style["rich captions"]) == 8
    assert {"flat", "3d"} <= style.keys()
    counts = asked("counts", 12, data)
    assert sum(len(counts[name]) for name in ("two", "three", "four") if name in counts) == len(counts[ALL]) == 12
    arms = asked("wordings", 4, data)
    assert [q.prompt for q in arms["trained"]] != [q.prompt for q in arms["held out"]]
    assert [q.seeds for q in arms["trained"]] == [q.seeds for q in arms["held out"]]
    spoken = asked("languages", 4, data)
    assert list(spoken) == ["English", "Spanish", "Russian", "Chinese"]
    for questions in zip(*spoken.values(), strict=True):
        assert len({q.prompt for q in questions}) == 4
        assert len({truth[q.prompt, q.seeds[0]].tobytes() for q in questions}) == 1
    for name in ("wordings", "relations"):
        for contrast in find("chapters", name).contrasts:
            ours, theirs = (asked(name, 4, data)[row] for row in (contrast.ours, contrast.theirs))
            assert contrast.paired == ([q.seeds for q in ours] == [q.seeds for q in theirs] and name == "wordings")
    stated = asked("relations", 4, data)
    assert list(stated) == ["stated", "not stated", "in front of", "sizes"]
    assert "sizes" not in asked("relations", 2, WorldData(world=replace(SMALL, sizes=0.0)))


def test_true_pictures_are_right_and_others_are_not(truth):
    data = WorldData(world=SMALL)
    for name, fact in (("counts", "counts"), ("stickers", "outline"), ("relations", "objects")):
        rows = asked(name, 12, data)
        questions = next(iter(rows.values()))
        right, wrong = shares(questions, truth), shares(questions, truth, turned=True)
        assert right[fact] > 0.97, name
        assert wrong[fact] < 0.35, name
    assert shares(asked("composition", 6, data)[ALL], truth)["composition"] > 0.97
    sizes = asked("relations", 12, data)["sizes"]
    assert {q.judge([truth[q.prompt, q.seeds[0]]])["sizes"] for q in sizes} == {(1, 1)}
    assert shares(sizes, truth, turned=True)["sizes"] < 0.35
    unstated = shares(asked("relations", 6, data)["not stated"], truth)
    assert unstated["objects"] > 0.97
    assert "relations" not in unstated


def test_true_edits_are_right_and_others_are_not(truth):
    edits = replace(DATA.parts[2].data.edits, world=SMALL, kinds=(1, 1, 1, 1, 1, 1, 1, 0, 1, 1))
    rows = asked("edits", 6, replace(DATA.parts[2].data, edits=edits))
    assert sum(len(row) for name, row in rows.items() if name in KINDS) == 6
    (contrast,) = find("chapters", "edits").contrasts
    pairs = list(zip(rows[contrast.ours], rows[contrast.theirs], strict=True))
    assert contrast.paired
    assert all(np.array_equal(ours.truth(), theirs.truth()) for ours, theirs in pairs)
    assert all(ours.seeds == theirs.seeds and ours.prompt != theirs.prompt for ours, theirs in pairs)
    right, wrong = shares(rows[ALL], truth), shares(rows[ALL], truth, turned=True)
    assert right["changed"] > 0.97
    assert right["outside_psnr"] > 35
    assert wrong["changed"] < 0.35
    assert wrong["outside_psnr"] < 25


@needs_reader
def test_as_many_posters_of_two_lines_are_asked_as_pages():
    pages = PageConfig(scripts=("latin", "chinese"), snap=16)
    rows = asked("pages", 10, PosterData(pages=pages))
    two = {name: row for name, row in rows.items() if name.startswith(TWO_LINES)}
    assert len(two) == 3
    assert len(two[TWO_LINES]) == 10 == sum(len(row) for name, row in two.items() if name != TWO_LINES)
    without = replace(pages, kinds=(0, 0, 0, 0, 0, 1))
    assert TWO_LINES not in asked("pages", 4, PosterData(pages=without))


@needs_reader
def test_scripts_that_nothing_reads_are_left_out_with_their_weights(monkeypatch):
    monkeypatch.setattr(words, "readable", lambda script: script != "cyrillic")
    pages = PageConfig(scripts=("latin", "cyrillic", "chinese"), script_weights=(0.3, 0.6, 0.1))
    rows = asked("pages", 12, PosterData(pages=pages))
    assert len(rows["latin"]) > len(rows["chinese"]) > 0
    assert "cyrillic" not in rows
    monkeypatch.setattr(words, "readable", lambda script: script == "arabic")
    with pytest.raises(LeftOutError, match="nothing here reads"):
        asked("pages", 12, PosterData(pages=pages))


@needs_reader
def test_true_words_are_read_and_others_are_not(truth):
    data = WorldData(world=replace(SMALL, words=0.25, width=256, height=256, scripts=("latin",), snap=0, sign_fonts=()))
    rows = asked("words", 6, data)
    assert rows[ALL] == rows["latin"]
    assert sum(len(row) for name, row in rows.items() if "letters" in name) == len(rows["latin"]) == 6
    right, wrong = shares(rows["latin"], truth), shares(rows["latin"], truth, turned=True)
    assert right["words_exact"] > 0.8
    assert right["words_ned"] > 0.9
    assert wrong["words_exact"] == 0


@pytest.mark.slow
@needs_reader
@pytest.mark.parametrize("name", CHAPTERS)
def test_true_pictures_of_the_whole_world_are_right(name, truth):
    facts = {"edits": "changed", "pages": "words_ned", "stickers": "outline", "words": "words_ned", "counts": "counts"}
    least = {"pages": 0.85, "words": 0.9, "edits": 0.9}.get(name, 0.97)  # small letters of 128 pixels are hard to read
    for row, questions in asked(name, 60).items():
        if len(questions) >= 40:
            found = shares(questions, truth)
            assert found[facts.get(name, "objects")] > least, (row, found)


def test_what_a_world_lacks_is_left_out():
    first = WorldData(world=WorldConfig(sprites=0))
    for name in sorted(set(CHAPTERS) - {"composition"}):
        with pytest.raises(LeftOutError):
            asked(name, 2, first)
    assert set(asked("composition", 2, first)) == {ALL, "short captions", "rich captions"}
    with pytest.raises(LeftOutError, match="no drawn scenes"):
        asked("composition", 2, DATA.parts[1].data)


def test_outlines_overlap_as_they_should():
    square, half = np.zeros((8, 8)), np.zeros((8, 8))
    square[2:6, 2:6], half[2:6, 2:4] = 255, 255
    assert overlap(square, square) == 1
    assert overlap(square, half) == 0.5
    assert overlap(square, square / 2) == 0.5
    assert overlap(square, 0 * square) == 0
    assert overlap(0 * square, 0 * square) == 1


def test_a_sticker_may_be_a_little_off_but_not_another_outline():
    world = World(replace(SMALL, transparent=1.0, groups=0.0, overlaps=0.0, count_weights=(1.0,), shape_share=0.0))
    judge = Judge(world.config)
    scene = held_out_prompts(world, 1)[0].scene
    picture = world.render(scene)
    assert judge_sticker(judge, picture, scene).iou == 1
    assert judge_sticker(judge, np.roll(picture, (3, -2), (0, 1)), scene).iou > 0.98
    assert judge_sticker(judge, picture[..., :3], scene).iou == 0
    alpha, thing = picture[..., 3].astype(np.float32), scene.objects[0]
    off = replace(scene, objects=(replace(thing, x=thing.x + 2 / 128, y=thing.y - 3 / 128, size=thing.size + 2 / 128),))
    assert stickers._overlap_of(alpha, off) < 0.93
    assert stickers._fitted(alpha, off) > 0.98
    full = picture.copy()
    full[..., 3] = 255
    assert judge_sticker(judge, full, scene).iou < 0.6
    eaten = picture.copy()
    eaten[:, : round(scene.objects[0].x * 128), 3] = 0
    assert not judge_sticker(judge, eaten, scene).good
    with pytest.raises(ValueError, match="64x64, the scene 128x128"):
        judge_sticker(judge, picture[:64, :64], scene)
