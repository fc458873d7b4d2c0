"""Scenes on a lattice: where things and letters may be, and that nothing touches because of it."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from fourstroke.world.graph import Background, Group, Object, Scene
from fourstroke.world.lettering import letter_boxes, stamp_of
from fourstroke.world.snap import snapped
from fourstroke.world.world import World, WorldConfig

CONFIG = WorldConfig(
    width=128, height=128, things=24, styles=(1.0, 1.0, 0.0, 0.0), shape_share=0.2, groups=0.3, sizes=0.2, overlaps=0.2,
    unstated=0.3, words=0.4, max_word_length=8, scripts=("latin", "cyrillic", "chinese"), sign_fonts=("monospaced",),
    snap=16,
)  # fmt: skip
Box = tuple[float, float, float, float]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    world = World(CONFIG)
    return [world.scene(seed) for seed in range(300)]


def box(thing: Object) -> Box:
    x, y, half = thing.x * 128, thing.y * 128, thing.size * 64
    return x - half, y - half, x + half, y + half


def board(scene: Scene) -> list[Box]:
    if (sign := scene.sign) is None:
        return []
    x, y, across, down = (128 * value for value in (sign.x, sign.y, sign.width, sign.height))
    return [(x - across / 2, y - down / 2, x + across / 2, y + down / 2)]


def test_things_fill_squares_of_latents(scenes: list[Scene]) -> None:
    sides: Counter[float] = Counter()
    for scene in scenes:
        for thing in scene.objects:
            left, top, right, bottom = box(thing)
            assert all((edge - 2) % 16 == pytest.approx(0, abs=1e-6) for edge in (left, top))
            assert thing.size * 128 == pytest.approx(round(thing.size * 128))
            assert min(left, top) >= 2
            assert max(right, bottom) <= 126
            sides[round(thing.size * 128)] += 1
    assert set(sides) == {28, 60, 92}
    assert sides[60] > 0.9 * sides.total(), "only what captions call small or large is so"


def test_groups_stand_square_by_square(scenes: list[Scene]) -> None:
    seen: Counter[tuple[int, int, int]] = Counter()
    for scene in scenes:
        for unit in scene.units:
            xs, ys = ([round(128 * getattr(scene.objects[index], axis)) for index in unit] for axis in "xy")
            seen[len(unit), max(xs) - min(xs), max(ys) - min(ys)] += 1
            if len(unit) == 3:
                assert sorted(x - min(xs) for x in xs) == [0, 32, 64]
    assert set(seen) == {(1, 0, 0), (2, 64, 0), (2, 0, 64), (3, 64, 64), (4, 64, 64)}
    assert min(seen.values()) > 2


def hidden(scene: Scene) -> float:
    """The share of the farther thing that the nearer one covers."""
    alone = replace(scene, relations=(), background=Background(kind="transparent", edge="clean"))
    behind, before = (World(CONFIG).render(replace(alone, objects=(thing,)))[..., 3] > 128 for thing in scene.objects)
    return float((behind & before).sum() / behind.sum())


def test_the_nearer_thing_hides_a_part_of_the_other(scenes: list[Scene]) -> None:
    front = [scene for scene in scenes if scene.layout == "front"]
    assert len(front) > 8
    for scene in front:
        assert scene.objects[1].y - scene.objects[0].y >= 16 / 128
        assert 0.03 < hidden(scene) < 0.45
        assert snapped(scene, 16) == scene
    farther, nearer = front[0].objects
    for y in (0.1, 0.9):
        moved = snapped(replace(front[0], objects=(replace(farther, y=0.25), replace(nearer, y=y))), 16)
        assert moved is not None
        assert moved.objects[1].y > moved.objects[0].y
        assert 0.03 < hidden(moved) < 0.45


def test_three_things_stand_where_each_has_a_large_square(scenes: list[Scene]) -> None:
    three = [scene for scene in scenes if len(scene.units) == 3]
    assert {scene.layout for scene in three} == {"pyramid", "funnel"}
    assert {thing.scale for scene in three for thing in scene.objects} == {None}, "there is no room for three sizes"


def test_a_group_that_has_no_room_for_large_squares_has_small_ones(scenes: list[Scene]) -> None:
    lone = next(scene for scene in scenes if scene.layout == "alone" and len(scene.objects) == 1 and scene.sign is None)
    places = (0.2, 0.5, 0.8)
    row = tuple(replace(lone.objects[0], x=x, y=0.5, size=0.3, scale=None) for x in places)
    found = snapped(replace(lone, objects=row, groups=(Group(indices=(0, 1, 2), form="row"),)), 16)
    assert found is not None
    assert [box(thing)[0] for thing in found.objects] == [pytest.approx(at) for at in (18, 50, 82)]


def test_things_stay_apart_and_where_they_are_said_to_stand(scenes: list[Scene]) -> None:
    assert sum(len(scene.objects) for scene in scenes) > 300
    for scene in scenes:
        assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene
        if scene.layout == "front":
            continue
        for one, other in itertools.combinations([*map(box, scene.objects), *board(scene)], 2):
            gaps = (max(a, b) - min(c, d) for a, b, c, d in zip(one[:2], other[:2], one[2:], other[2:], strict=True))
            assert max(gaps) >= 2 - 1e-6
        for relation in scene.relations:
            one, other = (scene.objects[index] for index in (relation.subject, relation.object))
            ahead = {
                "left of": other.x - one.x, "right of": one.x - other.x, "above": other.y - one.y,
                "below": one.y - other.y,
            }  # fmt: skip
            assert ahead[relation.predicate] > 0.2


def test_a_letter_looks_the_same_and_meets_latents_alike_in_every_place(scenes: list[Scene]) -> None:
    seen: dict[tuple[str, str, int], np.ndarray] = {}
    again, places = 0, Counter[str]()
    for scene in scenes:
        sign = scene.sign
        if sign is None:
            continue
        pitch = round(sign.pitch * 128)
        assert pitch == (32 if sign.script == "chinese" else 16)
        ink = stamp_of(sign, 128, 128).planes[:3]
        height, width = ink.shape[1:]
        left, top = round(sign.x * 128 - width / 2), round(sign.y * 128 - height / 2)
        assert height == 40
        assert (top + 20) % 16 == 8, "in the middle of a row of latents"
        places[sign.place] += 1
        for place, (letter, (a, b, c, d)) in enumerate(letter_boxes(sign, 128, 128)):
            slot = left + 8 + pitch * place
            assert slot % 16 == 0
            assert slot <= (a + c) / 2 <= slot + pitch
            rows, columns = slice(int(b) - top, int(d) - top), slice(int(a) - left, int(c) - left)
            found = np.abs(ink[:, rows, columns] - ink[:, rows, columns][:, :1, :1]).sum(0)
            key = letter, sign.board, pitch
            again += key in seen
            assert np.allclose(found, seen.setdefault(key, found), atol=1e-3)
    assert again > 50
    assert min(places[place] for place in ("top", "center", "bottom")) > 10


def test_long_words_fit_their_board() -> None:
    longest = 0
    for scene in (World(CONFIG).scene(seed) for seed in range(300, 900)):
        if scene.sign is not None:
            ((left, top, right, bottom),) = board(scene)
            assert top >= 2
            assert bottom <= 126
            boxes = [where for _, where in letter_boxes(scene.sign, 128, 128)]
            assert max(left + 2, 0) <= min(where[0] for where in boxes)
            assert max(where[2] for where in boxes) <= min(right - 2, 128)
            length = len(scene.sign.word) * (2 if scene.sign.script == "chinese" else 1)
            assert (left < 0) == (length >= 7), "only long ones run off the picture"
            assert right <= 126 or length == 8
            longest = max(longest, len(scene.sign.word))
    assert longest == 8


def test_what_lies_on_the_lattice_stays_as_it_is(scenes: list[Scene]) -> None:
    assert all(snapped(scene, 16) == scene for scene in scenes)


def test_things_of_twice_the_side_stand_on_twice_the_lattice_and_letters_stay() -> None:
    world = World(replace(CONFIG, width=256, height=256))
    scenes = [world.scene(seed) for seed in range(120)]
    assert {round(thing.size * 256) for scene in scenes for thing in scene.objects} == {56, 120}
    for scene in scenes:
        lefts = [(thing.x - thing.size / 2) * 256 - 4 for thing in scene.objects]
        assert all(left % 32 == pytest.approx(0, abs=1e-6) for left in lefts)
        assert snapped(scene, 16) == scene
        if scene.sign is not None:
            assert round(scene.sign.pitch * 256) == (32 if scene.sign.script == "chinese" else 16)
    assert sum(scene.layout == "front" for scene in scenes) > 3
    assert sum(len(scene.objects) > 2 for scene in scenes) > 12


def test_what_the_lattice_would_bring_together_is_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("fourstroke.world.drawing.snapped", lambda scene, step: asked.append(step))
    with pytest.raises(ValueError, match="found no train scene"):
        World(CONFIG).scene(0)
    assert asked[0] == 16
    assert len(asked) > 100
