"""Estimates against what PyTorch really allocates and against the published size."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fourstroke.cli import main
from fourstroke.dit import Layout, Transformer, TransformerConfig
from fourstroke.estimate import GIB, estimate_recipe, needs, recipes, stage_of, warnings
from fourstroke.estimate.stages import Checkpoint, distill_needs, stored_numbers, transformer_needs
from fourstroke.estimate.transformer import Precision, SavedBytes, Work, count, count_lora, forward_cost
from fourstroke.lora import LoraConfig, add_lora, lora_module
from fourstroke.recipe import RecipeError, load_recipe
from fourstroke.train.distill import DistillRecipe
from fourstroke.train.loop import RunConfig
from fourstroke.train.optimizer import OptimizerConfig
from fourstroke.train.vae import VaeRecipe
from fourstroke.vae import Autoencoder, AutoencoderConfig
from fourstroke.world import WorldConfig
from fourstroke.world.dataset import WorldData

RECIPES = Path(__file__).parents[1] / "recipes"
RECIPE = RECIPES / "7b" / "distill.yaml"
SMALL = TransformerConfig(
    num_layers=3, num_attention_heads=2, attention_head_dim=32, axes_dims_rope=(8, 12, 12), context_in_dim=48
)


SINGLE = Precision(weights=torch.float32, compute=torch.float32)
ADAMW = OptimizerConfig(kind="adamw")


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)])
def test_what_is_kept_is_what_autograd_keeps(lora):
    model, layout = Transformer(SMALL), Layout.build([10, 10], (4, 4))
    if lora is not None:
        add_lora(model, lora)
    text, x, t = torch.randn(2, 10, 48), torch.randn(4, 16, 64), torch.rand(4)
    kept = SavedBytes(model)
    with kept:
        model.denoise(x, t, model.prefill(text, layout).repeat(2))
    work = Work(grid=(4, 4), prompts=2, rows=4, text_tokens=10)
    cost = forward_cost(SMALL, work, SINGLE, lora)
    assert cost.kept == pytest.approx(kept.nbytes, rel=0.02)
    assert forward_cost(SMALL, work, SINGLE, lora, 1).kept < cost.kept


def test_input_images_are_part_of_the_prefix():
    work = Work(grid=(4, 4), prompts=2, rows=2, text_tokens=10)
    plain, edit = (forward_cost(SMALL, each, SINGLE) for each in (work, dataclasses.replace(work, inputs=((4, 4),))))
    assert edit.prefix > 1.5 * plain.prefix
    assert edit.kept > plain.kept


def test_operations_are_twice_the_weights_for_every_token():
    config = TransformerConfig(num_layers=8, num_attention_heads=4, attention_head_dim=64, axes_dims_rope=(8, 28, 28))
    cost = forward_cost(config, Work(grid=(8, 8), prompts=1, rows=2, text_tokens=64), SINGLE)
    blocks = count(config) - count(TransformerConfig(**{**vars(config), "num_layers": 1}))
    blocks = blocks * 8 / 7
    assert cost.rows == pytest.approx(2 * blocks * 128, rel=0.15)  # and a little for attention


def test_an_adapter_is_counted_right():
    model = Transformer(SMALL)
    add_lora(model, LoraConfig(rank=4), "a")
    expected = sum(p.numel() for p in lora_module(model, "a").parameters())
    assert count_lora(SMALL, LoraConfig(rank=4)) == expected


def test_every_part_of_a_full_training_is_counted():
    work, numbers = Work(grid=(4, 4), prompts=1, rows=1, text_tokens=10), count(SMALL) * 4 / GIB
    memory, cost = transformer_needs(SMALL, work, lora=None, checkpointing=0, bf16=False, optimizer=ADAMW)
    assert memory["transformer, trained"] == memory["transformer, moving average"] == pytest.approx(numbers)
    assert memory["transformer, moments of the optimiser"] == pytest.approx(2 * numbers)
    assert memory["gradients and activations, at their peak"] == pytest.approx(max(numbers, cost.kept / GIB))
    twice, _ = transformer_needs(SMALL, work, lora=None, checkpointing=0, bf16=False, optimizer=ADAMW, accumulate=2)
    assert twice["gradients and activations, at their peak"] == pytest.approx(numbers + cost.kept / GIB)
    eight, _ = transformer_needs(
        SMALL, work, lora=None, checkpointing=0, bf16=False, optimizer=dataclasses.replace(ADAMW, eight_bit=True)
    )
    assert eight["transformer, moments of the optimiser"] == pytest.approx(numbers / 2)
    muon, _ = transformer_needs(
        SMALL, work, lora=None, checkpointing=0, bf16=False, optimizer=OptimizerConfig(kind="muon")
    )
    assert numbers < muon["transformer, moments of the optimiser"] < 2 * numbers


def test_ranks_share_what_is_large_and_hold_the_rest_whole():
    one, eight = (distill_needs(load_recipe(DistillRecipe, RECIPE, ["lora_rank=0"]), ranks=ranks) for ranks in (1, 8))
    for name in ("student, trained", "fake score, moments of the optimiser"):
        assert eight.memory[name] == pytest.approx(one.memory[name] / 8)
    whole = "text encoder and autoencoder, frozen"
    assert eight.memory[whole] == one.memory[whole]
    at_a_look = eight.memory["whole models of the first rank, at a look"]
    assert eight.gib - at_a_look < 60  # on eight large GPUs all weights can be distilled
    assert 30 < at_a_look + 1 < eight.gib < 141
    assert one.gib > 200


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "lora", "lora-checkpointing"])
def test_two_layers_at_real_width_take_what_was_foreseen(kind):
    script = Path(__file__).parents[1] / "benchmarks" / "training_memory.py"
    run = subprocess.run([sys.executable, str(script), "--kinds", kind], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["measured"] < 6
    assert found["estimated"] == pytest.approx(found["measured"], rel=0.15)


def test_the_open_weights_as_an_adapter_fit_one_large_gpu(capsys):
    found = distill_needs(load_recipe(DistillRecipe, RECIPE))
    assert found.memory["teacher's transformer, frozen"] == pytest.approx(7_115_124_736 * 2 / GIB)
    assert 30 < found.gib < 72
    whole = distill_needs(load_recipe(DistillRecipe, RECIPE, ["lora_rank=0", "dtype=float32"]))
    assert whole.gib > 250
    assert main(["estimate", str(RECIPE), "--tflops", "400"]) == 0
    assert "in all" in capsys.readouterr().out


def test_frozen_parts_are_counted_in_numbers_whatever_their_type(tmp_path):
    half = {"a": torch.zeros(3, 5, dtype=torch.bfloat16), "b": torch.zeros(7, dtype=torch.float32)}
    save_file(half, tmp_path / "w.safetensors")
    assert stored_numbers(tmp_path) == 22


def test_adapters_spare_the_gradients_of_weights():
    recipes = [load_recipe(DistillRecipe, RECIPE, words) for words in ([], ["lora_rank=0", "dtype=float32"])]
    adapter, whole = (distill_needs(recipe).teraflops for recipe in recipes)
    assert 0.7 < adapter / whole < 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(([f"--tflops={value}"], "above 0") for value in ("0", "-5", "nan", "inf", "-inf")),
        *(([f"--text-tokens={value}"], "choose 1 to") for value in ("0", "-400", "999999999")),
        (["width=8", "height=512"], "no token"),
        (["run.steps=0"], "at least 1"),
        (["batch_size=-1"], "at least 1"),
        (["--ranks=0"], "at least one"),
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
    assert "no model at runs/micro/edits/model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "stage"),
    [
        ("7b/distill", "distill"),
        ("micro/vae", "vae"),
        ("7b/vae", "vae"),
        ("7b/enhance-sft", "enhance-sft"),
        ("micro/enhance-rl", "enhance-rl"),
        ("7b/lora", "dit"),
    ],
)
def test_a_recipe_tells_its_stage(recipe, stage, tmp_path):
    assert stage_of(RECIPES / f"{recipe}.yaml") == stage
    (tmp_path / "r.yaml").write_text("nothing: 1")
    with pytest.raises(RecipeError, match="no stage that can be estimated; say which with --stage"):
        stage_of(tmp_path / "r.yaml")


def test_a_transformer_may_be_trained_by_an_adapter_or_whole():
    adapter, whole = (estimate_recipe(RECIPES / "7b/lora.yaml", words, 100, 1.0)[0] for words in ([], ["lora=null"]))
    assert adapter.memory["transformer, frozen"] == pytest.approx(7_115_124_736 * 2 / GIB)
    assert whole.memory["transformer, trained"] == pytest.approx(7_115_124_736 * 4 / GIB)
    assert 0.6 < adapter.teraflops / whole.teraflops < 0.9
    edit, _ = estimate_recipe(RECIPES / "7b/edit-lora.yaml", [], 100, 1.0)
    assert "edits are counted" in edit.notes[-1]


@pytest.mark.parametrize("recipe", ["7b/distill", "micro/vae", "7b/enhance-sft", "micro/enhance-sft"])
def test_every_stage_has_needs(recipe):
    found, plain = estimate_recipe(RECIPES / f"{recipe}.yaml", [], 100, 1.0)
    assert all(value >= 0 for value in found.memory.values())
    assert found.gib > 0
    assert found.teraflops > 0
    assert plain["hours"] > 0


def test_the_parameters_of_an_autoencoder_are_counted():
    config = AutoencoderConfig(base_dim=4, decoder_base_dim=4, dim_mult=(1, 2, 4), temperal_downsample=(False,) * 2)
    recipe = VaeRecipe(
        data=WorldData(world=WorldConfig(width=32, height=32)),
        sizes=((32, 32),),
        model=config,
        run=RunConfig(out=Path("run"), steps=10),
        optimizer=ADAMW,
        batch_size=4,
    )
    numbers = sum(p.numel() for p in Autoencoder(config).parameters()) * 4 / GIB
    found = needs("vae", recipe)
    assert found.memory["autoencoder, trained"] == pytest.approx(numbers)
    four = needs("vae", dataclasses.replace(recipe, batch_size=16))
    assert four.teraflops == pytest.approx(4 * found.teraflops)
    passing = "gradients and activations, at their peak"
    assert four.memory[passing] == pytest.approx(4 * found.memory[passing], rel=0.01)


def test_more_memory_or_ranks_than_there_are_is_told_before_anything_is_loaded(monkeypatch, capsys):
    found = distill_needs(load_recipe(DistillRecipe, RECIPE))
    monkeypatch.setattr(recipes, "memory", lambda: 16 * GIB)
    (said,) = warnings(found)
    assert "needs about 37 GiB and this machine has 16" in said
    monkeypatch.setattr(recipes, "memory", lambda: 64 * GIB)
    assert warnings(found) == []
    assert len(warnings(dataclasses.replace(found, ranks=2))) == 1  # two of them do not fit here
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 80 * GIB))
    assert warnings(found) == []
    (said,) = warnings(dataclasses.replace(found, ranks=2))
    assert "2 ranks on this machine, which has 1 GPUs" in said


def test_training_says_what_it_will_lack_and_goes_on(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(recipes, "memory", lambda: 0)
    teacher = tmp_path / "gone"
    (tmp_path / "p.txt").write_text("a\nb")
    words = [f"teacher={teacher}", f"run.out={tmp_path / 'run'}", f"data.path={tmp_path / 'p.txt'}", "data.held_out=1"]
    assert main(["train", "distill", "--recipe", str(RECIPE), *words]) == 2
    streams = capsys.readouterr()
    assert streams.err.count("\n") == 1  # the teacher is not there, and that is all
    assert "no model at" in streams.err
    assert Checkpoint.find("owner/name").notes
