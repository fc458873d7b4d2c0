"""Reinforcement on a file of prompts alone: pictures and judges are servers that speak OpenAI's protocols."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fourstroke.enhance.endpoint import Endpoint, ImagesEndpoint
from fourstroke.enhance.enhancer import PromptEnhancer
from fourstroke.enhance.local import EnhancerConfig
from fourstroke.enhance.rewards.http import Http
from fourstroke.enhance.rewards.judged import Judged
from fourstroke.enhance.rewards.text import Valid
from fourstroke.enhance.rewards.vision import Vision
from fourstroke.enhance.small import SmallEnhancerConfig
from fourstroke.enhance.triplet import Triplet
from fourstroke.evaluate.score_service import HttpJudge
from fourstroke.evaluate.statistics import wilson
from fourstroke.evaluate.viescore import VieScore
from fourstroke.evaluate.vision import VisionJudge, VisionOptions
from fourstroke.recipe import load_recipe
from fourstroke.train.loop import RunConfig

from .conftest import said

pytest.importorskip("trl")
pytest.importorskip("peft")
from fourstroke.train.enhance_rl import EnhanceRlRecipe, train_enhance_rl
from fourstroke.train.enhance_sft import EnhanceSftRecipe, train_enhance_sft
from fourstroke.train.held_out import HeldOutCallback, ValidationConfig
from fourstroke.train.trl_stage import LoraSettings

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
SIZES = SmallEnhancerConfig(
    vocab_size=350, hidden_size=48, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=24, intermediate_size=64
)
RECIPES = Path(__file__).parents[2] / "recipes"
VISION = [field.name for field in dataclasses.fields(VisionOptions)]
REQUESTS, GROUP = 2, 8


@pytest.fixture(scope="module")
def enhancer(tmp_path_factory):
    """A small model that rewrites every request as one of four colours, each as often."""
    folder = tmp_path_factory.mktemp("sft")
    triplets = [
        Triplet(short=f"thing {index}", reasoning="so", rich=colour, category="General")
        for index in range(40)
        for colour in COLOURS
    ]
    (folder / "t.jsonl").write_text("\n".join(json.dumps({"id": str(i)} | t.to_dict()) for i, t in enumerate(triplets)))
    settings = EnhancerConfig(max_new_tokens=24, temperature=1.0, presence_penalty=0.0)
    return train_enhance_sft(
        EnhanceSftRecipe(
            triplets=folder / "t.jsonl",
            held_out=1,
            model=SIZES,
            settings=settings,
            run=RunConfig(out=folder / "run", steps=80),
            batch_size=16,
            lr=1e-2,
            warmup=2,
        )
    )


@pytest.fixture(scope="module")
def wanted(enhancer):
    """A colour that the likeliest rewrites of the start are not."""
    start = PromptEnhancer.from_pretrained(enhancer, device="cpu")
    start.config = dataclasses.replace(start.config, temperature=0.0)
    likeliest = {start(f"thing {index}").prompt for index in range(32, 40)}
    return next(colour for colour in COLOURS if colour not in likeliest)


@pytest.fixture
def server(serve, wanted):
    """Draws a prompt in its colour, and gives 10 for the wanted one, 0 for others; keeps who asked."""
    asked = []

    def answer(request):
        if "messages" not in request:
            asked.append(request["prompt"])
            width, height = map(int, request["size"].split("x"))
            stream = io.BytesIO()
            Image.new("RGB", (width, height), COLOURS.get(request["prompt"], (0, 0, 0))).save(stream, "PNG")
            return 200, {"data": [{"b64_json": base64.b64encode(stream.getvalue()).decode()}]}
        asked.append(request["model"])
        url = request["messages"][0]["content"][0]["image_url"]["url"]
        pixel = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))[0, 0]
        return said(json.dumps({"likeness": 10 * (tuple(pixel.tolist()) == COLOURS[wanted])}))

    return serve(answer), asked


@pytest.fixture
def recipe(server, enhancer, tmp_path):
    url, _ = server
    (tmp_path / "prompts.txt").write_text("\n".join(f"thing {index}" for index in range(40)) + "\n")
    question = {"question": 'How like is it? {request}. JSON: {{"likeness": 0 to 10}}', "scores": ("likeness",)}
    return EnhanceRlRecipe(
        enhancer=enhancer,
        generator=ImagesEndpoint(url=url, model="painter"),
        width=8,
        height=8,
        prompts=tmp_path / "prompts.txt",
        rewards=(Vision(endpoint=Endpoint(url=url, model="rewarder"), **question), Valid(weight=0.25)),
        judge=VisionJudge(endpoint=Endpoint(url=url, model="judge"), **question),
        validation=ValidationConfig(prompts=8, every=10, max_kl=100.0),
        run=RunConfig(out=tmp_path / "rl", steps=20, log_seconds=0),
        requests=REQUESTS,
        group=GROUP,
        lr=1e-2,
        warmup=0,
        kl=1e-3,
        max_tokens=24,
        lora=LoraSettings(rank=4, alpha=8),
        checkpointing=True,
    )


def _rows(recipe):
    return [json.loads(line) for line in (recipe.run.out / "log.jsonl").read_text().splitlines()]


def _hits(recipe):
    """Intervals of the share of wanted pictures in the first ten and in the last ten steps."""
    means = [row["rewards/vision/mean"] for row in _rows(recipe) if "rewards/vision/mean" in row]
    assert len(means) == recipe.run.steps
    each = REQUESTS * GROUP
    return [wilson(sum(part) * each, len(part) * each) for part in (means[:10], means[-10:])]


def test_rewards_rise_on_a_file_of_prompts(recipe, server, wanted):
    folder = train_enhance_rl(recipe)
    start, end = _hits(recipe)
    assert end[0] > start[1]
    assert {"rewarder", "judge"} <= set(server[1])
    looks = {row["step"]: row["scores"] for row in _rows(recipe) if "scores" in row}
    assert looks[20]["held_out"] == looks[20]["held_out/vision"]
    best = json.loads((folder / "held_out.json").read_text())
    assert best["held_out"] == max(look["held_out"] for look in looks.values()) > 0.5
    assert (recipe.run.out / "best" / "adapter_model.safetensors").exists()
    tuned = PromptEnhancer.from_pretrained(folder, device="cpu")
    rewrites = [tuned(f"thing {index}", seed=index).prompt for index in range(20)]
    assert rewrites.count(wanted) > 12
    assert not any("lora" in name for name, _ in tuned.backend.model.named_parameters())


def test_without_learning_rewards_stay_and_the_base_without_its_adapter_is_the_reference(recipe):
    still = dataclasses.replace(recipe, lr=0.0, dtype="bfloat16", checkpointing=False)
    folder = train_enhance_rl(still)
    start, end = _hits(still)
    assert end[0] <= start[1]
    assert start[0] <= end[1]
    assert [row["kl"] for row in _rows(still) if "kl" in row] == [0] * still.run.steps
    adapter = load_file(recipe.run.out / "best" / "adapter_model.safetensors")
    assert {value.dtype for value in adapter.values()} == {torch.float32}
    base, tuned = (load_file(f / "model.safetensors") for f in (recipe.enhancer, folder))
    assert all(torch.equal(value.bfloat16(), tuned[name]) for name, value in base.items())


def test_an_adapter_is_resumed_with_its_patience(recipe, monkeypatch):
    readings = iter([0.9, 0.5, 0.5, 0.4])
    monkeypatch.setattr(HeldOutCallback, "held_out", lambda callback: {"held_out": next(readings)})
    run = dataclasses.replace(recipe.run, steps=2)
    recipe = dataclasses.replace(recipe, run=run, validation=ValidationConfig(prompts=8, every=1, patience=3), group=2)
    train_enhance_rl(recipe)
    file = run.out / "state" / "checkpoint-2" / "adapter_model.safetensors"
    marked = {name: value + 1 for name, value in load_file(file).items()}
    save_file(marked, file)
    train_enhance_rl(dataclasses.replace(recipe, run=dataclasses.replace(run, steps=9)), resume=True)
    assert [row["step"] for row in _rows(recipe) if "scores" in row] == [0, 1, 2, 3]  # the third fall in a row
    later = load_file(run.out / "state" / "checkpoint-3" / "adapter_model.safetensors")
    assert all((value - marked[name]).abs().max() < 0.1 for name, value in later.items())  # it went on from there


def test_what_cannot_work_is_refused_before_anything_is_loaded(recipe, tmp_path):
    def refused(match, **changes):
        with pytest.raises(ValueError, match=match):
            train_enhance_rl(dataclasses.replace(recipe, **changes))

    refused("let another one look on", judge=VisionJudge(**{f: getattr(recipe.rewards[0], f) for f in VISION}))
    asking = VieScore(endpoint=recipe.judge.endpoint)
    refused("let another one look on", judge=asking, rewards=(*recipe.rewards, Judged(judge=asking)))
    service = {"url": "http://localhost:1", "reward": "hps"}
    refused("let another one look on", judge=HttpJudge(**service), rewards=(Http(**service),))
    refused("pip install vllm", vllm=True)
    refused("needs lora", lora=None, dtype="bfloat16")
    refused("file of prompts, or data", prompts=None)
    refused("weights of rewards are 0", rewards=(Valid(weight=0.0),))
    refused("40 prompts are too few: 40 are held out", validation=ValidationConfig(prompts=40))
    refused("no prompts at", prompts=tmp_path / "none.txt", run=dataclasses.replace(recipe.run, out=tmp_path / "b"))


def test_the_recipe_of_the_large_enhancer_knows_no_world():
    found = load_recipe(EnhanceRlRecipe, RECIPES / "7b" / "enhance-rl.yaml", ["rewards.ocr={weight: 2}"])
    assert {reward.kind: reward.weight for reward in found.rewards} | {"vision": 1.0, "ocr": 2.0, "length": 0.1} == {
        reward.kind: reward.weight for reward in found.rewards
    }
    assert found.data is None
    assert found.judge.endpoint.model != found.rewards[0].endpoint.model
    assert found.lora is not None
    assert found.checkpointing
