"""Two ranks reach what one process reaches, resume on any number of ranks, and end together."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest
import torch

from fourstroke import Pipeline
from fourstroke.data.datasets.mixture import MixtureData, Part
from fourstroke.parallel import mesh
from fourstroke.parallel.checkpoint import load_values, read_state
from fourstroke.parallel.collectives import local_rows, on_rank0
from fourstroke.parallel.mesh import process_group, world_size
from fourstroke.parallel.sharding import Sharded
from fourstroke.recipe import RecipeError
from fourstroke.train.dit import DitStage, train_dit
from fourstroke.train.features import FeaturesRecipe, FeaturesStage
from fourstroke.train.loop import Trainer
from fourstroke.train.repa import SemanticsConfig
from fourstroke.train.vae import train_vae
from fourstroke.vae.features import SemanticConfig
from fourstroke.world.dataset import SmallTextData, WorldData
from fourstroke.world.labels import WorldLabels

from .conftest import WORLD

CLOSE = 5e-5
"""Two hundredths of a step of AdamW at this rate."""
FELT = 1e-8
"""AdamW's eps: where the root of its second moment is less, it makes steps of rounding errors."""


def _state(recipe):
    """The tensors of a saved state by name."""
    return read_state(recipe.run.out / "state")


def _assert_close(found, expected, rtol=1e-4):
    """Two states agree, entries that hardly have a gradient apart: few of a tensor may be such."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        second = expected.get(f"optimizer.adamw.{name.partition('.')[2]}.exp_avg_sq")
        off = ~torch.isclose(found[name], value, rtol=rtol, atol=CLOSE)
        if second is not None:
            faint = off & (second.sqrt() < FELT)
            assert faint.float().mean() < 1e-3, name
            off &= ~faint
        assert not off.any(), name


def _at(recipe, name: str, steps: int, **changes):
    run = dataclasses.replace(recipe.run, out=recipe.run.out.with_name(name), steps=steps)
    return dataclasses.replace(recipe, run=run, **changes)


@pytest.fixture
def steady(dit_recipe):
    """A rate that does not depend on how long the run will be, so that runs of several lengths agree."""
    return dataclasses.replace(dit_recipe, optimizer=dataclasses.replace(dit_recipe.optimizer, cooldown=0.0))


def test_in_one_process_nothing_happens():
    x = torch.arange(6)
    assert local_rows(x, 2) is x
    assert on_rank0(lambda: 3) == 3
    model = torch.nn.Linear(2, 2)
    with process_group(), Sharded(model).gathered() as whole:
        assert whole is model
    assert world_size() == 1


def test_the_ranks_rows_are_those_of_one_batch(monkeypatch):
    x = torch.arange(12)  # six samples of two rows
    parts = []
    for rank in range(3):
        monkeypatch.setattr(mesh, "world_size", lambda: 3)
        monkeypatch.setattr(mesh, "rank", lambda rank=rank: rank)
        parts.append(local_rows(x, 2).tolist())
    assert parts == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]


def test_stages_of_one_process_refuse_several(vae_recipe, monkeypatch):
    same = {name: getattr(vae_recipe, name) for name in ("run", "optimizer", "batch_size")}
    same |= {"data": WorldData(world=WORLD), "labels": WorldLabels(world=WORLD)}
    stage = FeaturesStage(FeaturesRecipe(model=SemanticConfig(widths=(4, 4, 4, 8, 8)), **same))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="train features runs in one process"):
        Trainer(stage, vae_recipe.run, vae_recipe.optimizer, {})
    assert not os.path.exists(vae_recipe.run.out)


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
def test_two_ranks_reach_the_weights_of_one_process(steady, launch, whole):
    """And again after an interruption, on two ranks as well as in one process."""
    one = _at(steady, "one", 4)
    train_dit(one)
    expected = _state(one)
    two = _at(steady, "two", 4, batch_size=2)
    code, out, errors = launch("dit", two, whole=whole)
    assert code == 0, errors
    found = _state(two)
    _assert_close(found, expected)
    assert out.count("samples at step 4") == 1
    losses = [
        [
            row["loss"]
            for line in (recipe.run.out / "log.jsonl").read_text().splitlines()
            if "loss" in (row := json.loads(line))
        ]
        for recipe in (one, two)
    ]
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert Pipeline.from_pretrained(two.run.out / "model")("a red circle", seed=1).images[0].size == (32, 32)

    parts = [_at(steady, "parts", steps, batch_size=2) for steps in (2, 4)]
    assert launch("dit", parts[0], whole=whole)[0] == 0
    alone = _at(steady, "parts", 2)
    trainer = Trainer(DitStage(alone), alone.run, alone.optimizer, {})
    trainer.load(alone.run.out / "state")
    assert launch("dit", parts[1], "--resume", whole=whole)[0] == 0
    resumed = _state(parts[1])
    assert all(torch.equal(value, found[name]) for name, value in resumed.items())
    for _ in range(2):
        trainer.update()
    trainer.save(alone.run.out / "state")
    _assert_close(_state(alone), expected)


def test_two_ranks_start_from_a_checkpoint_of_which_each_reads_its_part(steady, launch, tmp_path):
    """The second run goes on with all weights of the first; no rank holds them whole before they are split."""
    train_dit(_at(steady, "base", 1))
    more = dataclasses.replace(
        steady, init=str(steady.run.out.with_name("base") / "model"), model=None, vae=None, text_from=None, text=None
    )
    one, two = _at(more, "one", 2), _at(more, "two", 2, batch_size=2)
    train_dit(one)
    whole_is_refused = "from fourstroke.dit import transformer; transformer.load_weights = None"
    code, _, errors = launch("dit", two, before=whole_is_refused)
    assert code == 0, errors
    _assert_close(_state(two), _state(one))


@pytest.mark.parametrize(
    ("semantics", "split_from"),
    [
        (SemanticsConfig(labels=WorldLabels(world=WORLD), block=1), 100_000),
        pytest.param(None, 165_000, marks=pytest.mark.slow),
    ],
)
def test_models_that_are_split_and_whole_train_together(steady, launch, semantics, split_from):
    """Of one process's three models two are split and the head is not, or the text encoder is and the transformer not.

    Half the prompts are dropped, so that the ranks differ in how many cells they name.
    """
    mixed = dataclasses.replace(steady, semantics=semantics, drop_prompt=0.5)
    one, two = _at(mixed, "one", 4), _at(mixed, "two", 4, batch_size=2)
    trainer = Trainer(DitStage(one), one.run, one.optimizer, {})
    sizes = {name: sum(p.numel() for p in model.parameters()) for name, model in trainer.stage.models.items()}
    assert min(sizes.values()) < split_from <= max(sizes.values())
    trainer.run()
    expected = _state(one)
    code, _, errors = launch("dit", two, split_from=split_from)
    assert code == 0, errors
    found = _state(two)
    _assert_close(found, expected)
    alone = Trainer(DitStage(one), one.run, one.optimizer, {})
    alone.load(two.run.out / "state")  # what was half split is taken up whole
    assert alone.step == 4


@pytest.mark.slow
def test_two_ranks_train_the_autoencoder_of_one_process(vae_recipe, launch):
    """Scenes, pages, windows and noise are those of one batch, matrices are shared out, gradients averaged."""
    optimizer = dataclasses.replace(vae_recipe.optimizer, cooldown=0.0)
    pages = Part(data=SmallTextData(width=32, height=32, sizes=(8, 12)))
    own = {
        "data": MixtureData(parts=(Part(data=vae_recipe.data), pages), by="sample"),
        "sizes": ((16, 16), (32, 32)),
        "latent_noise": 0.0,
    }
    steady = dataclasses.replace(vae_recipe, optimizer=optimizer, **own)
    one = _at(steady, "one", 3)
    train_vae(one)
    expected = _state(one)
    two = _at(steady, "two", 3, batch_size=2)
    code, out, errors = launch("vae", two)
    assert code == 0, errors
    assert out.count("samples at step 3") == 1
    found = _state(two)
    _assert_close(found, expected, rtol=1e-3)


@pytest.mark.slow
def test_an_interrupt_stops_all_ranks_with_a_state(steady, launch):
    recipe = _at(steady, "stopped", 10**6, batch_size=2)
    code, out, errors = launch("dit", recipe, stop_when=recipe.run.out / "log.jsonl")
    assert code != 0
    assert out.count("continue with --resume") == 1, errors
    assert 0 < load_values(recipe.run.out / "state")["step"] < 10**6
