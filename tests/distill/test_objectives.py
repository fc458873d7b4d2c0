"""Objectives of distillation: on-policy segments learn to go where the teacher goes, with no fake score."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from fourstroke.distill.objective import Turn
from fourstroke.distill.segments import Segments
from fourstroke.estimate import needs
from fourstroke.flow.sampler import euler
from fourstroke.flow.schedule import fixed_sigmas
from fourstroke.pipeline import Pipeline
from fourstroke.recipe import RecipeError, load_recipe
from fourstroke.train.distill import DistillRecipe, DistillStage, train_distill
from fourstroke.train.loop import Trainer
from fourstroke.train.optimizer import OptimizerConfig

SIGMAS = fixed_sigmas([1.0, 0.8, 0.6, 0.3])


@pytest.fixture
def segments(recipe) -> DistillRecipe:
    student = OptimizerConfig(kind="adamw", lr=3e-3, warmup=1, cooldown=0.0)
    return dataclasses.replace(recipe, objective=Segments(substeps=3), fake=None, guidance=4.0, student=student)


def turn(student, teacher, step: int) -> Turn:
    return Turn(
        step=step, sigmas=SIGMAS, noise=torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(1)),
        again=torch.zeros(2, 4, 8), t=torch.zeros(2), device=torch.device("cpu"), frozen=student,
        bind=lambda name: student, teacher=lambda: teacher,
    )  # fmt: skip


def test_a_segment_begins_where_the_student_is_and_ends_where_the_teacher_goes_from_there():
    def student(x, t):
        return 0.5 * x

    def teacher(x, t):
        return 2 * x + t.view(-1, 1, 1)

    for step in (0, 2):
        one = turn(student, teacher, step)
        x_k = euler(student, one.noise, SIGMAS[: step + 1])
        start, end = SIGMAS[step : step + 2].tolist()
        for substeps in (1, 4):
            reached = euler(teacher, x_k, torch.linspace(start, end, substeps + 1))
            expected = (0.5 * x_k - (x_k - reached) / (start - end)).square().mean()
            torch.testing.assert_close(Segments(substeps=substeps).loss(one)["loss"], expected)
    assert Segments(substeps=1).loss(turn(teacher, teacher, 1))["loss"] < 1e-10  # its own teacher has nothing to say


def test_a_student_overfits_its_segments(segments):
    stage = DistillStage(segments)
    one = stage.losses
    stage.losses = lambda step: one(0)
    trainer = Trainer(stage, dataclasses.replace(segments.run, steps=1000), segments.optimizers, {})
    losses = [trainer.update()["student_loss"].item() for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("rank", [0, 2])
def test_nothing_but_the_student_is_trained(segments, rank):
    stage = DistillStage(dataclasses.replace(segments, lora_rank=rank))
    assert list(stage.models) == ["student"]
    assert [name for name, _ in stage.losses(0)] == ["student"]
    frozen = {name: weight.clone() for name, weight in stage.base.pipe.transformer.state_dict().items()}
    trainer = Trainer(stage, segments.run, segments.optimizers, {})
    assert trainer.update().keys() == {"student_loss", "student_gap", "student_grad_norm"}
    if not rank:
        moved = stage.student.state_dict()
        assert any(not torch.equal(weight, moved[name]) for name, weight in frozen.items())
        assert all(torch.equal(w, frozen[n]) for n, w in stage.base.pipe.transformer.state_dict().items())


def test_a_run_ends_in_a_student(segments):
    lenient = dataclasses.replace(segments.validation.limits, diversity=0, saturation=1e9)
    folder = train_distill(
        dataclasses.replace(segments, validation=dataclasses.replace(segments.validation, limits=lenient))
    )
    assert Pipeline.from_pretrained(folder).info.sample_sigmas == segments.sigmas
    rows = [json.loads(line) for line in (segments.run.out / "log.jsonl").read_text().splitlines()]
    assert any("student_gap" in row for row in rows)
    assert not any("fake_loss" in row for row in rows)


def test_the_recipe_says_which_and_fits_it(recipe, tmp_path):
    tree = ["guidance=2", "sigmas=[1.0, 0.5]", "batch_size=2", "run.out=x", "run.steps=1", "student.lr=1e-4"]
    (tmp_path / "r.yaml").write_text("teacher: x\ndata: {kind: prompts, path: p.txt}\nobjective: {kind: segments}\n")
    assert load_recipe(DistillRecipe, tmp_path / "r.yaml", tree).objective == Segments()
    with pytest.raises(RecipeError, match="objective segments has no fake: it trains no fake score"):
        load_recipe(DistillRecipe, tmp_path / "r.yaml", [*tree, "fake.lr=1e-4"])
    with pytest.raises(ValueError, match="objective matching needs fake, the optimizer of the fake score"):
        dataclasses.replace(recipe, fake=None)
    with pytest.raises(ValueError, match="substeps"):
        Segments(substeps=0)


def test_it_is_cheaper_than_matching(recipe, segments):
    matching, own = (needs("distill", each) for each in (dataclasses.replace(recipe, guidance=4.0), segments))
    assert own.teraflops < 0.6 * matching.teraflops
    assert not any("fake" in name for name in own.memory)
