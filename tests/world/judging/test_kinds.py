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
from fourstroke.world.edits import EditConfig
from fourstroke.world.judging.composition import facts, judge_pictures
from fourstroke.world.judging.kinds import (
    CHOOSING,
    Composition,
    Editing,
    EditsValidator,
    WorldJudge,
    WorldValidator,
)

from .test_composition import WORLD, Truth

SHAPES = WorldConfig(sprites=0)
SIGNS = WorldConfig(
    width=128, height=128, things=8, words=0.5, groups=0.3, snap=16, sign_fonts=("monospaced",), scripts=("latin",)
)


def test_they_are_found_by_name():
    assert find("judges", "world_facts") is WorldJudge
    assert find("validators", "world") is WorldValidator
    assert find("validators", "world_edits") is EditsValidator
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


def test_composition_is_of_all_facts_that_were_asked(tmp_path):
    validator = WorldValidator(world=SIGNS, prompts=24).open()

    class Second(Truth):
        """Draws every other prompt."""

        def __call__(self, prompts, **options):
            scenes = [self.scenes[prompt] for prompt in prompts]
            blank = np.full((128, 128, 3), 200, np.uint8)
            pictures = [WORLD.render(s)[..., :3] if len(p) % 2 else blank for s, p in zip(scenes, prompts, strict=True)]
            return Output(list(map(Image.fromarray, pictures)), prompts, [0] * len(prompts))

    found = validator.run(Second(validator.prompts), tmp_path, 0)
    assert {"objects", "words_ned", "relations", "counts"} <= set(found)
    scores = [found[name] for name in ("objects", "relations", "style", "counts", "words_ned") if name in found]
    assert min(scores) < found["composition"] < max(scores)
    drawn = Second(validator.prompts)([prompt.caption for prompt in validator.prompts]).images
    verdicts = judge_pictures(validator.judge, validator.prompts, list(map(np.asarray, drawn)))
    asked = [facts(*pair) for pair in zip(validator.prompts, verdicts, strict=True)]
    kept = ("objects", "colours", "relations", "style", "counts", "words_ned")
    told = [value for each in asked for name in kept for value in each[name]]
    assert found["composition"] == pytest.approx(sum(told) / len(told))


def test_a_validator_of_edits_tells_made_ones_from_pictures_left_as_they_are(tmp_path):
    world = dataclasses.replace(SIGNS, styles=(1.0, 1.0, 0.0, 0.0), things=24)
    validator = EditsValidator(edits=EditConfig(world=world), n=12).open()
    assert min(prompt.seed for prompt in validator.edits) >= CHOOSING
    right, left = (
        {
            prompt.instruction: Image.fromarray(picture)
            for prompt, picture in zip(validator.edits, pictures, strict=True)
        }
        for pictures in ([p.after for p in validator.edits], [p.before[0] for p in validator.edits])
    )

    def answering(pictures):
        return lambda prompt, **options: Output([pictures[prompt]], [prompt], [options["seed"]])

    found = validator.run(answering(right), tmp_path, 3)
    assert found["edits/right"] == found["edits/changed"] > 0.9
    assert found["edits/outside_psnr"] > 40
    assert (tmp_path / "edits-step-000003.png").exists()
    assert validator.run(answering(left), tmp_path, 4)["edits/changed"] < 0.1


def test_its_world_is_the_recipes():
    with pytest.raises(ValueError, match="prompts"):
        WorldValidator(world=SHAPES, prompts=0)
    assert World(WorldValidator(world=SHAPES).world).sprites == ()
