"""Words are read where they were drawn, in several scripts; what is asked comes from quotes or from the suite."""

from __future__ import annotations

import numpy as np
import pytest

from fourstroke.data.sample import Caption, Record
from fourstroke.evaluate.judging import judge_folder
from fourstroke.evaluate.ocr import OcrJudge, asked_texts, likeness, scores
from fourstroke.world import World, WorldConfig


def record(prompt, **meta):
    return Record(name="a", size=(8, 8), captions=(Caption(prompt),), meta=meta)


def test_what_is_asked_comes_from_the_suite_else_from_quotes():
    assert asked_texts(record('a sign "open" and “late”')) == ["open", "late"]
    assert asked_texts(record('a sign "open"', words=["shut", " "])) == ["shut"]
    assert asked_texts(record('a sign "open"', text="shut")) == ["shut"]
    assert asked_texts(record('a sign "open"', text={"odd": 1})) == ["open"]
    assert asked_texts(record("a sign", text="a sign")) == []
    asked = "a cat's board says 'on sale' and a dog's 'half price'"
    assert asked_texts(record(asked)) == []
    assert asked_texts(record(asked, suite="cvtg", texts=2)) == ["on sale", "half price"]


def test_texts_over_several_lines_are_found_among_others():
    lines = ["MENU", "soup of", "the day", "7.50"]
    assert scores(["soup of the day"], lines) == {"exact": 1, "ned": 1, "words": 1}
    assert likeness(["soup of the day", "menu"], lines) == 1
    found = scores(["soup of a day", "tea"], lines)
    assert found["exact"] == 0
    assert found["words"] == 3 / 5
    assert 0.6 < found["ned"] < 0.7
    assert scores(["tea"], []) == {"exact": 0, "ned": 0, "words": 0}


def test_words_count_as_often_as_they_are_read_and_characters_without_spaces():
    assert scores(["tea tea tea"], ["tea tea"])["words"] == pytest.approx(2 / 3)
    assert scores(["今日特价"], ["今日", "特卖"])["words"] == 3 / 4
    assert scores(["Tea!"], ["tea"])["words"] == 1


def test_a_picture_is_read_once(folder_of, monkeypatch, tmp_path):
    read = []
    monkeypatch.setattr("fourstroke.evaluate.ocr.read_lines", lambda pixels, script: read.append(1) or ["open"])
    monkeypatch.setattr("fourstroke.evaluate.ocr.can_read", lambda script="latin": True)
    monkeypatch.setattr("fourstroke.evaluate.ocr._version", lambda: "1")
    rows = [(np.full((8, 8, 3), shade, np.uint8), prompt, {})
            for shade, prompt in ((1, '"open"'), (1, '"shut"'), (2, '"今日"'), (3, "none"))]  # fmt: skip
    for _ in range(2):
        summary = judge_folder(folder_of(rows), OcrJudge(cache=tmp_path / "read.sqlite"))
        assert len(read) == 2
    assert (summary["judged"], summary["not_asked"]) == (3, 1)
    assert summary["totals"]["exact"]["value"] == pytest.approx(1 / 3)
    assert summary["by"]["script"].keys() == {"latin", "cjk"}


@pytest.mark.slow
def test_words_of_true_renders_are_read(folder_of):
    pytest.importorskip("rapidocr", reason="RapidOCR is not installed: pip install fourstroke[eval]")
    world = World(WorldConfig(width=192, height=192, sprites=0, words=1.0))
    scenes = [scene for scene in (world.scene(seed) for seed in range(30)) if scene.sign][:8]
    rows = [(world.render(scene)[..., :3], f'"{scene.sign.word}"', {}) for scene in scenes]
    true = judge_folder(folder_of(rows, "true"), OcrJudge())
    shifted = [(pixels, rows[k - 1][1], {}) for k, (pixels, _, _) in enumerate(rows)]
    others = judge_folder(folder_of(shifted, "others"), OcrJudge())
    assert true["totals"]["ned"]["value"] > 0.9
    assert others["totals"]["exact"]["value"] == 0
