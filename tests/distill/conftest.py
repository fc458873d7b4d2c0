"""A tiny teacher with random weights, made once, and scenes to distil with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from fourstroke.distill.comparison import ComparisonConfig
from fourstroke.pipeline import Pipeline
from fourstroke.train.distill import DistillRecipe
from fourstroke.train.loop import RunConfig
from fourstroke.train.optimizer import OptimizerConfig
from fourstroke.world import WorldConfig
from fourstroke.world.dataset import WorldData

from ..conftest import build_tiny_pipeline

WORLD = WorldConfig(width=32, height=32, sprites=0)  # shapes alone need no fonts


def small_pipeline(causal: bool = True) -> Pipeline:
    pipe = build_tiny_pipeline(causal)
    pipe.info = dataclasses.replace(pipe.info, width=32, height=32)
    return pipe


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distill")
    small_pipeline().save_pretrained(folder / "teacher")
    return folder / "teacher"


@pytest.fixture
def recipe(teacher_folder: Path, tmp_path: Path) -> DistillRecipe:
    return DistillRecipe(
        data=WorldData(world=WORLD, samples=64, held_out=8),
        teacher=str(teacher_folder),
        guidance=2.0,
        sigmas=(1.0, 0.8, 0.6, 0.3),
        run=RunConfig(out=tmp_path / "run", steps=6, log_seconds=0),
        student=OptimizerConfig(kind="adamw", lr=1e-3, warmup=2),
        fake=OptimizerConfig(lr=2e-3, warmup=1, cooldown=0.0),
        batch_size=3,
        noise_samples=2,
        fake_updates=2,
        validation=ComparisonConfig(prompts=2, diversity_prompts=1, seeds=2, teacher_steps=4),
    )
