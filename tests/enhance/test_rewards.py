"""Rewards lie in [0, 1], rise with what they are named after, and the held-out judge learns what it claims."""

from __future__ import annotations

import numpy as np
import torch

from fourstroke.enhance import rewards
from fourstroke.enhance.checks import Lexicon
from fourstroke.enhance.judge import JudgeConfig, targets, train_judge
from fourstroke.enhance.measure import Studio, text_scores
from fourstroke.evaluate.judge import Verdict
from fourstroke.world import World

from ..conftest import build_tiny_pipeline
from .conftest import SHAPES

LEXICON = Lexicon(("circle", "square"), ("red", "green"))


def _verdict(**more):
    empty = {"objects": (), "colours": (), "relations": (), "backgrounds": (), "word": None, "detections": ()}
    return Verdict(**(empty | more))


def test_consistency_is_the_share_of_stated_facts():
    verdict = _verdict(objects=(True, False), colours=(True,), relations=(False,), backgrounds=(False,))
    assert rewards.consistency(verdict) == 0.5
    assert rewards.consistency(verdict, states_background=True) == 0.4
    assert rewards.consistency(_verdict()) == 0.0


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
    assert rewards.language("ein Kreis auf der Wand", "a circle on the wall of it") == 0
    assert [rewards.length("w " * n, 20, 40) for n in (0, 15, 20, 40, 60, 200)] == [0, 0.5, 1, 1, 0.5, 0]
    assert rewards.longer("w " * 50) == 0.25


def test_text_scores_count_invalid_answers_as_lost():
    scores = text_scores(["a red circle", 'a square "x"'], ["A red circle.", None], LEXICON)
    assert {name: value.value for name, value in scores.items()} == dict.fromkeys(scores, 0.5)


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
    again = train_judge(SHAPES, config, tmp_path / "judge")
    assert all(torch.equal(a, b) for a, b in zip(judge.parameters(), again.parameters(), strict=True))


def test_the_studio_draws_from_each_rows_own_noise(triplets):
    studio = Studio(build_tiny_pipeline(), SHAPES, batch=2)
    captions = ["a red circle", "a green square", "word " * 200]
    pictures = studio.draw(captions, [1, 2, 3])
    assert not pictures[2].any()  # too long for the generator
    assert np.abs(pictures[0].astype(int) - studio.draw(captions[:1], [1])[0]).max() <= 1
    assert not any(p.requires_grad for p in studio.pipe.transformer.parameters())
    plain = next(t for t in triplets if t.facts.sign is None)
    assert all(0 <= score <= 1 for score in studio.scores(pictures[0], plain))
