"""Rewards of a batch: each of its own turn, request and picture; noise by step; what is drawn and what is not."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from transformers import TrainerState

from fourstroke.enhance.prompts import requests_of
from fourstroke.enhance.protocol import write_answer
from fourstroke.enhance.rewards import Reward
from fourstroke.enhance.rewards.text import Valid
from fourstroke.enhance.scorer import Scorer
from fourstroke.world import World
from fourstroke.world.caption_rules import lexicon_of, world_triplets
from fourstroke.world.rewards import Things, things

from .conftest import LIVELY, SHAPES

pytest.importorskip("trl")
from fourstroke.train import enhance_rl


class Recorded:
    """A generator that keeps what it drew and from which noise, which is also all that there is to see."""

    def __init__(self):
        self.drawn = []

    def draw(self, captions, seeds):
        self.drawn.append(list(zip(captions, seeds, strict=True)))
        return [np.full((8, 8, 3), seed % 251, np.uint8) for seed in seeds]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bright(Reward):
    """How bright a picture is; none at all of one brightness."""

    kind = "bright"
    unread: int = -1

    def __call__(self, batch):
        values = [float(p[0, 0, 0]) for p in batch.pictures]
        return torch.tensor([math.nan if value == self.unread else value / 255 for value in values])


def _scorer(rewards, count=8):
    records = requests_of(world_triplets(World(dataclasses.replace(LIVELY, words=0.0)), count), (8, 8))
    return Scorer(rewards, records, Recorded(), lexicon_of(World(SHAPES)))


def test_rewards_are_those_of_the_request_that_was_answered():
    scorer = _scorer((Things(), Bright(), Bright()))
    assert list(scorer.rewards) == ["things", "bright", "bright-2"]
    requests = [record.captions[0].text for record in scorer.records]
    turns = [write_answer(requests[2], "1:1", "x")] * 2  # a policy that has collapsed
    assert scorer.scores(turns, [2, 2])["things"] == [1.0, 1.0]
    others = [row for row in range(8) if things(requests[row], requests[2], scorer.lexicon) < 1]
    assert scorer.scores(turns, others[:2])["things"] != [1.0, 1.0]
    assert scorer.scores(turns, [2, others[0]])["things"][0] == 1.0 > scorer.scores(turns, [2, others[0]])["things"][1]
    assert len(scorer.generator.drawn) == 3  # once for each, though two rewards look


def test_each_reward_is_of_its_turn_and_its_request_and_nothing_is_drawn_that_nobody_looks_at():
    scorer = _scorer((Things(), Bright(), Valid()))
    texts = [scorer.records[2].captions[0].text, None, 'A blue circle, "x".']
    turns = ["no answer" if text is None else write_answer(text, "1:1", "x") for text in texts]
    found = scorer.scores(turns, [2, 3, 6])
    assert scorer.generator.drawn == [[(texts[0], 2), (texts[2], 6)]]
    assert all(column[1] == 0 for column in found.values())
    assert found["bright"] == pytest.approx([2 / 255, 0, 6 / 255])
    assert found["valid"] == [1, 0, 1]
    assert found["things"][0] > found["things"][2]
    blind = _scorer((Things(), Valid()))
    blind.scores(turns, [2, 3, 6])
    assert not blind.generator.drawn


def test_a_missing_reading_is_the_mean_of_the_others_of_its_request():
    turns = [write_answer("A cat.", "1:1", "x")] * 3
    scorer = _scorer((Bright(unread=4),))
    scorer.generator.draw = lambda captions, seeds: [np.full((8, 8, 3), v, np.uint8) for v in (4, 6, 8)]
    assert scorer.scores(turns, [1, 1, 2])["bright"] == pytest.approx([6 / 255, 6 / 255, 8 / 255])
    assert scorer.scores(turns, [1, 2, 2])["bright"] == pytest.approx([0, 6 / 255, 8 / 255])


def test_rewrites_of_a_request_share_their_noise_which_is_another_at_every_step():
    scorer = _scorer((Bright(),))
    state, function = TrainerState(), enhance_rl.reward_function(scorer, "bright")
    answers = [write_answer(text, "1:1", "x") for text in "abcd"]
    for state.global_step in (0, 1, 1, 2):
        function(["p"] * 4, answers, row=[3, 3, 5, 5], trainer_state=state)
    noises = [[seed for _, seed in drawn] for drawn in scorer.generator.drawn]
    assert len(noises) == 3
    assert all(a == b != c == d for a, b, c, d in noises)
    assert len({seed for row in noises for seed in row}) == 6
    assert noises[0] == [3, 3, 5, 5]
