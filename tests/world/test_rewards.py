"""Rewards that a world gives: facts seen in pixels, things and places named."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from fourstroke.enhance.checks import Lexicon
from fourstroke.enhance.prompts import request
from fourstroke.enhance.rewards import RewardBatch
from fourstroke.evaluate.reading import Reading
from fourstroke.registry import find
from fourstroke.world import World, WorldConfig
from fourstroke.world.caption_rules import scene_of, world_triplets
from fourstroke.world.judging.judge import Verdict
from fourstroke.world.rewards import Consistency, consistency

SHAPES = WorldConfig(width=32, height=32, sprites=0)
LEXICON = Lexicon(("circle", "square"), ("red", "green"))


def _batch(requests, rewrites):
    pictures = [np.zeros((8, 8, 3), np.uint8)] * len(requests)
    return RewardBatch([request("x", text, (8, 8)) for text in requests], rewrites, lambda: pictures, LEXICON)


def _verdict(**more):
    empty = {"objects": (), "colours": (), "relations": (), "backgrounds": (), "word": None}
    return Verdict(**(empty | more))


def test_consistency_is_the_share_of_stated_facts():
    verdict = _verdict(objects=(True, False), colours=(True,), relations=(False,), backgrounds=(False,))
    assert consistency(verdict) == 0.5
    assert consistency(verdict, states_background=True) == 0.4
    assert math.isnan(consistency(_verdict()))
    for exact in (True, False):
        word = Reading(text="x", exact=exact, ned=0.5)
        assert consistency(_verdict(objects=(True,), word=word)) == (1 + exact) / 2


def test_things_are_counted_by_name_and_places_by_what_is_said():
    def read(name, request, rewrite):
        return find("rewards", name)()(_batch([request], [rewrite])).tolist()[0]

    assert read("things", "a red circle", "A red circle.") == 1
    assert read("things", "a red circle", "A red circle and a square.") == 0.5
    assert read("things", "a red circle", "A square.") == 0
    assert read("things", "a red circle", "Two red circles.") == 0.5
    request = "a red circle left of a green square"
    assert read("places", request, "A green square to the right of a red circle.") == 1
    assert read("places", request, "A green square to the left of a red circle.") == 0


def test_signs_are_judged_only_where_the_generator_draws_words():
    triplets = world_triplets(World(replace(SHAPES, words=0.3)), 60)
    signed = next(t for t in triplets if scene_of(t.meta).sign is not None and scene_of(t.meta).objects)
    for words in (0.0, 0.3):
        reward = Consistency(world=replace(SHAPES, words=words))
        reward.__dict__["judge"] = judge = Noted()
        stated = [request("x", "x", (8, 8), signed.meta | {"states_background": states}) for states in (False, True)]
        batch = RewardBatch(stated, ["x"] * 2, lambda: [np.zeros((8, 8, 3), np.uint8)] * 2)
        assert reward(batch).tolist() == [1.0, 0.5]
        assert all((facts.sign is None) is (words == 0.0) for facts in judge.asked)
    with pytest.raises(ValueError, match="no scene"):
        reward(_batch(["a"], ["b"]))


def test_what_is_asked_for_once_is_there_once():
    world = World(replace(SHAPES, width=64, height=64, count_weights=(0.0, 1.0)))
    scene = next(s for s in map(world.scene, range(99)) if len(s.objects) == 2 and s.background.kind == "flat")
    one = replace(scene, objects=(replace(scene.objects[0], size=0.35),), relations=(), layout="alone")
    first = one.objects[0]
    twice = replace(one, objects=(replace(first, x=0.25, y=0.25), replace(first, x=0.75, y=0.75)))
    reward = Consistency(world=world.config)
    for drawn, share in ((one, 1.0), (twice, 2 / 3)):
        record, picture = request("x", "x", (64, 64), {"scene": one}), world.render(drawn)
        batch = RewardBatch([record], ["x"], lambda picture=picture: [picture])
        assert reward(batch).tolist() == pytest.approx([share])


class Noted:
    """A judge that finds the object and not the background, and keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def verdict(self, picture, facts):
        self.asked.append(facts)
        return _verdict(objects=(True,), backgrounds=(False,))
