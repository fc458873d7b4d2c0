"""The judge that is no reward learns what it claims, and is kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fourstroke.data.sample import Caption, Record
from fourstroke.registry import find
from fourstroke.world import World, WorldConfig
from fourstroke.world.enhancer_judge import PresenceJudge, WorldJudge, _varied, targets, train_judge

SHAPES = WorldConfig(width=32, height=32, sprites=0)


def _records(scenes):
    return [Record(name="x", size=(32, 32), captions=(Caption("x"),), meta={"scene": s.to_dict()}) for s in scenes]


def test_it_is_found_by_name_and_refuses_what_has_no_scene(tmp_path):
    judge = find("judges", "world")(world=SHAPES, steps=1, batch_size=2, width=4).open(tmp_path / "j")
    assert isinstance(judge, PresenceJudge)
    picture = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="no scene"):
        judge.score([picture], [Record(name="x", size=(8, 8))])
    assert judge.score([], []) == {"presence": [], "finish": []}


def test_the_held_out_judge_learns_and_is_kept(tmp_path):
    config = WorldJudge(world=SHAPES, steps=80, batch_size=32, lr=1e-2, width=16, side=32)
    judge = train_judge(config, tmp_path / "judge")
    world = World(SHAPES)
    scenes = [world.scene(seed, "heldout") for seed in range(40)]
    pictures = [world.render(scene) for scene in scenes]
    right, wrong = (
        np.mean(judge.score(pictures, _records(asked))["presence"]) for asked in (scenes, scenes[1:] + scenes[:1])
    )
    assert right > wrong + 0.05
    assert targets(judge.titles, scenes).sum(1).min() >= 1
    plain = [_plainly(scene) for scene in scenes]
    seen = [judge.score([world.render(s) for s in some], _records(some))["finish"] for some in (scenes, plain)]
    assert np.mean(seen[0]) > np.mean(seen[1])
    again = train_judge(config, tmp_path / "judge")
    assert all(torch.equal(a, b) for a, b in zip(judge.parameters(), again.parameters(), strict=True))


def _plainly(scene):
    ground = scene.background
    return replace(scene, background=replace(ground, kind="flat", second=None, texture="plain", light="even"))


def test_targets_name_what_is_there_and_whether_the_background_is_finished():
    scene = _plainly(World(SHAPES).scene(0))
    titles = ("cat", *(entry.title for entry in scene.objects))
    grounds = ({}, {"texture": "dots"}, {"light": "left"}, {"kind": "gradient", "second": "white"}, {"kind": "horizon"})
    scenes = [replace(scene, background=replace(scene.background, **ground)) for ground in grounds]
    assert targets(titles, scenes)[:, -1].tolist() == [0, 1, 1, 1, 1]
    assert targets(titles, scenes)[:, :-1].tolist() == [[0] + [1] * len(scene.objects)] * 5


def test_presence_is_the_mean_over_what_is_stated():
    """One thing that is seen and one that is not are half of what was asked."""
    judge = PresenceJudge(SHAPES, width=4, side=32)
    scene = next(s for seed in range(99) if len((s := World(SHAPES).scene(seed)).objects) == 2)
    seen, missed = (judge.titles.index(entry.title) for entry in scene.objects)
    with torch.no_grad():
        judge.head.weight.zero_()
        judge.head.bias[seen], judge.head.bias[missed] = 20.0, -20.0
    (presence,) = judge.score([World(SHAPES).render(scene)], _records([scene]))["presence"]
    assert abs(presence - 0.5) < 1e-6


def test_it_learns_from_as_many_signs_as_the_world_has_and_reads_nothing_where_nothing_is_asked():
    config = WorldJudge(world=replace(SHAPES, words=0.5, transparent=0.3), width=4, side=32)
    world = World(_varied(config))
    scenes = [world.scene(seed) for seed in range(80)]
    assert 20 < sum(scene.sign is not None for scene in scenes) < 60
    judge = PresenceJudge(config.world, width=4, side=32).eval()
    scores = judge.score([world.render(scene) for scene in scenes], _records(scenes))
    assert [np.isnan(value) for value in scores["presence"]] == [not scene.objects for scene in scenes]
    clear = [scene.background.kind == "transparent" for scene in scenes]
    assert [np.isnan(value) for value in scores["finish"]] == clear
    assert any(clear)
    assert not all(scene.objects for scene in scenes)
