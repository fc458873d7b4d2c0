"""Fine-tuning and reinforcement on a world of shapes: losses fall, rewards move the policy, runs resume and stop."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
import yaml

from fourstroke.enhance.enhancer import EnhancerConfig, PromptEnhancer
from fourstroke.enhance.judge import JudgeConfig
from fourstroke.enhance.measure import Shares, answers, rewrites, world_triplets
from fourstroke.enhance.small import SmallEnhancerConfig
from fourstroke.speedrun import Finished, train_enhancer
from fourstroke.train.loop import RunConfig
from fourstroke.train.recipe import RecipeError, load_recipe

from ..conftest import build_tiny_pipeline
from .conftest import SETTINGS, SHAPES, TINY

pytest.importorskip("trl")
from fourstroke.train.enhance_rl import EnhanceRlRecipe, RewardWeights, RlWatch, train_enhance_rl
from fourstroke.train.enhance_sft import EnhanceSftRecipe, train_enhance_sft

RECIPES = Path(__file__).parents[2] / "recipes"


def _sft(out, steps, **more):
    settings = dataclasses.replace(SETTINGS, max_new_tokens=160, temperature=0.0)
    defaults = {"world": SHAPES, "samples": 60, "held_out": 2, "model": TINY, "settings": settings, "batch_size": 4}
    return EnhanceSftRecipe(run=RunConfig(out=out, steps=steps), lr=1e-2, warmup=2, **(defaults | more))


def _rows(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_fine_tuning_teaches_and_exports(tmp_path):
    folder = train_enhance_sft(_sft(tmp_path / "run", 30))
    losses = [row["loss"] for row in _rows(tmp_path / "run") if "loss" in row]
    assert losses[-1] < losses[0] - 1
    enhancer = PromptEnhancer.from_pretrained(folder, device="cpu")
    assert enhancer.config.things == ("circle", "square", "triangle", "diamond")
    assert all(row["seconds"] >= 0 for row in _rows(tmp_path / "run"))
    with pytest.raises(RecipeError, match="already holds a run"):
        train_enhance_sft(_sft(tmp_path / "run", 30))


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path):
    straight = train_enhance_sft(_sft(tmp_path / "a", 6))
    short = _sft(tmp_path / "b", 6)
    stop = dataclasses.replace(short, run=dataclasses.replace(short.run, max_minutes=1e-9, save_minutes=0))
    train_enhance_sft(stop)  # stops after its first step
    resumed = train_enhance_sft(short, resume=True)
    models = [PromptEnhancer.from_pretrained(f, device="cpu").backend.model for f in (straight, resumed)]
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_small_model_overfits_one_triplet_into_the_protocol(tmp_path):
    model = SmallEnhancerConfig(vocab_size=420, hidden_size=64, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=32)
    recipe = _sft(tmp_path / "run", 120, samples=1, model=model)
    enhancer = PromptEnhancer.from_pretrained(train_enhance_sft(recipe), device="cpu")
    triplet = world_triplets(recipe.shares.of(SHAPES), 1)[0]
    turns = answers(enhancer.backend, [triplet.short], enhancer.system_prompt, enhancer.config)
    assert rewrites(turns) == [triplet.rich]


def test_lora_of_a_saved_model_is_merged(tmp_path):
    pytest.importorskip("peft")
    from fourstroke.train.enhance_sft import LoraSettings

    base = train_enhance_sft(_sft(tmp_path / "base", 2))
    recipe = _sft(tmp_path / "lora", 3, base=str(base), lora=LoraSettings(rank=2, alpha=4))
    tuned = PromptEnhancer.from_pretrained(train_enhance_sft(recipe), device="cpu").backend.model.state_dict()
    own = PromptEnhancer.from_pretrained(base, device="cpu").backend.model.state_dict()
    assert own.keys() == tuned.keys()
    assert any(not torch.equal(own[key], tuned[key]) for key in own)


@pytest.fixture
def rl(tmp_path):
    """A recipe for an enhancer and a generator of almost random weights."""
    build_tiny_pipeline().save_pretrained(tmp_path / "generator")
    enhancer = train_enhance_sft(_sft(tmp_path / "sft", 2))
    return EnhanceRlRecipe(
        world=SHAPES,
        shares=Shares(words=0.0),
        enhancer=enhancer,
        generator=tmp_path / "generator",
        samples=8,
        run=RunConfig(out=tmp_path / "rl", steps=2),
        requests=1,
        group=2,
        lr=1e-3,
        warmup=0,
        max_tokens=12,
        watch=RlWatch(prompts=2, every=1, judge=JudgeConfig(steps=2, batch_size=4, width=8)),
    )


def test_reinforcement_logs_rewards_apart_and_keeps_the_best(rl, tmp_path):
    run = dataclasses.replace(rl.run, sample_first=True, sample_minutes=0.0)  # the clock asks whenever the count does
    folder = train_enhance_rl(dataclasses.replace(rl, run=run))
    rows = [json.loads(line) for line in (tmp_path / "rl" / "log.jsonl").read_text().splitlines()]
    logged = {"consistency", "richness", "words", "things", "places", "valid", "length"}
    trained = [row for row in rows if "reward" in row]
    assert trained
    assert all(row.keys() >= {f"rewards/{name}/mean" for name in logged} for row in trained)
    assert all(0 <= row["rewards/valid/mean"] <= 1 for row in trained)
    looks = [(row["step"], row["scores"]) for row in rows if "scores" in row]
    assert [step for step, _ in looks] == [0, 1, 2]
    assert all(scores.keys() >= {"held_out", "presence", "consistency"} for _, scores in looks)
    assert all(0 <= scores["held_out"] <= 1 for _, scores in looks)
    assert PromptEnhancer.from_pretrained(folder, device="cpu").config.max_new_tokens == 160
    best = json.loads((folder / "held_out.json").read_text())
    assert best["held_out"] == pytest.approx(max(scores["held_out"] for _, scores in looks), abs=1e-4)


def test_a_reward_moves_the_policy(rl):
    weights = RewardWeights(**dict.fromkeys((f.name for f in dataclasses.fields(RewardWeights)), 0.0) | {"length": 1.0})
    recipe = dataclasses.replace(rl, weights=weights, low=1, high=2)
    before = PromptEnhancer.from_pretrained(rl.enhancer, device="cpu").backend.model.state_dict()
    train_enhance_rl(recipe)
    assert all(math.isfinite(row["loss"]) for row in _rows(rl.run.out) if "loss" in row)
    assert before  # the start is read, not written: it loads as it was saved


def test_the_speedrun_trains_both_stages_once(tmp_path):
    recipes, runs = tmp_path / "recipes", tmp_path / "runs"
    recipes.mkdir()
    build_tiny_pipeline().save_pretrained(tmp_path / "generator")
    sft, rl = (yaml.safe_load((RECIPES / "micro" / f"enhance-{name}.yaml").read_text()) for name in ("sft", "rl"))
    world = {"width": 32, "height": 32, "sprites": 0}
    sft |= {"world": world, "samples": 40, "held_out": 2, "model": dataclasses.asdict(TINY), "batch_size": 2}
    sft |= {"run": {"out": "x", "steps": 2}}
    sft["settings"]["max_new_tokens"] = 8
    rl |= {"world": world, "samples": 4, "requests": 1, "group": 2, "max_tokens": 8, "run": {"out": "x", "steps": 1}}
    rl["watch"] = {"prompts": 2, "judge": {"steps": 2, "batch_size": 4, "width": 8}}
    for name, tree in (("sft", sft), ("rl", rl)):
        (recipes / f"enhance-{name}.yaml").write_text(yaml.safe_dump(tree))
    stages: dict[str, Finished] = {}
    logs = []
    for _ in range(2):
        enhancer = train_enhancer(recipes, runs, tmp_path / "generator", stages)
        logs.append([(runs / stage / "log.jsonl").read_text() for stage in ("enhance-sft", "enhance-rl")])
    assert stages["enhance-rl"].folder == runs / "enhance-rl" / "model"
    assert logs[0] == logs[1]  # what is done is not done again
    enhancer.save_pretrained(tmp_path / "half", dtype=torch.float16)
    assert PromptEnhancer.from_pretrained(tmp_path / "half", device="cpu").backend.model.dtype == torch.float32
    assert train_enhancer(tmp_path / "none", runs, tmp_path / "generator", {}) is None


@pytest.mark.parametrize("family", ["micro", "mini"])
def test_recipes_are_read(family):
    sft = load_recipe(EnhanceSftRecipe, RECIPES / family / "enhance-sft.yaml")
    rl = load_recipe(EnhanceRlRecipe, RECIPES / family / "enhance-rl.yaml")
    assert sft.world == rl.world
    assert sft.settings.max_new_tokens >= rl.max_tokens


def test_the_recipe_of_the_large_enhancer_takes_a_file():
    recipe = load_recipe(EnhanceSftRecipe, RECIPES / "7b" / "enhance-sft.yaml")
    assert recipe.base == "Qwen/Qwen3.5-9B"
    assert recipe.settings == EnhancerConfig()
    with pytest.raises(ValueError, match="data degrade"):
        dataclasses.replace(recipe, triplets=None)


def test_the_folder_of_a_run_is_its_own(tmp_path):
    """Somebody's files, a second run, a resume of nothing and one of another model are refused, and nothing changes."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "recipe.json").write_text('{"mine": 1}')
    with pytest.raises(RecipeError, match="holds no run"):
        train_enhance_sft(_sft(out, 2))
    assert (out / "recipe.json").read_text() == '{"mine": 1}'
    with pytest.raises(RecipeError, match="nothing to resume"):
        train_enhance_sft(_sft(tmp_path / "none", 2), resume=True)
    train_enhance_sft(_sft(tmp_path / "a", 2))
    other = _sft(tmp_path / "a", 3, model=dataclasses.replace(TINY, hidden_size=2 * TINY.hidden_size))
    with pytest.raises(RecipeError, match=rf"model\.hidden_size {TINY.hidden_size} -> {2 * TINY.hidden_size}"):
        train_enhance_sft(other, resume=True)
    partial = tmp_path / "a" / "state" / "checkpoint-9"
    partial.mkdir()  # of a run that was killed while it saved
    assert train_enhance_sft(_sft(tmp_path / "a", 3), resume=True).is_dir()


def test_no_minutes_means_at_once(tmp_path):
    recipe = _sft(tmp_path / "run", 10**6)
    folder = train_enhance_sft(dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, max_minutes=0.0)))
    assert (folder / "config.json").exists()
