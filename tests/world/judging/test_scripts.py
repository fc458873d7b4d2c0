"""Words are read in the script that they are written in, or not judged."""

from __future__ import annotations

import pytest

from fourstroke.evaluate import reading
from fourstroke.world import World, WorldConfig
from fourstroke.world.judging.judge import Judge

CONFIG = WorldConfig(width=192, height=192, things=4, words=1.0, count_weights=(1.0,), scripts=("cyrillic",))
WORLD = World(CONFIG)


def signs(count: int) -> list:
    scenes = (WORLD.scene(seed, "heldout") for seed in range(8 * count))
    return [scene for scene in scenes if scene.sign is not None][:count]


@pytest.mark.skipif(not reading.can_read("cyrillic"), reason="needs Tesseract with Russian")
def test_cyrillic_is_read_in_its_own_letters():
    found = [
        reading.compare(reading.read_line(WORLD.render(scene)[..., :3], scene.sign.script), scene.sign.word)
        for scene in signs(6)
    ]
    assert sum(one.ned for one in found) / len(found) > 0.9
    assert sum(one.exact for one in found) >= 4


@pytest.mark.skipif(not reading.can_read(), reason="needs RapidOCR")
def test_words_that_nothing_can_read_are_not_judged(monkeypatch, capsys):
    (scene,) = signs(1)
    monkeypatch.setattr(reading, "can_read", lambda script="latin": script != "cyrillic")
    reading._tell.cache_clear()
    judge = Judge(CONFIG)
    for _ in range(2):
        assert judge.verdict(WORLD.render(scene), scene).word is None
    assert capsys.readouterr().err.count("tesseract-ocr-rus") == 1
    reading._tell.cache_clear()
