"""Validators look at a model by one protocol, and one policy says which checkpoint is kept."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest

from fourstroke.checkpoint import CheckpointError
from fourstroke.evaluate.prompts import PromptsConfig
from fourstroke.evaluate.score_service import HttpJudge
from fourstroke.evaluate.validation import BestCheckpoint, CheckpointPolicy, Validators, run_validators
from fourstroke.recipe import RecipeError, load_recipe

PROMPTS = ("a red circle", "a cat to the left of a red circle", "a green square")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    validators: Validators = ()


def _config(**changes):
    return PromptsConfig(**{"prompts": PROMPTS, "diversity_prompts": 2, "seeds": 2, "steps": 2, **changes})


def test_prompts_are_drawn_alike_at_every_look_whatever_the_batch(tiny, tmp_path):
    first = _config().open()
    found = first.run(tiny, tmp_path, 3)
    assert (tmp_path / "step-000003.png").exists()
    assert found.keys() >= {"diversity", "saturation", "contrast", "sharpness", "flat_noise", "grid_artefact"}
    assert first.run(tiny, tmp_path, 4) == found
    assert _config(batch=2).open().run(tiny, tmp_path, 5) == pytest.approx(found, rel=1e-2)


def test_every_prompt_has_noise_of_its_own(tiny):
    drawing = _config().open().draw(tiny)
    assert drawing.several.shape[:2] == (2, 2)
    alone = tiny(PROMPTS[1], seed=1000, num_images=2, num_inference_steps=2).images
    for picture, expected in zip((255 * drawing.several[1]).round().byte().numpy(), alone, strict=True):
        assert np.abs(picture.transpose(1, 2, 0).astype(int) - np.asarray(expected)).max() <= 1
    assert np.abs(drawing.pictures[1].astype(int) - np.asarray(alone[0])).max() <= 1


def test_a_recipe_names_validators_and_a_file_gives_their_prompts(tiny, tmp_path):
    (tmp_path / "p.txt").write_text("\n".join(PROMPTS) + '\n{"prompt": "not drawn"}\n')
    text = f"validators: [{{kind: prompts, file: {tmp_path / 'p.txt'}, count: 3, diversity_prompts: 0, name: set}}]"
    (tmp_path / "r.yaml").write_text(text)
    (config,) = load_recipe(Recipe, tmp_path / "r.yaml").validators
    validator = config.open()
    assert validator.prompts == list(PROMPTS)
    found = validator.run(tiny, tmp_path, 0)
    assert "set/contrast" in found
    assert not any("diversity" in name for name in found)
    with pytest.raises(ValueError, match=r"measure set/contrast.*name"):
        run_validators([validator, validator], tiny, tmp_path, 0)


def test_judges_look_at_what_is_drawn_and_cost_no_run_when_they_fail(tiny, tmp_path, sight):
    server = sight(lambda question, pictures: '{"consistency": 5, "aesthetics": 10}')
    endpoint = f"{{url: '{server.url}', model: eye, retries: 0, timeout: 0.5}}"
    text = "validators: [{kind: prompts, prompts: [a circle, a cat], diversity_prompts: 0, judges: [{kind: vision, "
    (tmp_path / "r.yaml").write_text(f"{text}endpoint: {endpoint}}}, {{kind: artefacts}}]}}]")
    (config,) = load_recipe(Recipe, tmp_path / "r.yaml").validators
    validator = config.open()
    found = validator.run(tiny, tmp_path, 0)
    assert (found["vision/consistency"], found["vision/aesthetics"]) == (0.5, 1.0)
    assert found["artefacts/saturation"] == pytest.approx(found["saturation"])
    first, second = sorted(server.asked, key=lambda asked: "a cat" in asked)  # they are asked side by side
    assert ["a circle" in first, "a cat" in second] == [True, True]
    server.mood = lambda number: "busy"
    found = config.open().run(tiny, tmp_path, 1)
    assert math.isnan(found["vision/consistency"])
    assert "saturation" in found


@pytest.mark.parametrize(
    ("keys", "said"),
    [("", "name the prompts"), (", prompts: [a], file: x.txt", "either"), (", prompts: [a], seeds: 1", "seeds=1")],
)
def test_prompts_that_cannot_be_drawn_are_refused(tmp_path, keys, said):
    (tmp_path / "r.yaml").write_text(f"validators: [{{kind: prompts{keys}}}]")
    with pytest.raises(RecipeError, match=said):
        load_recipe(Recipe, tmp_path / "r.yaml")


@pytest.mark.parametrize(
    ("policy", "values", "kept"),
    [
        ({}, (1.0, 3.0, 2.0, 3.0), 1),
        ({"ties": "last"}, (1.0, 3.0, 2.0, 3.0), 3),
        ({"mode": "min"}, (2.0, 3.0, 1.0, 1.0), 2),
        ({"never_first": True}, (9.0, 1.0, 2.0, 1.0), 2),
        ({"never_first": True, "mode": "min"}, (0.0, 3.0, 4.0), 1),
        ({"never_first": True}, (9.0,), 0),
        ({"never_first": True}, (9.0, math.nan), 0),
        ({}, (1.0, math.inf, math.nan), 0),
        ({}, (math.nan, 1.0, 2.0), 2),
        ({"mode": "min"}, (-math.inf, math.nan, 1.0, 2.0), 2),
        ({"never_first": True}, (math.nan, 2.0, 1.0), 1),
    ],
)
def test_the_policy_keeps_one_checkpoint(policy, values, kept, tmp_path):
    best = BestCheckpoint(CheckpointPolicy(metric="score", **policy))
    for step, value in enumerate(values):
        if best.update({"score": value, "other": 0.0}, step):
            best.save(tmp_path / "best.json", {"score": value})
        resumed = BestCheckpoint(best.policy)  # and goes on as if nothing had happened
        resumed.load(tmp_path / "best.json")
        assert (resumed.value, resumed.step) == (best.value, best.step)
        best = resumed
    assert best.step == kept


def test_a_policy_by_what_nobody_measures_says_what_is_measured():
    with pytest.raises(ValueError, match="by 'score', which nobody measures; measured: a, b"):
        BestCheckpoint(CheckpointPolicy(metric="score")).update({"b": 1.0, "a": 2.0}, 0)


def test_a_best_value_that_is_no_number_is_none(tmp_path):
    (tmp_path / "best.json").write_text('{"value": NaN, "step": 3, "metric": "score", "metrics": {"score": NaN}}')
    best = BestCheckpoint(CheckpointPolicy(metric="score"))
    best.load(tmp_path / "best.json")
    assert best.value is None
    assert best.update({"score": 0.5}, 4)
    best.save(tmp_path / "best.json", {"score": 0.5, "other": math.nan})
    assert json.loads((tmp_path / "best.json").read_text())["metrics"] == {"score": 0.5}


def test_a_best_value_by_another_metric_is_none(tmp_path):
    """A recipe may change while its run rests; its loss of 2 must not stand as a score that nothing beats."""
    by_loss = BestCheckpoint(CheckpointPolicy(metric="loss", mode="min"))
    by_loss.update({"loss": 2.0}, 3)
    by_loss.save(tmp_path / "best.json", {"loss": 2.0})
    by_score = BestCheckpoint(CheckpointPolicy(metric="score"))
    by_score.load(tmp_path / "best.json")
    assert by_score.value is None
    assert by_score.update({"score": 0.5}, 4)


def test_a_judge_that_is_down_at_one_look_ends_no_run(tiny, sight):
    """Its service names the scores, so that while it is down not even their names are known."""
    server = sight(lambda *_: "")
    judge = HttpJudge(url=server.url, reward="clip", retries=0, timeout=0.5)
    server.mood = lambda number: "busy"
    validator = _config(judges=(judge,)).open()
    failed = validator.judge(validator.draw(tiny))
    best = BestCheckpoint(CheckpointPolicy(metric="http/score"))
    assert not best.update(failed, 0)
    assert best.update({"http/score": 0.5}, 1)
    assert not best.update(failed, 2)
    assert not best.update({"other": 1.0}, 3)
    assert (best.value, best.step) == (0.5, 1)
    with pytest.raises(ValueError, match="by 'htp/score', which nobody measures; measured: http"):
        BestCheckpoint(CheckpointPolicy(metric="htp/score")).update(failed, 0)


def test_a_best_json_that_lacks_a_key_is_told(tmp_path):
    (tmp_path / "best.json").write_text('{"value": 1.0, "step": 3}')
    with pytest.raises(CheckpointError, match=r"best\.json: the key metric is missing"):
        BestCheckpoint(CheckpointPolicy(metric="score")).load(tmp_path / "best.json")
