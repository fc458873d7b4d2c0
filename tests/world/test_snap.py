"""Scenes on a lattice: where things and letters may be, and that nothing touches because of it."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from fourstroke.world.graph import Object, Scene
from fourstroke.world.lettering import letter_boxes, stamp_of
from fourstroke.world.world import World, WorldConfig

CONFIG = WorldConfig(
    width=128, height=128, things=24, styles=(1.0, 1.0, 0.0, 0.0), shape_share=0.2, groups=0.3, sizes=0.2, overlaps=0.2,
    unstated=0.3, words=0.4, max_word_length=8, scripts=("latin", "cyrillic", "chinese"), sign_fonts=("monospaced",),
    snap=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    world = World(CONFIG)
    return [world.scene(seed) for seed in range(300)]


def box(thing: Object) -> tuple[float, float, float, float]:
    x, y, half = thing.x * 128, thing.y * 128, thing.size * 64
    return x - half, y - half, x + half, y + half


def is_free(scene: Scene) -> bool:
    return scene.layout == "front" or any(thing.scale for thing in scene.objects)


def test_things_fill_squares_of_the_lattice_unless_their_sizes_are_spoken_of(scenes: list[Scene]) -> None:
    for scene in scenes:
        for thing in scene.objects:
            left, top, right, bottom = box(thing)
            if not is_free(scene):
                assert all((edge - 1) % 8 == pytest.approx(0, abs=1e-6) for edge in (left, top))
                assert (thing.size * 128 + 2) % 8 == pytest.approx(0, abs=1e-6)
                assert min(left, top) >= 1
                assert max(right, bottom) <= 127
    assert 10 < sum(map(is_free, scenes)) < 150


def test_things_stay_apart_and_where_they_are_said_to_stand(scenes: list[Scene]) -> None:
    free = World(replace(CONFIG, snap=0))
    for seed, scene in enumerate(scenes):
        assert [thing.name for thing in scene.objects] == [thing.name for thing in free.scene(seed).objects]
        assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene
        if is_free(scene):
            assert scene.objects == free.scene(seed).objects
            continue
        for one, other in itertools.combinations(map(box, scene.objects), 2):
            apart = max(
                max(a, b) - min(c, d) for a, b, c, d in zip(one[:2], other[:2], one[2:], other[2:], strict=True)
            )
            assert apart >= 2 - 1e-6
        for relation in scene.relations:
            one, other = scene.objects[relation.subject], scene.objects[relation.object]
            ahead = {
                "left of": other.x - one.x, "right of": one.x - other.x, "above": other.y - one.y,
                "below": one.y - other.y,
            }  # fmt: skip
            assert ahead[relation.predicate] > 0.2


def test_a_letter_looks_the_same_in_every_place_of_every_word(scenes: list[Scene]) -> None:
    seen: dict[tuple[str, str, int], np.ndarray] = {}
    again = 0
    for scene in scenes:
        sign = scene.sign
        if sign is None or sign.script == "chinese":
            continue
        pitch = sign.pitch * 128
        assert pitch == (16 if len(sign.word) <= 6 else 12)
        ink = stamp_of(sign, 128, 128).planes[:3]
        height, width = ink.shape[1:]
        left, top = round(sign.x * 128 - width / 2), round(sign.y * 128 - height / 2)
        assert top % 8 == 0
        assert height in (32, 48)
        for place, (letter, (a, b, c, d)) in enumerate(letter_boxes(sign, 128, 128)):
            slot = 64 - pitch * len(sign.word) / 2 + pitch * place
            assert slot <= (a + c) / 2 <= slot + pitch
            rows, columns = slice(int(b) - top, int(d) - top), slice(int(a) - left, int(c) - left)
            found = np.abs(ink[:, rows, columns] - ink[:, rows, columns][:, :1, :1]).sum(0)
            key = letter, sign.board, height * 100 + int(pitch)
            again += key in seen
            assert np.allclose(found, seen.setdefault(key, found), atol=1e-3)
    assert again > 50


def test_long_words_fit_their_board() -> None:
    for scene in (World(CONFIG).scene(seed) for seed in range(300, 900)):
        if scene.sign is not None:
            assert scene.sign.width <= 0.95
            boxes = [where for _, where in letter_boxes(scene.sign, 128, 128)]
            edge = 64 - scene.sign.width * 64
            assert edge + 2 <= min(where[0] for where in boxes)
            assert max(where[2] for where in boxes) <= 126 - edge
