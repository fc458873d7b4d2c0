"""Every number of a recipe has a range, which holds from Python and from YAML, and what its ends mean."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import types
import typing
from pathlib import Path
from typing import Annotated, Union, get_args, get_origin

import pytest
import torch

from fourstroke import registry
from fourstroke.commands import STAGES
from fourstroke.parallel.checkpoint import load_values
from fourstroke.ranges import Range
from fourstroke.recipe import RecipeError, load_recipe
from fourstroke.registry import Registered
from fourstroke.train.loop import RunConfig, Trainer
from fourstroke.train.optimizer import OptimizerConfig
from fourstroke.train.vae import VaeRecipe, VaeStage, train_vae

ELSEWHERE = {
    "WorldConfig.sprites",
    "WorldConfig.things",
    "Phase.batch_size",
    "AutoencoderConfig.latents_mean",
    "AutoencoderConfig.latents_std",
}
"""Numbers that are looked at together with others, after the ranges."""
RECIPES = Path(__file__).parents[2] / "recipes"


def _kinds(hint, found):
    """All dataclasses within a type."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and hint not in found:
        found.add(hint)
        for name, inner in typing.get_type_hints(hint, include_extras=True).items():
            if name in {field.name for field in dataclasses.fields(hint)}:
                _kinds(inner, found)
    for inner in get_args(hint):
        _kinds(inner, found)
        if isinstance(inner, Registered):
            for kind in registry.kinds(inner.group):
                _kinds(registry.find(inner.group, kind), found)
    return found


def _bare(hint) -> bool:
    """Whether a type has a number without a range."""
    if get_origin(hint) is Annotated:
        return not any(isinstance(extra, (Range, Registered)) for extra in get_args(hint)[1:])
    if get_origin(hint) in (Union, types.UnionType, tuple):
        return any(_bare(inner) for inner in get_args(hint))
    return hint in (int, float)


@pytest.mark.parametrize("stage", STAGES)
def test_every_number_of_every_recipe_has_a_range(stage):
    module, recipe, _ = STAGES[stage]
    kinds = _kinds(getattr(importlib.import_module(f"fourstroke.train.{module}"), recipe), set())
    assert RunConfig in kinds
    bare = [
        f"{kind.__name__}.{field.name}"
        for kind in kinds
        for field in dataclasses.fields(kind)
        if _bare(typing.get_type_hints(kind, include_extras=True)[field.name])
    ]
    assert set(bare) <= ELSEWHERE


WRONG = [
    *(f"run.steps={value}" for value in ("0", "-5")),
    *(f"run.max_minutes={value}" for value in ("-1", ".nan", ".inf")),
    *(f"run.{name}=-1" for name in ("save_minutes", "sample_minutes", "log_seconds", "seed")),
    f"run.seed={2**64}",
    f"run.seed={'9' * 400}",
    *(f"optimizer.lr={value}" for value in ("-1e-3", ".nan", ".inf")),
    *(f"optimizer.betas={value}" for value in ("[0.9, 1.0]", "[-0.1, 0.9]", "[0.9, .nan]")),
    *(f"optimizer.clip={value}" for value in ("-1", ".nan")),
    *(f"optimizer.ema={value}" for value in ("2", "1", "-0.1")),
    "optimizer.warmup=-5",
    *(f"optimizer.cooldown={value}" for value in ("5", "-0.1")),
    *(f"optimizer.{name}=-1" for name in ("weight_decay", "momentum")),
    *(f"{name}=0" for name in ("batch_size", "statistics")),
    *(f"{name}=-1" for name in ("losses.edge", "losses.squared", "latent_noise", "loader.workers")),
    "sizes=[[0, 32]]",
    "data.samples=0",
    "model.z_dim=0",
    "model.dim_mult=[1, 0, 4, 8, 16]",
    "run.out=@x",
    "run.out=",
    "run.out=''",
    "run.out=2024-13-45",
    "run.out=~nobody-of-this-name/x",
]


@pytest.mark.parametrize("override", WRONG, ids=[word[:40] for word in WRONG])
def test_values_out_of_range_are_one_line_with_the_key(override):
    with pytest.raises(RecipeError) as error:
        load_recipe(VaeRecipe, RECIPES / "micro" / "vae.yaml", [override])
    assert "\n" not in str(error.value)
    assert override.partition("=")[0].split(".")[-1] in str(error.value)


@pytest.mark.parametrize(
    ("stage", "override"),
    [
        ("dit", "drop_prompt=1.5"),
        ("dit", "noise_samples=0"),
        ("dit", "time_std=-1"),
        ("dit", "sheet=-1"),
        ("text", "tokenizer_captions=0"),
        ("features", "batch_size=-2"),
        ("distill", "lora_rank=-4"),
        ("distill", "guidance=.nan"),
        ("distill", "student.ema=1.5"),
        ("distill", "warm.substeps=0"),
        ("distill", "validation.limits={saturation: 0.5}"),
        ("distill", "renoise={std: -1}"),
        ("enhance-sft", "lr=-1"),
        ("enhance-sft", "beta2=1"),
        ("enhance-sft", "lora={dropout: 1.5}"),
        ("enhance-sft", "settings.top_p=0"),
        ("features", "data.world.words=2"),
        ("features", "data.world.textures=.nan"),
        ("enhance-rl", "temperature=0"),
        ("enhance-rl", "validation.every=0"),
        ("enhance-rl", "rewards.consistency=-1"),
        ("enhance-rl", "rewards.length={low: 90}"),
        ("enhance-rl", "kl=-0.1"),
    ],
)
def test_other_stages_hold_their_ranges_too(stage, override):
    module, recipe, _ = STAGES[stage]
    kind = getattr(importlib.import_module(f"fourstroke.train.{module}"), recipe)
    with pytest.raises(RecipeError) as error:
        load_recipe(kind, RECIPES / "micro" / f"{stage}.yaml", [override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_the_bundled_recipes_lie_within_them(path):
    stage = next((stage for stage in sorted(STAGES, key=len, reverse=True) if path.stem.startswith(stage)), None)
    if stage is None:
        return  # a world, read through the recipes that name it
    module, recipe, _ = STAGES[stage]
    load_recipe(getattr(importlib.import_module(f"fourstroke.train.{module}"), recipe), path)


def test_ranges_hold_in_python():
    with pytest.raises(ValueError, match="steps=0: it must be a whole number, at least 1"):
        RunConfig(out=Path("x"), steps=0)
    with pytest.raises(ValueError, match=r"steps=1\.5"):
        RunConfig(out=Path("x"), steps=1.5)
    with pytest.raises(ValueError, match="lr='1'"):
        OptimizerConfig(lr="1")


def test_home_is_expanded_in_recipes(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = load_recipe(VaeRecipe, RECIPES / "micro" / "vae.yaml", ["run.out=~/x", "init=~/photos"])
    assert (recipe.run.out, recipe.init) == (tmp_path / "x", tmp_path / "photos")


def test_no_minutes_means_at_once(vae_recipe):
    recipe = dataclasses.replace(vae_recipe, run=dataclasses.replace(vae_recipe.run, max_minutes=0.0, steps=10**6))
    assert (train_vae(recipe) / "config.json").exists()
    assert load_values(recipe.run.out / "state")["step"] == 0


def _keep(parameters, seen, *_) -> None:
    seen += [p.grad.flatten().clone() for p in parameters if p.grad is not None]


def _moved(recipe, scale: float, clip: float) -> torch.Tensor:
    stage = VaeStage(recipe)
    loss = stage.loss
    stage.loss = lambda step: {"loss": scale * loss(step)["loss"]}
    optimizer = dataclasses.replace(recipe.optimizer, kind="adamw", clip=clip, warmup=0, cooldown=0.0)
    trainer = Trainer(stage, recipe.run, optimizer, {})
    before = torch.cat([p.detach().flatten().clone() for p in stage.model.parameters()])
    seen: list[torch.Tensor] = []  # as they come to the optimiser; afterwards they are let go
    for group in trainer.optimizer_groups.values():
        for optimiser in group.optimizers.values():
            parameters = [p for part in optimiser.param_groups for p in part["params"]]
            keep = functools.partial(_keep, parameters, seen)
            optimiser.register_step_pre_hook(keep)
    trainer.update()
    grads = torch.cat(seen)
    assert not torch.equal(before, torch.cat([p.detach().flatten() for p in stage.model.parameters()]))
    return grads.norm()


def test_a_clip_of_zero_is_off(vae_recipe):
    """Gradients are left as they are, however large; a clip above 0 bounds them."""
    assert _moved(vae_recipe, 1e3, 1.0) <= 1.001
    small, large = _moved(vae_recipe, 1e3, 0.0), _moved(vae_recipe, 1e4, 0.0)
    assert large > 100
    torch.testing.assert_close(large, 10 * small, rtol=1e-3, atol=0)


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_the_ends_of_the_seeds_train(vae_recipe, seed):
    run = dataclasses.replace(vae_recipe.run, seed=seed, steps=1)
    assert train_vae(dataclasses.replace(vae_recipe, run=run)).is_dir()
