"""The one command that trains a family from nothing, on a family of minutes instead of hours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from fourstroke import Pipeline
from fourstroke.recipe import load_recipe
from fourstroke.speedrun import STAGES, Chain, card, limits, plan, speedrun, stage_minutes
from fourstroke.train.distill import DistillRecipe
from fourstroke.train.dit import DitRecipe, train_dit
from fourstroke.train.text import TextRecipe
from fourstroke.train.vae import VaeRecipe, train_vae

WEIGHTS = "diffusion_pytorch_model.safetensors"
RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.fixture
def tiny_recipes(tmp_path):
    """The micro family's own files with every size cut down: shapes alone, 32 pixels, three steps a stage."""
    folder = tmp_path / "recipes" / "tiny"
    folder.mkdir(parents=True)
    names = ("vae", "text", "dit")
    vae, text, dit = (yaml.safe_load((RECIPES / "micro" / f"{name}.yaml").read_text()) for name in names)
    world = {"width": 32, "height": 32, "sprites": 0, "words": 0.0}
    scenes = {"kind": "world", "world": "world.yaml"}
    vae["data"] = text["data"] = text["labels"] = dit["semantics"]["labels"] = scenes
    vae["model"] |= {"base_dim": 4, "decoder_base_dim": 4}
    for key in ("phases", "balanced"):
        del vae[key]
    vae |= {"batch_size": 2, "sizes": [[32, 32]], "statistics": 32, "run": {"out": "x", "steps": 3}}
    decoder = {name: vae[name] for name in ("data", "batch_size", "sizes", "losses", "optimizer")}
    decoder |= {"run": {"out": "x", "steps": 2}, "init": "x", "freeze_encoder": True}
    text |= {"batch_size": 2, "tokenizer_captions": 64, "run": {"out": "x", "steps": 3}}
    dit["model"] |= {"num_layers": 1, "num_attention_heads": 1}
    dit["semantics"]["block"] = 1
    dit["info"] |= {"name": "tiny", "width": 32, "height": 32, "num_inference_steps": 2}
    dit["data"] = scenes | {"samples": 64, "held_out": 32}
    dit["validators"] = [scenes | {"prompts": 4, "steps": 2}]
    dit |= {"held_out": 32, "batch_size": 2, "noise_samples": 2, "sheet": 2, "run": {"out": "x", "steps": 3}}
    edits = {
        name: dit[name]
        for name in ("data", "info", "semantics", "validators", "held_out", "batch_size", "sheet", "run")
    }
    (folder / "edits.yaml").write_text(
        yaml.safe_dump(edits | {"init": "x", "noise_samples": 2, "optimizer": {"lr": 1.0e-4}})
    )
    (folder / "evaluate.yaml").write_text((RECIPES / "micro" / "evaluate.yaml").read_text())
    trees = {
        "data": {"kind": "mixture", "parts": [{"data": scenes}]},
        "world": world,
        "vae": vae,
        "vae-decoder": decoder,
        "text": text,
        "dit": dit,
    }
    for name, tree in trees.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    return folder.parent


def test_speedrun_trains_measures_and_writes_a_card(tiny_recipes, tmp_path, capsys):
    folder = speedrun("tiny", tiny_recipes, tmp_path / "runs", n=4)
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["composition"]["n"] == 4
    assert 0 <= scores["composition"]["objects"]["value"] <= 1
    assert scores["reconstruction"]["world"]["psnr"] > 5
    card = (folder / "README.md").read_text()
    assert f"| objects | {scores['composition']['objects']['value']:.3f} |" in card
    assert "text encoder by reading" in card
    assert "with edits 0 minutes" in card
    first, last = (
        load_file(tmp_path / "runs" / "tiny" / stage / "model" / "transformer" / WEIGHTS) for stage in ("dit", "edits")
    )
    measured = load_file(folder / "transformer" / WEIGHTS)
    assert all(torch.equal(measured[name], last[name].half()) for name in last), "the last stage is what is measured"
    moved = max(float((last[name] - first[name]).abs().max()) for name in last)
    assert 0 < moved < 0.01, "it goes on from the one before"
    assert "Shapes, in 8 colours: circle, square, triangle, diamond." in " ".join(card.split())
    assert f"{scores['reconstruction']['world']['psnr']:.1f} dB on held-out pictures of world" in card
    scenes = json.loads((folder / "data.json").read_text())["parts"][0]["data"]
    assert (scenes["kind"], scenes["world"]["width"]) == ("world", 32)
    assert Pipeline.from_pretrained(folder)("a red circle", seed=1).images[0].size == (32, 32)
    ran = json.loads((folder / "run" / "run.json").read_text())
    assert list(ran["stages"]) == ["vae", "vae-decoder", "text", "dit", "edits"]
    start, own = (load_file(tmp_path / "runs" / "tiny" / s / "model" / WEIGHTS) for s in ("vae", "vae-decoder"))
    drawn = load_file(folder / "vae" / WEIGHTS)
    assert all(torch.equal(drawn[name], own[name].half()) for name in own), "the decoder's own training is measured"
    moved = {name.split(".")[0] for name in own if not torch.equal(own[name], start[name])}
    assert moved == {"decoder", "post_quant_conv"}
    assert {stage["seed"] for stage in ran["stages"].values()} == {0}
    assert ran["hours"] == pytest.approx(sum(scores["minutes"].values()) / 60, abs=0.01)
    for stage in ran["stages"]:
        log = (folder / "run" / stage / "log.jsonl").read_text()
        assert log == (tmp_path / "runs" / "tiny" / stage / "log.jsonl").read_text()
        recipe = json.loads((folder / "run" / stage / "recipe.json").read_text())["recipe"]
        assert recipe["run"]["steps"] == (2 if stage == "vae-decoder" else 3)
    states = [(tmp_path / "runs" / "tiny" / stage / "state" / "state.json").stat().st_mtime for stage in ("vae", "dit")]
    speedrun("tiny", tiny_recipes, tmp_path / "runs", n=4)  # what is done is not done again
    assert states == [(tmp_path / "runs" / "tiny" / s / "state" / "state.json").stat().st_mtime for s in ("vae", "dit")]


def test_processes_share_what_they_can(tiny_recipes, tmp_path, capfd, monkeypatch):
    begun, start = [], subprocess.Popen

    def noting(words, **options):
        begun.append((words, options["env"]["OMP_NUM_THREADS"]))
        return start(words, **options)

    monkeypatch.setattr("fourstroke.speedrun.subprocess.Popen", noting)
    chain = Chain(tiny_recipes / "tiny", tmp_path / "runs", {stage: [] for stage in STAGES}, processes=2)
    done = chain.train("vae", VaeRecipe, train_vae)
    assert chain.stages == {"vae": done}
    assert done.folder == tmp_path / "runs" / "vae" / "model"
    ((words, threads),) = begun
    assert "--nproc-per-node=2" in words
    assert "--resume" not in words
    assert int(threads) == max(1, torch.get_num_threads() // 2)
    chain.train("vae", VaeRecipe, train_vae)
    assert len(begun) == 1, "what is done is not done again"
    with pytest.raises(RuntimeError, match=r"2 processes could not train .*dit.yaml; give the command again"):
        chain.train("dit", DitRecipe, train_dit, ["vae=nowhere", "cache=null", "text_from=nothing"])
    told = capfd.readouterr().err
    assert "nowhere" in told
    assert "Traceback" not in told


def test_an_interrupt_of_shared_stages_saves_and_is_no_traceback(tiny_recipes, tmp_path):
    recipe = tiny_recipes / "tiny" / "vae.yaml"
    recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | {"run": {"out": "x", "steps": 10**6}}))
    words = ["--recipes", str(tiny_recipes), "--runs", str(tmp_path / "runs"), "--processes", "2"]
    with subprocess.Popen(
        [sys.executable, "-m", "fourstroke.cli", "speedrun", "tiny", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a terminal's interrupt goes to all of its processes
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # tests may run without one
    ) as started:
        assert started.stdout is not None
        said = [next(line for line in started.stdout if "samples/s" in line)]
        os.killpg(started.pid, signal.SIGINT)
        said += started.stdout
    assert started.returncode == 130
    assert any("interrupted at step" in line for line in said)
    assert not any("Traceback" in line for line in said)
    state = json.loads((tmp_path / "runs" / "tiny" / "vae" / "state" / "state.json").read_text())
    assert 0 < state["step"] < 10**6


@pytest.mark.parametrize("family", ["micro", "mini"])
def test_the_whole_chain_of_a_family_is_read(family):
    """Every stage that it has loads with what the chain gives it, and begins with what the stage before has left."""
    folder = RECIPES / family
    kinds = {"vae": VaeRecipe, "vae-decoder": VaeRecipe, "text": TextRecipe, "dit": DitRecipe, "edits": DitRecipe}
    kinds["distill"] = DistillRecipe
    has = stage_minutes(folder)
    loaded = {name: load_recipe(kind, folder / f"{name}.yaml") for name, kind in kinds.items() if name in has}
    assert {"vae", "text", "dit", "distill"} <= set(loaded)
    assert {loaded["vae"].init, loaded["dit"].init} == {None}, "the chain begins with nothing"
    coded = loaded.get("vae-decoder", loaded["vae"])
    assert loaded["dit"].vae == coded.run.out / "model"
    assert coded is loaded["vae"] or (coded.freeze_encoder and coded.init == loaded["vae"].run.out / "model")
    assert loaded["dit"].text_from == loaded["text"].run.out / "model"
    drawn = loaded.get("edits", loaded["dit"])
    assert Path(loaded["distill"].teacher) == drawn.run.out / "model"
    assert {each.run.out.parent.name for each in loaded.values()} == {family}


def test_hours_scale_every_limit_and_leave_a_tenth():
    for hours in (1.0, 3.0):
        found = limits(RECIPES / "micro", hours)
        minutes = {stage: float(each[0].removeprefix("run.max_minutes=")) for stage, each in found.items() if each}
        assert sum(minutes.values()) == pytest.approx(54 * hours, abs=0.1)
        own = stage_minutes(RECIPES / "micro")
        ratios = {stage: minutes[stage] / own[stage] for stage in own}
        assert max(ratios.values()) == pytest.approx(min(ratios.values()), rel=0.01)
    assert limits(RECIPES / "micro", 1.0)["distill"][1] == "warm.steps=12"
    assert len(limits(RECIPES / "micro", 30.0)["distill"]) == 1  # no longer a warm-up
    assert not any(limits(RECIPES / "micro", None).values())
    for stage, recipe in {"vae": VaeRecipe, "distill": DistillRecipe}.items():
        loaded = load_recipe(recipe, RECIPES / "micro" / f"{stage}.yaml", found[stage])
        assert loaded.run.max_minutes == pytest.approx(minutes[stage])


def test_a_plan_says_what_the_time_is_worth(monkeypatch):
    text = plan("micro", RECIPES / "micro", limits(RECIPES / "micro", 3.0))
    assert "vae 21" in text
    hours = sum(json.loads((RECIPES.parent / "models/micro/scores.json").read_text())["minutes"].values()) / 60
    assert f"the bundled micro took {hours:.1f} hours" in text
    assert f"this run has {100 * 2.7 / hours:.0f} % of that time" in text  # a tenth of three hours is left to measure
    assert "bundled" not in plan("micro", RECIPES / "micro", limits(RECIPES / "micro", None))
    monkeypatch.chdir(RECIPES)
    assert plan("micro", Path("micro"), limits(Path("micro"), 3.0)) == text


def test_a_card_tells_of_what_was_measured_alone(tmp_path):
    (tmp_path / "model_index.json").write_text('{"fourstroke": {"width": 32, "height": 32}}')
    minutes = {"minutes": {"vae": 1.0, "dit": 2.0}}
    text = card("tiny", tmp_path, minutes | {"prompts": {"n": 4}}, "")
    assert "Scores of prompts: `scores.json`." in text
    assert "composition" not in text
    assert "PSNR" not in text
    coded = {"source": "own", "images": {"psnr": None, "ssim": 1.0, "ned": 0.5}}
    text = card("tiny", tmp_path, minutes | {"reconstruction": coded}, "")
    assert "PSNR inf dB on pictures of own (NED 0.50).\n\n**Licence.**" in text


def test_hours_that_cannot_be_are_refused(tiny_recipes, tmp_path):
    with pytest.raises(ValueError, match="no time to train in"):
        speedrun("tiny", tiny_recipes, tmp_path / "runs", n=4, hours=0)
    with pytest.raises(ValueError, match=r"vae.yaml has no run.max_minutes to scale to 1 hours"):
        speedrun("tiny", tiny_recipes, tmp_path / "runs", n=4, hours=1)
    assert not (tmp_path / "runs").exists()
