"""Pairs are called right, swapped, off their axis or missing by where their things were found."""

from __future__ import annotations

import itertools

import pytest
from studies.pairs import pairs, verdict

from fourstroke.world import World, WorldConfig, split_of
from fourstroke.world.judging.judge import Detection, Judge, match

CONFIG = WorldConfig(sprites=0)  # shapes alone need no fonts
WORLD = World(CONFIG)


@pytest.mark.parametrize("split", ["heldout", "train"])
def test_true_pictures_of_pairs_are_right_and_those_of_the_mirrored_scene_are_not(split):
    judge, kinds = Judge(CONFIG), []
    for prompt in itertools.islice(pairs(WORLD, split), 6):
        scene = prompt.scene
        assert split_of(scene) == split
        seen = judge.look(WORLD.render(scene))
        assert verdict(scene, match(scene.objects, seen)) == "right"
        turned = [Detection(**{**vars(d), "x": 1 - d.x, "y": 1 - d.y}) for d in seen]
        kinds.append(verdict(scene, match(scene.objects, turned)))
    assert set(kinds) == {"swapped"}


def test_what_is_not_there_is_missing_and_diagonals_turn_to_the_longer_axis():
    prompt = next(pairs(WORLD, "heldout"))
    assert verdict(prompt.scene, [None, None]) == "missing"
    across = prompt.scene.relations[0].predicate in ("left of", "right of")
    near = {"kind": "shape", "colour": None, "style": "flat", "size": 0.3, "score": 1.0}
    apart = {"x": 0.5, "y": 0.1} if across else {"x": 0.1, "y": 0.5}
    two = [Detection(name="a", x=0.5, y=0.5, **near), Detection(name="b", **apart, **near)]
    assert verdict(prompt.scene, two) == "other axis"
