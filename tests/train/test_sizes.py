"""Sizes in a recipe and a checkpoint to start from: either will do, both must agree."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import yaml

from fourstroke.cli import main
from fourstroke.enhance.small import SmallEnhancerConfig, build_model, build_tokenizer
from fourstroke.recipe import RecipeError, agree, resolved
from fourstroke.train.dit import DitStage, train_dit
from fourstroke.train.enhance_sft import EnhanceSftRecipe, _model
from fourstroke.train.features import FeaturesRecipe
from fourstroke.train.loop import RunConfig
from fourstroke.train.optimizer import OptimizerConfig
from fourstroke.train.text import TextRecipe, TextStage
from fourstroke.train.vae import VaeStage, train_vae
from fourstroke.vae.features import SemanticConfig
from fourstroke.world.caption_rules import WorldRules
from fourstroke.world.dataset import WorldData
from fourstroke.world.labels import WorldLabels

from .conftest import WORLD

ENHANCED: dict[str, Any] = {"data": WorldData(world=WORLD), "rules": WorldRules()}
READ: dict[str, Any] = {"data": WorldData(world=WORLD), "labels": WorldLabels(world=WORLD)}


def test_a_transformer_and_its_text_encoder_start_from_a_checkpoint(dit_recipe):
    folder = train_dit(dit_recipe)
    again = dataclasses.replace(dit_recipe, init=str(folder))
    assert DitStage(again).transformer.config == dit_recipe.model  # both, and they agree
    stage = DitStage(dataclasses.replace(again, model=None, text=None))
    assert stage.transformer.config == dit_recipe.model
    deeper = dataclasses.replace(again, model=dataclasses.replace(dit_recipe.model, num_layers=3))
    with pytest.raises(RecipeError, match=r"^model is not what .*: num_layers is 3, there 2; leave model out"):
        DitStage(deeper)
    wider = dataclasses.replace(dit_recipe.text, intermediate_size=128)
    with pytest.raises(RecipeError, match=r"^text is not what .*: text_config.intermediate_size is 128, there 64;"):
        DitStage(dataclasses.replace(again, text=wider))
    reading = TextRecipe(**READ, run=dit_recipe.run, optimizer=OptimizerConfig(), batch_size=2, init=folder)
    assert TextStage(reading).text_encoder.width == 64
    with pytest.raises(RecipeError, match="text is not what"):
        TextStage(dataclasses.replace(reading, text=wider))


def test_an_autoencoder_starts_from_a_checkpoint_of_its_sizes(vae_recipe):
    again = dataclasses.replace(vae_recipe, init=train_vae(vae_recipe))
    VaeStage(again)
    VaeStage(dataclasses.replace(again, model=None))
    with pytest.raises(RecipeError, match=r"model is not what .*: base_dim is 8, there 4"):
        VaeStage(dataclasses.replace(again, model=dataclasses.replace(vae_recipe.model, base_dim=8)))


def test_an_enhancer_goes_on_from_a_checkpoint_of_its_sizes(tmp_path):
    tokenizer = build_tokenizer(["a cat", "a dog"] * 8, 420)
    small = SmallEnhancerConfig(hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=16)
    build_model(small, tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    run = RunConfig(out=tmp_path, steps=1)
    recipe = EnhanceSftRecipe(**ENHANCED, base=str(tmp_path), model=small, run=run)
    for same in (recipe, dataclasses.replace(recipe, model=None)):
        assert _model(same, [])[0].model.config.hidden_size == 32
    with pytest.raises(RecipeError, match=r"model is not what .*: num_hidden_layers is 2, there 1"):
        _model(dataclasses.replace(recipe, model=dataclasses.replace(small, num_layers=2)), [])


def test_neither_sizes_nor_a_checkpoint_is_refused(dit_recipe, vae_recipe):
    for recipe, key in ((dit_recipe, "model"), (dit_recipe, "text"), (vae_recipe, "model")):
        with pytest.raises(ValueError, match=f"{key}, or"):
            dataclasses.replace(recipe, **{key: None})
    with pytest.raises(ValueError, match="text, or"):
        TextRecipe(**READ, run=dit_recipe.run, optimizer=OptimizerConfig(), batch_size=2)


def test_sizes_that_differ_are_one_line_on_the_command_line(vae_recipe, tmp_path, capsys):
    folder = train_vae(vae_recipe)
    (tmp_path / "vae.yaml").write_text(yaml.safe_dump(resolved(vae_recipe)["recipe"]))
    words = ["train", "vae", "--recipe", str(tmp_path / "vae.yaml"), f"run.out={tmp_path / 'more'}", f"init={folder}"]
    assert main([*words, "model.base_dim=8"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "model=null" in error
    assert main([*words, "model=null", "run.steps=1"]) == 0


def test_only_what_a_recipe_says_must_agree():
    agree("model", None, {"width": 3}, "folder")
    agree("model", {"width": 3, "inner": {"a": (1, 2)}}, {"width": 3, "inner": {"a": [1, 2], "b": 5}}, "folder")
    many = {str(index): index for index in range(5)}
    with pytest.raises(RecipeError, match="there None and 2 more; leave model out"):
        agree("model", many, {}, "folder")
    assert agree("model", SmallEnhancerConfig(), SmallEnhancerConfig(), "folder") is None


def test_what_a_recipe_would_not_read_is_refused(tmp_path):
    run, optimizer = RunConfig(out=tmp_path, steps=1), OptimizerConfig()
    with pytest.raises(ValueError, match="come from the labels"):
        FeaturesRecipe(**READ, model=SemanticConfig(outputs=3), run=run, optimizer=optimizer, batch_size=1)
