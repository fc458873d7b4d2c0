"""The distillation on two ranks: the weights of one process, a student that loads, and a collapse that ends both."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fourstroke import Pipeline
from fourstroke.data.prompts import PromptsData
from fourstroke.distill.comparison import CollapseLimits
from fourstroke.distill.teachers import SpecialistConfig
from fourstroke.parallel.checkpoint import read_state
from fourstroke.train.distill import train_distill

from ..train import conftest
from ..train.conftest import Launch, launch  # noqa: F401


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "whole"), [(0, False), (2, False), (0, True), (2, True)])
def test_two_ranks_distil_what_one_process_does(recipe, launch: Launch, rank, whole):  # noqa: F811
    lenient = dataclasses.replace(recipe.validation, limits=CollapseLimits(diversity=0.0, saturation=1e6))
    changes = {"lora_rank": rank, "validation": lenient, "gradient_checkpointing": bool(rank)}
    runs = [
        dataclasses.replace(recipe.run, out=recipe.run.out.with_name(name), steps=2, sample_first=True)
        for name in ("one", "two")
    ]
    one = dataclasses.replace(recipe, run=runs[0], batch_size=4, **changes)
    two = dataclasses.replace(recipe, run=runs[1], batch_size=2, **changes)
    train_distill(one)
    code, out, errors = launch("distill", two, whole=whole)
    assert code == 0, errors
    states = [read_state(run.out / "state", "model.") for run in runs]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert out.count("teacher, 4 steps") == 1
    student = Pipeline.from_pretrained(two.run.out / "model")
    assert student.info.sample_sigmas == recipe.sigmas
    assert student("a red circle", seed=1).images[0].size == (32, 32)


@pytest.mark.slow
def test_a_collapse_ends_all_ranks(recipe, launch: Launch):  # noqa: F811
    strict = dataclasses.replace(recipe.validation, limits=CollapseLimits(saturation=1.000001))
    code, _, errors = launch("distill", dataclasses.replace(recipe, validation=strict))
    assert code != 0
    assert errors.count("the student collapsed at step 6") == 2


@pytest.mark.slow
def test_a_specialist_that_one_rank_alone_needs_is_asked_by_all(recipe, teacher_folder, tmp_path, launch, monkeypatch):  # noqa: F811
    monkeypatch.setattr(conftest, "SECONDS", 120)
    (tmp_path / "prompts.txt").write_text(
        'a red circle\na sign that says "tea"\na blue circle\n"milk" on a jar\na cat\n'
    )
    specialist = SpecialistConfig(model=teacher_folder, shares=(1.0,) * 4, categories=("Text",))
    lenient = dataclasses.replace(recipe.validation, limits=CollapseLimits(diversity=0.0, saturation=1e6))
    mixed = dataclasses.replace(
        recipe,
        data=PromptsData(path=tmp_path / "prompts.txt", held_out=1),
        specialists=(specialist,),
        batch_size=1,
        validation=lenient,
    )
    code, _, errors = launch("distill", mixed)
    assert code == 0, errors
