"""A student is compared with its teacher, and the rules made of that say what they should."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from fourstroke.data.datasets.mixture import MixtureData, Part
from fourstroke.distill.comparison import (
    CollapseLimits,
    ComparisonConfig,
    TeacherComparison,
    collapse,
    held_out_prompts,
    score,
    teacher_error,
)
from fourstroke.flow.sampler import NonFiniteError
from fourstroke.world.dataset import PosterData, WorldData
from fourstroke.world.pages import PageConfig

from .conftest import WORLD, small_pipeline

TEACHER = {"diversity": 0.2, "saturation": 0.3, "flat_noise": 1.0, "composition": 0.8}
PROMPTS = ("a red circle", "a green square", "a cat to the left of a red circle")


def _student(**changes):
    return {name: value for name, value in {**TEACHER, **changes}.items() if value is not None}


def test_the_score_is_composition_less_what_is_lost():
    assert score(TEACHER, TEACHER) == pytest.approx(0.8)
    assert score(_student(diversity=0.18), TEACHER) == pytest.approx(0.8)
    assert score(_student(diversity=0.15), TEACHER) == pytest.approx(0.65)
    assert score(_student(saturation=0.36), TEACHER) == pytest.approx(0.65)
    assert score(_student(saturation=0.24), TEACHER) == pytest.approx(0.65)
    assert score(_student(saturation=0.31), TEACHER) == pytest.approx(0.8)


def test_a_grid_beyond_the_teachers_costs():
    teacher = {**TEACHER, "grid_artefact": 1.0}
    assert score(_student(grid_artefact=1.4), teacher) == pytest.approx(0.8)
    assert score(_student(grid_artefact=3.5), teacher) == pytest.approx(0.6)
    assert score(_student(grid_artefact=0.0), teacher) == pytest.approx(0.8)


def test_edits_count_as_much_as_scenes_and_should_leave_the_rest_alone():
    teacher = {**TEACHER, "edits/right": 0.9, "edits/outside_psnr": 30.0}
    assert score({**teacher, "edits/right": 0.4}, teacher) == pytest.approx(0.6)
    assert score({**teacher, "edits/outside_psnr": 29.5}, teacher) == pytest.approx(0.85)
    assert score({**teacher, "edits/outside_psnr": 24.0}, teacher) == pytest.approx(0.75)


def test_the_error_against_the_teacher_is_in_parts_of_the_range():
    teacher = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) / 2
    assert teacher_error(teacher, teacher) == 0
    assert teacher_error(teacher + torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1, 1), teacher) == pytest.approx(0.2)


def test_without_a_judge_the_score_rises_as_the_student_comes_near():
    teacher = _student(composition=None)
    scores = [score({**teacher, "teacher_error": error}, teacher) for error in (0.3, 0.2, 0.1)]
    assert scores == pytest.approx([-0.3, -0.2, -0.1])
    grey = {**teacher, "teacher_error": 0.1, "diversity": 0.1, "saturation": 0.15}
    assert score(grey, teacher) == pytest.approx(-0.1 - 0.4 - 0.45)
    assert score(_student(teacher_error=0.5), TEACHER) == pytest.approx(0.8)  # where there is one, it alone counts


def test_the_score_sees_bent_faces_where_composition_is_at_its_ceiling():
    teacher = _student(composition=1.0, likeness=0.88)
    assert score({**teacher, "likeness": 0.88}, teacher) == pytest.approx(1.0)
    assert score({**teacher, "likeness": 0.90}, teacher) == pytest.approx(1.0)
    assert score({**teacher, "likeness": 0.836}, teacher) == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"diversity": 0.09}, "diversity fell to 0.45"),
        ({"saturation": 0.5}, "saturation went to 1.67"),
        ({"saturation": 0.1}, "saturation went to 0.33"),
        ({"composition": 0.35}, "composition fell from 0.800 to 0.350"),
        ({"diversity": 0.12, "composition": 0.45}, None),
        ({"composition": None}, None),
    ],
)
def test_collapse_is_named(changes, reason):
    found = collapse(_student(**changes), TEACHER, 0.8, CollapseLimits())
    assert found is None if reason is None else reason in found


def test_small_scores_may_fall():
    assert collapse(_student(composition=0.0), TEACHER, 0.04, CollapseLimits()) is None


class Judge:
    """A validator that says what it was told, and remembers whom it saw."""

    def __init__(self, *values):
        self.values, self.seen = list(values), []

    def run(self, pipe, folder, step):
        self.seen.append((pipe.info.own_steps, step))
        return {"composition": self.values.pop(0)}


def _comparison(*judges):
    return TeacherComparison(ComparisonConfig(prompts=3, diversity_prompts=2, seeds=2), PROMPTS, (32, 32), judges)


def test_a_student_that_is_its_teacher_has_ratios_of_one_and_no_error(tmp_path):
    pipe, judge = small_pipeline(), Judge(0.5, 0.5, 0.25)
    comparison = _comparison(judge)
    teacher = comparison.see_teacher(pipe, tmp_path)
    same = comparison.run(pipe, tmp_path, 7)
    assert judge.seen == [(3, 0), (3, 7)]
    assert same["score"] == pytest.approx(0.5)
    assert same["teacher_error"] == 0
    assert same["grid_artefact"] == teacher["grid_artefact"]
    assert {name: value for name, value in same.items() if name.endswith("_ratio")} == {
        f"{name}_ratio": 1.0 for name in teacher if name != "grid_artefact"
    }
    assert {file.name for file in tmp_path.iterdir()} == {"teacher.png", "teacher", "step-000007.png"}
    with torch.no_grad():
        pipe.transformer.proj_out.weight.mul_(0.5)
    other = comparison.run(pipe, tmp_path, 8)
    assert other["teacher_error"] > 0
    assert other["composition_ratio"] == 0.5
    assert other["saturation_ratio"] != 1


def test_metrics_that_are_not_finite_are_not_compared(tmp_path):
    pipe = small_pipeline()
    comparison = _comparison(Judge(0.5, float("nan")))
    comparison.see_teacher(pipe, tmp_path)
    with pytest.raises(NonFiniteError):
        comparison.run(pipe, tmp_path, 1)


def test_a_judge_that_is_down_at_one_look_is_no_collapse(tmp_path):
    pipe, readings = small_pipeline(), iter((0.5, float("nan")))
    comparison = _comparison(SimpleNamespace(run=lambda *_: {"vision/consistency": next(readings)}))
    comparison.see_teacher(pipe, tmp_path)
    found = comparison.run(pipe, tmp_path, 1)
    assert math.isfinite(found["score"])
    assert not any("consistency" in name for name in found)


def test_validation_prompts_are_held_out_short_and_rich_and_not_those_of_the_test():
    data = WorldData(world=WORLD, samples=4, held_out=100).open("heldout")
    found = held_out_prompts(data, 10)
    records = [data.record(index) for index in range(90, 100)][::-1]
    assert found == [r.captions[-(n % 2)].text for n, r in enumerate(records)]
    assert len(set(found)) > 5
    few = WorldData(world=WORLD, samples=4, held_out=3).open("heldout")
    assert len(held_out_prompts(few, 10)) == 3


def test_validation_prompts_are_of_every_part_by_its_weight():
    scenes, pages = (
        WorldData(world=WORLD, samples=4, held_out=30),
        PosterData(pages=PageConfig(scripts=("latin",)), samples=4, held_out=6),
    )
    mixture = MixtureData(parts=(Part(data=scenes, weight=3.0), Part(data=pages), Part(data=scenes, weight=0.0)))
    found = held_out_prompts(mixture.open("heldout"), 16)
    own = [held_out_prompts(each.open("heldout"), count) for each, count in ((scenes, 12), (pages, 4))]
    assert sorted(found) == sorted(own[0] + own[1])
    assert len(set(found[:5]) & set(own[1])) == 1, "they take turns"
    assert len(held_out_prompts(mixture.open("heldout"), 100)) == 36
