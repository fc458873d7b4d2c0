"""The world's judge serves as anyone's: judge of records, validator of a run, evaluation of a model."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from PIL import Image

from fourstroke.data.sample import Record
from fourstroke.pipeline import Output
from fourstroke.registry import find
from fourstroke.world import World, WorldConfig, split_of
from fourstroke.world.dataset import WorldData
from fourstroke.world.judging.kinds import CHOOSING, Composition, Editing, WorldJudge, WorldValidator

from .test_composition import Truth

SHAPES = WorldConfig(sprites=0)


def test_they_are_found_by_name():
    assert find("judges", "world_facts") is WorldJudge
    assert find("validators", "world") is WorldValidator
    assert find("evaluations", "composition") is Composition
    assert find("evaluations", "edits") is Editing


def test_a_judge_scores_pictures_by_the_scenes_of_their_records():
    data = WorldData(world=SHAPES).open("heldout")
    samples = [data.sample(index) for index in range(5)]
    pictures, records = [s.image for s in samples], [s.record for s in samples]
    judge = WorldJudge(world=SHAPES).open()
    right = judge.score(pictures, records)
    assert right["right"] == right["objects"] == [1.0] * 5
    assert all(math.isnan(score) for score in right["words_exact"])
    assert [math.isnan(score) for score in right["relations"]] == [not r.meta["scene"].relations for r in records]
    plain = [dataclasses.replace(r, meta={"scene": r.meta["scene"].to_dict()}) for r in records]
    np.testing.assert_equal(judge.score(pictures, plain), right)
    turned = judge.score(pictures[1:] + pictures[:1], records)
    assert sum(turned["right"]) <= 1
    with pytest.raises(ValueError, match="no scene to judge by"):
        judge.score(pictures[:1], [Record(name="cat.jpg", size=(96, 96))])


def test_a_validator_judges_held_out_prompts_and_writes_a_sheet(tmp_path):
    validator = WorldValidator(world=SHAPES, prompts=6, name="small").open()
    assert {split_of(prompt.scene) for prompt in validator.prompts} == {"heldout"}
    assert [prompt.seed for prompt in validator.prompts] == list(range(CHOOSING, CHOOSING + 6))
    metrics = validator.run(Truth(validator.prompts), tmp_path, 40)
    assert metrics["small/composition"] == metrics["small/objects"] == 1.0
    assert "small/words_exact" not in metrics
    assert metrics["small/likeness"] > 0.9
    with Image.open(tmp_path / "small-step-000040.png") as sheet:
        assert sheet.width > 96

    class Blank(Truth):
        def __call__(self, prompts, **options):
            blank = Image.fromarray(np.full((96, 96, 3), 200, np.uint8))
            return Output([blank] * len(prompts), prompts, [0] * len(prompts))

    assert validator.run(Blank(validator.prompts), tmp_path, 41)["small/composition"] == 0.0


def test_its_world_is_the_recipes():
    with pytest.raises(ValueError, match="prompts"):
        WorldValidator(world=SHAPES, prompts=0)
    assert World(WorldValidator(world=SHAPES).world).sprites == ()
