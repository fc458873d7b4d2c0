"""The monitors see what they are for, and the rules made of them say what they should."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fourstroke.distill.monitors import (
    CollapseLimits,
    Readings,
    checkpoint_score,
    collapse,
    teacher_error,
)

TEACHER = Readings(composition=0.8, words=None, diversity=0.2, saturation=0.3, flat_noise=1.0)


def _student(**changes):
    return dataclasses.replace(TEACHER, **changes)


def test_the_score_is_composition_less_what_is_lost():
    assert checkpoint_score(TEACHER, TEACHER) == pytest.approx(0.8)
    assert checkpoint_score(_student(diversity=0.18), TEACHER) == pytest.approx(0.8)
    assert checkpoint_score(_student(diversity=0.15), TEACHER) == pytest.approx(0.65)
    assert checkpoint_score(_student(saturation=0.36), TEACHER) == pytest.approx(0.65)
    assert checkpoint_score(_student(saturation=0.24), TEACHER) == pytest.approx(0.65)
    assert checkpoint_score(_student(saturation=0.31), TEACHER) == pytest.approx(0.8)


def test_the_error_against_the_teacher_is_in_parts_of_the_range():
    teacher = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) / 2
    assert teacher_error(teacher, teacher) == 0
    assert teacher_error(teacher + torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1, 1), teacher) == pytest.approx(0.2)


def test_without_a_scene_graph_the_score_rises_as_the_student_comes_near():
    teacher = _student(composition=None)
    scores = [checkpoint_score(dataclasses.replace(teacher, teacher_error=e), teacher) for e in (0.3, 0.2, 0.1)]
    assert scores == pytest.approx([-0.3, -0.2, -0.1])
    grey = dataclasses.replace(teacher, teacher_error=0.1, diversity=0.1, saturation=0.15)
    assert checkpoint_score(grey, teacher) == pytest.approx(-0.1 - 0.4 - 0.45)


def test_the_score_sees_bent_faces_where_composition_is_at_its_ceiling():
    teacher = _student(composition=1.0, likeness=0.88)
    assert checkpoint_score(dataclasses.replace(teacher, likeness=0.88), teacher) == pytest.approx(1.0)
    assert checkpoint_score(dataclasses.replace(teacher, likeness=0.90), teacher) == pytest.approx(1.0)
    assert checkpoint_score(dataclasses.replace(teacher, likeness=0.836), teacher) == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"diversity": 0.09}, "diversity fell to 0.45"),
        ({"saturation": 0.5}, "saturation went to 1.67"),
        ({"saturation": 0.1}, "saturation went to 0.33"),
        ({"composition": 0.35}, "composition fell from 0.800 to 0.350"),
        ({"diversity": float("nan")}, "not finite"),
        ({"diversity": 0.12, "composition": 0.45}, None),
    ],
)
def test_collapse_is_named(changes, reason):
    found = collapse(_student(**changes), TEACHER, 0.8, CollapseLimits())
    assert found is None if reason is None else reason in found


def test_small_scores_may_fall():
    assert collapse(_student(composition=0.0), TEACHER, 0.04, CollapseLimits()) is None
