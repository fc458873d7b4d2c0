"""A transformer's run on mixed data that is killed and resumed ends with the weights of one that was left alone."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from fourstroke.data.buckets import BucketConfig
from fourstroke.data.datasets.mixture import MixtureData, Part
from fourstroke.data.loader import LoaderConfig
from fourstroke.parallel.checkpoint import load_values, read_state
from fourstroke.train.dit import DitRecipe
from fourstroke.train.pictures import Pictures
from fourstroke.world import WorldConfig
from fourstroke.world.dataset import WorldData

from ..data.test_loader import mixture
from .conftest import Launch

STEPS, SECONDS = 32, 240
KILLS = 5, 12, 20
"""Steps that a saved state has reached when a kill comes."""


@pytest.fixture
def mixed(dit_recipe: DitRecipe, tmp_path: Path) -> DitRecipe:
    """A folder, tar shards and the drawn world in six sizes, read by two processes; every step is saved."""
    folder, shards, _ = mixture(tmp_path / "data").parts
    world = Part(data=WorldData(world=WorldConfig(width=64, height=64, sprites=0), samples=64), weight=2)
    return dataclasses.replace(
        dit_recipe,
        data=MixtureData(parts=(folder, shards, world)),
        buckets=BucketConfig(areas=(32, 64), crop="random"),
        loader=LoaderConfig(workers=2, prefetch=2),
        held_out=0,
        sheet=0,
        batch_size=2,
        run=dataclasses.replace(dit_recipe.run, steps=STEPS, save_minutes=0),
    )


def _own(mark: Path) -> list[int]:
    """The processes whose command line names a file, the loader's among them."""
    shown = subprocess.run(["ps", "-wweo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in shown.splitlines() if str(mark) in line]


def _reached(recipe: DitRecipe) -> int:
    state = recipe.run.out / "state"
    return load_values(state)["step"] if (state / "state.json").exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "whole"), [(1, True), (2, False)])
def test_killed_three_times_a_run_ends_with_the_weights_of_one_left_alone(
    mixed: DitRecipe, tmp_path: Path, ranks: int, whole: bool
) -> None:
    pictures = Pictures(
        mixed.data, mixed.buckets, LoaderConfig(workers=0), mixed.batch_size, 0, mixed.info, mixed.run, 0.0
    )
    batches = [pictures.batch(step) for step in range(STEPS)]
    assert len({batch.size for batch in batches}) >= 4
    assert len({batch.records[0].name.split("/")[0] for batch in batches}) == 3

    runs = [
        dataclasses.replace(mixed, run=dataclasses.replace(mixed.run, out=tmp_path / name))
        for name in ("alone", "killed")
    ]
    alone, killed = runs
    launch = Launch(tmp_path, ranks)
    code, _, errors = launch("dit", alone, whole=whole)
    assert code == 0, errors

    reached = []
    for wanted in KILLS:
        command = launch.command("dit", killed, *["--resume"] * bool(reached), whole=whole)
        with subprocess.Popen(command, env=launch.environment, stdout=subprocess.PIPE, text=True) as process:
            end = time.monotonic() + SECONDS
            while _reached(killed) < wanted and process.poll() is None and time.monotonic() < end:
                time.sleep(0.02)
            for pid in _own(tmp_path / "dit.yaml"):
                os.kill(pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            assert process.stdout is not None
            resumed = re.search(r"resumed \S+ at step (\d+)", process.stdout.read())
            assert (resumed is not None) == bool(reached)
            assert resumed is None or int(resumed[1]) == reached[-1]
        reached.append(_reached(killed))
    assert all(step >= wanted for step, wanted in zip(reached, KILLS, strict=True))
    assert reached[-1] < STEPS
    code, out, errors = launch("dit", killed, "--resume", whole=whole)
    assert code == 0, errors
    assert f"at step {reached[-1]}" in out

    states = [read_state(recipe.run.out / "state") for recipe in runs]
    assert states[0].keys() == states[1].keys()
    assert [name for name, value in states[0].items() if not torch.equal(value, states[1][name])] == []
    files = sorted(path.relative_to(alone.run.out) for path in (alone.run.out / "model").rglob("*.safetensors"))
    assert files
    assert all((alone.run.out / file).read_bytes() == (killed.run.out / file).read_bytes() for file in files)
    assert not list(killed.run.out.glob(".*.partial-*"))
