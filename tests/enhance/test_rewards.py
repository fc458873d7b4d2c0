"""Rewards lie in [0, 1], rise with what they are named after, and each is of its own turn."""

from __future__ import annotations

import numpy as np
import pytest

from fourstroke.enhance.checks import Lexicon
from fourstroke.enhance.generator import PipelineGenerator
from fourstroke.enhance.measure import text_scores
from fourstroke.enhance.prompts import request
from fourstroke.enhance.rewards import RewardBatch
from fourstroke.enhance.rewards.richness import richness
from fourstroke.registry import find
from fourstroke.world import World

from ..conftest import build_tiny_pipeline
from .conftest import SHAPES

LEXICON = Lexicon(("circle", "square"), ("red", "green"))


def _batch(requests, rewrites, pictures=None):
    pictures = pictures or [np.zeros((8, 8, 3), np.uint8)] * len(requests)
    return RewardBatch([request("x", text, (8, 8)) for text in requests], rewrites, lambda: pictures)


def _read(name, requests, rewrites, **options):
    return find("rewards", name)(**options)(_batch(requests, rewrites)).tolist()


def test_richness_rises_with_texture_light_and_a_second_colour():
    world = World(SHAPES)
    flat = np.full((32, 32, 3), 120, np.uint8)
    ramp = np.broadcast_to(np.linspace(60, 200, 32, dtype=np.uint8)[:, None, None], (32, 32, 3))
    assert richness(flat) == 0
    assert 0 < richness(ramp) <= 1
    scenes = [world.scene(seed) for seed in range(60)]
    plain = [
        s
        for s in scenes
        if s.background.kind == "flat" and s.background.texture == "plain" and s.background.light == "even"
    ]
    lively = [s for s in scenes if s.background.kind != "flat"]
    means = [np.mean([richness(world.render(s)) for s in group]) for group in (plain, lively)]
    assert means[0] < means[1] / 2


def test_rules_over_text():
    assert _read("valid", ["a", "b"], ["x", "y"]) == [1, 1]
    assert _read("words", ['"a" and "b"', "a"], ['now "a"', "b"]) == [0.5, 1]
    assert _read("language", ["ein Kreis auf der Wand", "a cat"], ["a circle on the wall of it", "a cat"]) == [0, 1]
    lengths = ["w " * n for n in (0, 15, 20, 40, 60, 200)]
    assert _read("length", ["a"] * 6, lengths, low=20, high=40) == [0, 0.5, 1, 1, 0.5, 0]
    assert _read("longer", ["a"] * 2, ["w " * 50, "w " * 999]) == [0.25, 1]
    with pytest.raises(ValueError, match="at most high"):
        find("rewards", "length")(low=9, high=8)


def test_text_scores_count_invalid_answers_as_lost():
    scores = text_scores(["a red circle", 'a square "x"'], ["A red circle.", None], LEXICON)
    assert {name: value.value for name, value in scores.items()} == dict.fromkeys(scores, 0.5)


def test_text_scores_look_from_the_request_to_the_rewrite():
    asked, given = "a red circle", 'A red circle above a square, with "x".'
    right = {"valid", "words_kept", "language_kept", "things_kept", "places_kept"}
    assert {name for name, value in text_scores([asked], [given], LEXICON).items() if value.value} == right
    scores = text_scores([given], [asked], LEXICON)
    assert {name for name, value in scores.items() if value.value} == {"valid", "language_kept", "nothing_invented"}


def test_a_generator_draws_from_each_rows_own_noise():
    generator = PipelineGenerator(build_tiny_pipeline(), 32, 64, batch_size=2)
    captions = ["a red circle", "a green square", "word " * 200]
    pictures = generator.draw(captions, [1, 2, 3])
    assert not pictures[2].any()  # too long for the generator
    for index in (0, 1):
        assert np.abs(pictures[index].astype(int) - generator.draw([captions[index]], [1 + index])[0]).max() <= 1
        assert np.abs(pictures[index].astype(int) - generator.draw([captions[index]], [9])[0]).max() > 1
    assert not any(p.requires_grad for p in generator.pipe.transformer.parameters())
    assert pictures[0].shape == (64, 32, 3)
