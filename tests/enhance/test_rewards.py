"""Rewards lie in [0, 1], rise with what they are named after, and the held-out judge learns what it claims."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from fourstroke.enhance import rewards
from fourstroke.enhance.checks import Lexicon
from fourstroke.enhance.judge import HeldOutJudge, JudgeConfig, targets, train_judge
from fourstroke.enhance.measure import Studio, text_scores, world_triplets
from fourstroke.evaluate.reading import Reading
from fourstroke.world import World
from fourstroke.world.graph import split_of
from fourstroke.world.judging.judge import Verdict

from ..conftest import build_tiny_pipeline
from .conftest import SHAPES

LEXICON = Lexicon(("circle", "square"), ("red", "green"))


def _verdict(**more):
    empty = {"objects": (), "colours": (), "relations": (), "backgrounds": (), "word": None}
    return Verdict(**(empty | more))


def test_consistency_is_the_share_of_stated_facts():
    verdict = _verdict(objects=(True, False), colours=(True,), relations=(False,), backgrounds=(False,))
    assert rewards.consistency(verdict) == 0.5
    assert rewards.consistency(verdict, states_background=True) == 0.4
    assert rewards.consistency(_verdict()) == 0.0
    for exact in (True, False):
        word = Reading(text="x", exact=exact, ned=0.5)
        assert rewards.consistency(_verdict(objects=(True,), word=word)) == (1 + exact) / 2


def test_richness_rises_with_texture_light_and_a_second_colour():
    world = World(SHAPES)
    flat = np.full((32, 32, 3), 120, np.uint8)
    ramp = np.broadcast_to(np.linspace(60, 200, 32, dtype=np.uint8)[:, None, None], (32, 32, 3))
    assert rewards.richness(flat) == 0
    assert 0 < rewards.richness(ramp) <= 1
    scenes = [world.scene(seed) for seed in range(60)]
    plain = [
        s
        for s in scenes
        if s.background.kind == "flat" and s.background.texture == "plain" and s.background.light == "even"
    ]
    lively = [s for s in scenes if s.background.kind != "flat"]
    means = [np.mean([rewards.richness(world.render(s)) for s in group]) for group in (plain, lively)]
    assert means[0] < means[1] / 2


def test_rules_over_text():
    assert rewards.valid('{"rewritten_prompt": "a"}') == 1
    assert rewards.valid("a") == 0
    assert rewards.words('"a" and "b"', 'now "a"') == 0.5
    assert rewards.things("a red circle", "A red circle.", LEXICON) == 1
    assert rewards.things("a red circle", "A red circle and a square.", LEXICON) == 0.5
    assert rewards.things("a red circle", "A square.", LEXICON) == 0
    request = "a red circle left of a green square"
    assert rewards.places(request, "A green square to the right of a red circle.", LEXICON) == 1
    assert rewards.places(request, "A green square to the left of a red circle.", LEXICON) == 0
    assert rewards.language("ein Kreis auf der Wand", "a circle on the wall of it") == 0
    assert [rewards.length("w " * n, 20, 40) for n in (0, 15, 20, 40, 60, 200)] == [0, 0.5, 1, 1, 0.5, 0]
    assert rewards.longer("w " * 50) == 0.25


def test_text_scores_count_invalid_answers_as_lost():
    scores = text_scores(["a red circle", 'a square "x"'], ["A red circle.", None], LEXICON)
    assert {name: value.value for name, value in scores.items()} == dict.fromkeys(scores, 0.5)


def test_text_scores_look_from_the_request_to_the_rewrite():
    asked, given = "a red circle", 'A red circle above a square, with "x".'
    right = {"valid", "words_kept", "language_kept", "things_kept", "places_kept"}
    assert {name for name, value in text_scores([asked], [given], LEXICON).items() if value.value} == right
    scores = text_scores([given], [asked], LEXICON)
    assert {name for name, value in scores.items() if value.value} == {"valid", "language_kept", "nothing_invented"}


def test_triplets_of_a_world_are_those_of_their_seeds_and_split():
    world = World(SHAPES)
    assert world_triplets(world, 3, first=5) == world_triplets(world, 8)[5:]
    for split in ("train", "heldout"):
        assert {split_of(t.facts) for t in world_triplets(world, 60, split) if t.facts.relations} <= {split, None}
        assert [t.seed for t in world_triplets(world, 3, split)] == [0, 1, 2]
    assert world_triplets(world, 20) != world_triplets(world, 20, "heldout")


def test_the_held_out_judge_learns_and_is_kept(tmp_path):
    config = JudgeConfig(steps=80, batch_size=32, lr=1e-2, width=16, side=32)
    judge = train_judge(SHAPES, config, tmp_path / "judge")
    world = World(SHAPES)
    scenes = [world.scene(seed, "heldout") for seed in range(40)]
    pictures = [world.render(scene) for scene in scenes]
    right = np.mean([score[0] for score in judge.look(pictures, scenes)])
    wrong = np.mean([score[0] for score in judge.look(pictures, scenes[1:] + scenes[:1])])
    assert right > wrong + 0.05
    assert targets(judge.titles, scenes).sum(1).min() >= 1
    plain = [_plainly(scene) for scene in scenes]
    seen = [[finish for _, finish in judge.look([world.render(s) for s in some], some)] for some in (scenes, plain)]
    assert np.mean(seen[0]) > np.mean(seen[1])
    again = train_judge(SHAPES, config, tmp_path / "judge")
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


def test_the_studio_draws_from_each_rows_own_noise(triplets):
    studio = Studio(build_tiny_pipeline(), SHAPES, batch=2)
    captions = ["a red circle", "a green square", "word " * 200]
    pictures = studio.draw(captions, [1, 2, 3])
    assert not pictures[2].any()  # too long for the generator
    for index in (0, 1):
        assert np.abs(pictures[index].astype(int) - studio.draw([captions[index]], [1 + index])[0]).max() <= 1
        assert np.abs(pictures[index].astype(int) - studio.draw([captions[index]], [9])[0]).max() > 1
    assert not any(p.requires_grad for p in studio.pipe.transformer.parameters())
    plain = next(t for t in triplets if t.facts.sign is None)
    assert all(0 <= score <= 1 for score in studio.scores(pictures[0], plain))


def test_presence_is_the_mean_over_what_is_stated():
    """One thing that is seen and one that is not are half of what was asked."""
    judge = HeldOutJudge(SHAPES, width=4, side=32)
    scene = next(s for seed in range(99) if len((s := World(SHAPES).scene(seed)).objects) == 2)
    seen, missed = (judge.titles.index(entry.title) for entry in scene.objects)
    with torch.no_grad():
        judge.head.weight.zero_()
        judge.head.bias[seen], judge.head.bias[missed] = 20.0, -20.0
    ((presence, _),) = judge.look([World(SHAPES).render(scene)], [scene])
    assert abs(presence - 0.5) < 1e-6


def test_signs_are_judged_only_where_the_generator_draws_words(triplets):
    signed = next(t for t in triplets if t.facts.sign is not None and t.facts.objects)
    for words in (0.0, 0.3):
        studio = Studio(build_tiny_pipeline(), replace(SHAPES, words=words))
        studio.judge = judge = Noted()
        stated = [replace(signed, states_background=states) for states in (False, True)]
        assert [studio.scores(np.zeros((8, 8, 3), np.uint8), t)[0] for t in stated] == [1.0, 0.5]
        assert all((facts.sign is None) is (words == 0.0) for facts in judge.asked)


class Noted:
    """A judge that finds the object and not the background, and keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def verdict(self, picture, facts):
        self.asked.append(facts)
        return _verdict(objects=(True,), backgrounds=(False,))
