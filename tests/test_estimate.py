"""Estimates against what PyTorch really allocates and against the published size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fourstroke.cli import main
from fourstroke.dit import Layout, Transformer, TransformerConfig
from fourstroke.estimate import (
    _elements,
    _Kept,
    adapter_parameters,
    count,
    estimate_distillation,
    forward_cost,
)
from fourstroke.lora import LoraConfig, add_lora, lora_parameters
from fourstroke.recipe import load_recipe
from fourstroke.train.distill import DistillRecipe

RECIPE = Path(__file__).parents[1] / "recipes" / "7b" / "distill.yaml"
SMALL = TransformerConfig(
    num_layers=3, num_attention_heads=2, attention_head_dim=32, axes_dims_rope=(8, 12, 12), context_in_dim=48
)


def test_what_is_kept_is_what_autograd_keeps():
    model, layout = Transformer(SMALL), Layout.build([10, 10], (4, 4))
    text, x, t = torch.randn(2, 10, 48), torch.randn(4, 16, 64), torch.rand(4)
    kept = _Kept(model)
    with kept:
        model.denoise(x, t, model.prefill(text, layout).repeat(2))
    cost = forward_cost(SMALL, 10, (4, 4), 2, 4, torch.float32, False)
    assert cost.kept == pytest.approx(kept.nbytes, rel=0.02)
    assert forward_cost(SMALL, 10, (4, 4), 2, 4, torch.float32, True).kept < cost.kept


def test_operations_are_twice_the_weights_for_every_token():
    config = TransformerConfig(num_layers=8, num_attention_heads=4, attention_head_dim=64, axes_dims_rope=(8, 28, 28))
    cost = forward_cost(config, 64, (8, 8), 1, 2, torch.float32, False)
    blocks = count(config) - count(TransformerConfig(**{**vars(config), "num_layers": 1}))
    blocks = blocks * 8 / 7
    assert cost.rows == pytest.approx(2 * blocks * 128, rel=0.15)  # and a little for attention


def test_an_adapter_is_counted_right():
    model = Transformer(SMALL)
    add_lora(model, LoraConfig(rank=4))
    assert adapter_parameters(SMALL, 4) == sum(p.numel() for p in lora_parameters(model).values())


def test_the_open_weights_as_an_adapter_fit_one_large_gpu(capsys):
    found = estimate_distillation(load_recipe(DistillRecipe, RECIPE))
    assert found.memory["transformer, frozen"] == pytest.approx(7_115_124_736 * 2 / 2**30)
    assert 30 < sum(found.memory.values()) < 72
    whole = estimate_distillation(load_recipe(DistillRecipe, RECIPE, ["lora_rank=0", "dtype=float32"]))
    assert sum(whole.memory.values()) > 250
    assert main(["estimate", str(RECIPE), "--tflops", "400"]) == 0
    assert "in all" in capsys.readouterr().out


def test_frozen_parts_are_counted_in_numbers_whatever_their_type(tmp_path):
    half = {"a": torch.zeros(3, 5, dtype=torch.bfloat16), "b": torch.zeros(7, dtype=torch.float32)}
    save_file(half, tmp_path / "w.safetensors")
    assert _elements(tmp_path / "w.safetensors") == 22


def test_adapters_spare_the_gradients_of_weights():
    recipes = [load_recipe(DistillRecipe, RECIPE, words) for words in ([], ["lora_rank=0", "dtype=float32"])]
    adapter, whole = (estimate_distillation(recipe).teraflops for recipe in recipes)
    assert 0.7 < adapter / whole < 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(([f"--tflops={value}"], "above 0") for value in ("0", "-5", "nan", "inf", "-inf")),
        *(([f"--text-tokens={value}"], "choose 1 to") for value in ("0", "-400", "999999999")),
        (["width=8", "height=512"], "no token"),
        (["run.steps=0"], "at least 1"),
        (["batch_size=-1"], "at least 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_in_one_line(capsys, options, message):
    assert main(["estimate", str(RECIPE), *options]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.count("\n") == 1
    assert message in streams.err


def test_a_teacher_that_is_yet_to_be_trained_is_told(monkeypatch, capsys, tmp_path):
    """Only a hub id has the published shape to stand in for it."""
    recipe = RECIPE.parents[1] / "micro" / "distill.yaml"
    monkeypatch.chdir(tmp_path)
    assert main(["estimate", str(recipe)]) == 2
    assert "no model at runs/micro/dit/model" in capsys.readouterr().err
