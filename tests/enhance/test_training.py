"""Fine-tuning and reinforcement on a world of shapes: losses fall, rewards move the policy, runs resume and stop."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml
from transformers import TrainerControl, TrainerState

from fourstroke.cli import main
from fourstroke.enhance import scorer
from fourstroke.enhance.enhancer import PromptEnhancer
from fourstroke.enhance.local import EnhancerConfig, render
from fourstroke.enhance.measure import answers, rewrites
from fourstroke.enhance.prompts import requests_of
from fourstroke.enhance.protocol import messages, write_answer
from fourstroke.enhance.rewards.richness import Richness
from fourstroke.enhance.rewards.text import Language, Length, Longer, Valid, Words
from fourstroke.enhance.scorer import Scorer
from fourstroke.enhance.small import SmallEnhancerConfig
from fourstroke.recipe import RecipeError, load_recipe
from fourstroke.speedrun import Chain, train_enhancer
from fourstroke.train.loop import RunConfig
from fourstroke.world import World
from fourstroke.world.caption_rules import WorldRules, world_triplets
from fourstroke.world.dataset import WorldData
from fourstroke.world.enhancer_judge import WorldJudge
from fourstroke.world.rewards import Consistency, Places, Things

from ..conftest import build_tiny_pipeline
from .conftest import LIVELY, SETTINGS, SHAPES, TINY
from .test_scorer import Bright, Recorded

pytest.importorskip("trl")
from fourstroke.train import enhance_rl, enhance_sft
from fourstroke.train.enhance_rl import EnhanceRlRecipe, train_enhance_rl
from fourstroke.train.enhance_sft import EnhanceSftRecipe, train_enhance_sft
from fourstroke.train.held_out import HeldOutCallback, ValidationConfig
from fourstroke.train.trl_stage import LoraSettings, RunCallback, arguments

RECIPES = Path(__file__).parents[2] / "recipes"


def _sft(out, steps, **more):
    settings = dataclasses.replace(SETTINGS, max_new_tokens=160, temperature=0.0)
    data = WorldData(world=LIVELY, samples=more.pop("samples", 60))
    defaults = {"data": data, "rules": WorldRules(world=SHAPES), "held_out": 2, "model": TINY, "settings": settings}
    defaults |= {"batch_size": 4}
    defaults |= {"lr": 1e-2, "warmup": 2}
    return EnhanceSftRecipe(run=RunConfig(out=out, steps=steps, log_seconds=0), **(defaults | more))


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
    short = dataclasses.replace(short, run=dataclasses.replace(short.run, sample_first=True))
    stop = dataclasses.replace(short, run=dataclasses.replace(short.run, max_minutes=1e-9, save_minutes=0))
    train_enhance_sft(stop)  # stops after its first step
    resumed = train_enhance_sft(short, resume=True)
    assert [row["step"] for row in _rows(tmp_path / "b") if "scores" in row] == [0, 1, 6]  # it did not begin again
    models = [PromptEnhancer.from_pretrained(f, device="cpu").backend.model for f in (straight, resumed)]
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_the_loss_is_that_of_the_answers_tokens_alone(tmp_path):
    recipe = _sft(tmp_path / "run", 1, samples=4, lr=1e-12)
    enhancer = PromptEnhancer.from_pretrained(train_enhance_sft(recipe), device="cpu")
    model, tokenizer = enhancer.backend.model, enhancer.backend.tokenizer
    total = count = 0
    for t in world_triplets(World(LIVELY), 4):
        prompt = tokenizer(render(tokenizer, messages(t.short, enhancer.system_prompt)))["input_ids"]
        answer = tokenizer(write_answer(t.rich, t.wh_ratio, t.reasoning) + tokenizer.eos_token)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum"))
        count += len(answer)
    (logged,) = [row["loss"] for row in _rows(tmp_path / "run") if "loss" in row]
    assert logged == pytest.approx(total / count, rel=1e-3)


def test_a_batch_in_parts_is_the_same_batch(tmp_path):
    weights = []
    for index, (batch, parts) in enumerate(((4, 1), (2, 2))):
        recipe = _sft(tmp_path / str(index), 2, samples=8, batch_size=batch, accumulate=parts, lr=1e-3)
        weights.append(PromptEnhancer.from_pretrained(train_enhance_sft(recipe), device="cpu").backend.model)
    for a, b in zip(*(model.parameters() for model in weights), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-4)


def test_triplets_of_a_file_are_trained_on_or_held_out_and_long_ones_left_out(triplets, tokenizer, enhancer, tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_text("\n".join(json.dumps({"id": str(i)} | t.to_dict()) for i, t in enumerate(triplets[:10])))
    recipe = _sft(tmp_path / "run", 1, data=None, rules=None, triplets=file, held_out=3)
    assert enhance_sft._data(recipe)[:2] == (triplets[:7], triplets[7:10])
    with_world = enhance_sft._data(_sft(tmp_path / "run", 1, samples=5, triplets=file))[0]
    assert with_world[5:] == triplets[:10]
    rows = enhance_sft.dataset(triplets, enhancer.backend, "s", 10**6)
    lengths = sorted(len(tokenizer(row["prompt"] + row["completion"])["input_ids"]) for row in rows)
    assert len(lengths) == len(triplets)
    assert len(enhance_sft.dataset(triplets, enhancer.backend, "s", lengths[50])) == sum(
        n < lengths[50] for n in lengths
    )


def test_a_loss_that_is_no_number_ends_the_run_without_a_state_and_seconds_go_on(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "seconds": 100.5}\n')
    callback = RunCallback(RunConfig(out=tmp_path, steps=3), None)
    assert 100.5 <= callback.seconds < 200
    for loss, stops in ((1.0, False), (math.nan, True), (math.inf, True)):
        control = TrainerControl(should_save=True)
        callback.on_log(None, TrainerState(), control, {"loss": loss})
        assert (control.should_training_stop, control.should_save) == (stops, not stops)


def test_what_a_recipe_says_is_what_the_trainer_takes(tmp_path):
    taken = arguments(RunConfig(out=tmp_path, steps=7, seed=5), 3, 0.1, 11, 0.2, 0.9)
    names = ("max_steps", "seed", "per_device_train_batch_size", "learning_rate", "warmup_steps", "weight_decay")
    assert [taken[name] for name in (*names, "adam_beta2")] == [7, 5, 3, 0.1, 11, 0.2, 0.9]


def test_products_are_in_the_runs_precision(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    for precision, bf16 in (("bf16", True), ("fp32", False), ("auto", torch.cuda.is_available())):
        run = RunConfig(out=tmp_path, steps=7, precision=precision)
        assert arguments(run, 3, 0.1, 11, 0.2, 0.9)["bf16"] is bf16
    assert "float32" not in capsys.readouterr().out
    monkeypatch.setattr("fourstroke.device.emulates_bf16", lambda: True)
    emulated = arguments(RunConfig(out=tmp_path, steps=7, precision="bf16"), 3, 0.1, 11, 0.2, 0.9)["bf16"]
    assert emulated is torch.cuda.is_available()
    assert ("it multiplies in float32" in capsys.readouterr().out) is not emulated


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remembered:
    """A tracker that remembers what it was told."""

    kind: ClassVar[str] = "remembered"
    told: list = dataclasses.field(default_factory=list)

    def check(self):
        pass

    def open(self, out, record):
        self.told.append((out.name, record["recipe"]["run"]["steps"]))
        return self

    def scalars(self, step, values):
        self.told.append((step, *sorted({"loss", "reward", "held_out", "words"} & values.keys())))

    def close(self):
        self.told.append("closed")


def test_a_tracker_is_told_what_is_logged_as_often_as_the_run_says(tmp_path, monkeypatch):
    every, seldom = Remembered(), Remembered()
    for name, tracker, seconds in (("a", every, 0.0), ("b", seldom, 1e6)):
        recipe = _sft(tmp_path / name, 3)
        train_enhance_sft(_on(recipe, tracker=tracker, log_seconds=seconds, precision="bf16"))
    assert every.told[0] == ("a", 3)
    assert [told for told in every.told if "loss" in told] == [(step, "loss") for step in (1, 2, 3)]
    assert [told for told in seldom.told if "loss" in told] == [(3, "loss")]
    assert every.told[-1] == seldom.told[-1] == "closed"


def test_a_tracker_is_told_of_reinforcement(rl):
    tracker = Remembered()
    train_enhance_rl(_on(rl, tracker=tracker))
    assert tracker.told[:2] == [("rl", 2), (0, "held_out")]
    assert (2, "loss", "reward") in tracker.told
    assert tracker.told[-1] == "closed"


def _on(recipe, **changes):
    return dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, **changes))


def test_several_batches_a_step_are_asked_for_where_they_are_honoured(rl):
    with pytest.raises(ValueError, match=r"run.accumulate=2: leave it at 1 and set accumulate"):
        _on(_sft(rl.run.out, 1), accumulate=2)
    with pytest.raises(ValueError, match=r"run.accumulate=2: leave it at 1 and raise requests"):
        _on(rl, accumulate=2)


@pytest.mark.slow
def test_a_small_model_overfits_one_triplet_into_the_protocol(tmp_path):
    model = SmallEnhancerConfig(vocab_size=420, hidden_size=64, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=32)
    settings = dataclasses.replace(SETTINGS, max_new_tokens=256, temperature=0.0)
    recipe = _sft(tmp_path / "run", 120, samples=1, model=model, settings=settings)
    enhancer = PromptEnhancer.from_pretrained(train_enhance_sft(recipe), device="cpu")
    triplet = world_triplets(World(LIVELY), 1)[0]
    turns = answers(enhancer.backend, [triplet.short], enhancer.system_prompt, enhancer.config)
    assert rewrites(turns) == [triplet.rich]


def test_lora_of_a_saved_model_is_merged(tmp_path):
    pytest.importorskip("peft")
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
    kinds = (Consistency(world=SHAPES), Richness(), Words(), Language(), Things(), Places(), Valid(), Length())
    return EnhanceRlRecipe(
        data=WorldData(world=dataclasses.replace(LIVELY, words=0.0), samples=8),
        rules=WorldRules(world=SHAPES),
        enhancer=enhancer,
        generator=tmp_path / "generator",
        rewards=kinds,
        judge=WorldJudge(world=SHAPES, steps=2, batch_size=4, width=8),
        run=RunConfig(out=tmp_path / "rl", steps=2, log_seconds=0),
        requests=1,
        group=2,
        lr=1e-3,
        warmup=0,
        max_tokens=12,
        validation=ValidationConfig(prompts=2, every=1),
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
    assert all("kl" in row for row in trained)  # nothing holds a policy that has none
    looks = [(row["step"], row["scores"]) for row in rows if "scores" in row]
    assert [step for step, _ in looks] == [0, 1, 2]
    assert all(scores.keys() >= {"held_out", "presence", "held_out/consistency"} for _, scores in looks)
    assert all(0 <= scores["held_out"] <= 1 for _, scores in looks)
    assert PromptEnhancer.from_pretrained(folder, device="cpu").config.max_new_tokens == 160
    best = json.loads((folder / "held_out.json").read_text())
    assert best["held_out"] == pytest.approx(max(scores["held_out"] for _, scores in looks), abs=1e-4)


def test_a_reward_moves_the_policy_towards_it_and_reads_the_start_only(rl, monkeypatch):
    monkeypatch.setattr(scorer, "rewrites", list)  # so small a model writes no JSON: count words of any turn
    watch = dataclasses.replace(rl.validation, every=1000)
    run = dataclasses.replace(rl.run, steps=40)
    rewards = (Longer(weight=2.0), Valid(weight=0.0))
    recipe = dataclasses.replace(rl, rewards=rewards, run=run, validation=watch, group=8, lr=1e-2, kl=0.0)
    before = (rl.enhancer / "model.safetensors").read_bytes()
    monkeypatch.setattr(HeldOutCallback, "held_out", lambda callback: {"held_out": 0.5})
    folder = train_enhance_rl(recipe)
    found = [row["rewards/longer/mean"] for row in _rows(rl.run.out) if "reward" in row]
    assert all(math.isfinite(row["loss"]) for row in _rows(rl.run.out) if "loss" in row)
    assert [row["reward"] for row in _rows(rl.run.out) if "reward" in row] == pytest.approx(
        [2 * x for x in found], rel=1e-2
    )
    assert found[-1] > 1.5 * found[0]
    assert (rl.enhancer / "model.safetensors").read_bytes() == before
    start, best = (PromptEnhancer.from_pretrained(f, device="cpu").backend.model for f in (rl.enhancer, folder))
    for a, b in zip(start.parameters(), best.parameters(), strict=True):
        assert torch.equal(a, b)  # no look was better than the first, so the start is what is handed on


class Fixed:
    """A judge that sees the same in every picture, and a model that answers the first of its requests alone."""

    def score(self, pictures, records):
        return {"presence": [0.25, math.nan], "finish": [0.75, 0.75]}

    def complete_many(self, conversations, config, seed):
        self.config = config
        return [write_answer("A red circle.", "1:1", "x"), *["no answer"] * (len(conversations) - 1)]


def test_the_judge_looks_at_greedy_rewrites_of_held_out_requests_from_the_same_noise_each_time(rl, enhancer):
    records, held_out = enhance_rl.read_requests(rl, (8, 8))
    world = World(dataclasses.replace(LIVELY, words=0.0))
    assert records == requests_of(world_triplets(world, 8), (8, 8))
    assert held_out == requests_of(world_triplets(world, 2, "heldout"), (8, 8))
    scorer = Scorer((Bright(),), records, Recorded(), enhancer.lexicon)
    callback = HeldOutCallback(rl.run, rl.validation, enhancer, scorer, Fixed(), held_out, rl.max_tokens, None)
    callback.policy = Fixed()
    readings = [callback.held_out() for _ in range(2)]
    first, again = scorer.generator.drawn
    assert first == again
    assert [caption for caption, _ in first] == ["A red circle.", held_out[1].captions[0].text]
    assert (callback.policy.config.temperature, callback.policy.config.max_new_tokens) == (0.0, rl.max_tokens)
    assert readings[0] == readings[1]
    assert {key: readings[0][key] for key in ("held_out", "presence", "finish", "answered")} == {
        "held_out": 0.5,
        "presence": 0.25,
        "finish": 0.75,
        "answered": 0.5,
    }
    seen = np.mean([seed % 251 for _, seed in first]) / 255
    assert readings[0]["held_out/bright"] == pytest.approx(seen)


def test_the_judge_that_looks_on_has_one_patience_also_over_a_resume(rl, monkeypatch):
    scores = [
        0.5,
        0.4,
        0.9,
        0.85,
        0.84,
        0.88,
        0.85,
        0.84,
        0.6,
        0.1,
    ]  # from step 0 on; a best and a small fall count anew
    readings = iter(scores)
    monkeypatch.setattr(HeldOutCallback, "held_out", lambda callback: {"held_out": next(readings)})
    watch = dataclasses.replace(rl.validation, patience=3, drop=0.03)
    run = dataclasses.replace(rl.run, steps=7, sample_minutes=1e-9)  # looks by the clock and by steps at once
    train_enhance_rl(dataclasses.replace(rl, validation=watch, run=run))
    looks = [(row["step"], row["scores"]["held_out"]) for row in _rows(rl.run.out) if "scores" in row]
    assert looks == list(enumerate(scores))[:8]
    folder = train_enhance_rl(
        dataclasses.replace(rl, validation=watch, run=dataclasses.replace(run, steps=9)), resume=True
    )
    looks = [(row["step"], row["scores"]["held_out"]) for row in _rows(rl.run.out) if "scores" in row]
    assert looks[8:] == [(8, 0.6)]  # the third in a row
    assert json.loads((folder / "held_out.json").read_text()) == {"step": 2, "held_out": 0.9}


def test_what_is_to_be_kept_is_kept_whatever_the_judge_says(rl, monkeypatch):
    facts = [0.7, 0.69, 0.6, 0.6, 0.71, 0.6, 0.6]  # from step 0 on, while the judge is happier and happier
    readings = iter({"held_out": 0.5 + 0.01 * step, "held_out/facts": each} for step, each in enumerate(facts))
    monkeypatch.setattr(HeldOutCallback, "held_out", lambda callback: next(readings))
    run = dataclasses.replace(rl.run, steps=3)
    watch = dataclasses.replace(rl.validation, patience=3, keep={"held_out/facts": 0.02})
    folder = train_enhance_rl(dataclasses.replace(rl, validation=watch, run=run))
    assert json.loads((folder / "held_out.json").read_text())["step"] == 1
    later = dataclasses.replace(rl, validation=watch, run=dataclasses.replace(run, steps=6))
    folder = train_enhance_rl(later, resume=True)
    assert json.loads((folder / "held_out.json").read_text())["step"] == 4, "also after a resume"
    readings = iter([{"held_out": 0.5}])
    lacking = dataclasses.replace(rl, validation=watch, run=dataclasses.replace(run, out=run.out / "other"))
    with pytest.raises(RecipeError, match="keep: no look reads held_out/facts; choose of held_out"):
        train_enhance_rl(lacking)


@pytest.mark.parametrize("kl", [0.5, 2.0])
def test_too_far_from_the_reference_ends_the_run(rl, kl):
    callback = HeldOutCallback.__new__(HeldOutCallback)
    callback.config, callback.run, callback.before, callback.start = rl.validation, rl.run, 0.0, 0.0
    rl.run.out.mkdir(parents=True)
    control = TrainerControl()
    callback.on_log(None, TrainerState(), control, {"kl": kl, "loss": 0.0})
    assert control.should_training_stop is control.should_save is (kl > rl.validation.max_kl)


@pytest.mark.parametrize("stage", ["enhance-sft", "enhance-rl", "speedrun"])
def test_several_processes_are_refused_before_anything_is_written(stage, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    arguments = ["speedrun", "micro", "--recipes", str(RECIPES), "--runs", str(tmp_path / "runs")]
    if stage != "speedrun":
        recipe = RECIPES / "micro" / f"{stage}.yaml"
        arguments = ["train", stage, "--recipe", str(recipe), f"run.out={tmp_path / 'runs'}"]
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].endswith(f"{stage} runs in one process; start it without torchrun")
    assert not (tmp_path / "runs").exists()


def test_the_speedrun_trains_both_stages_once(tmp_path):
    limited: dict[str, list[str]] = {"enhance-sft": [], "enhance-rl": []}
    recipes, runs = tmp_path / "recipes", tmp_path / "runs"
    recipes.mkdir()
    build_tiny_pipeline().save_pretrained(tmp_path / "generator")
    sft, rl = (yaml.safe_load((RECIPES / "micro" / f"enhance-{name}.yaml").read_text()) for name in ("sft", "rl"))
    world = {"width": 32, "height": 32, "sprites": 0}
    rules = {"kind": "world", "world": world}
    sft |= {
        "data": {"kind": "world", "world": world, "samples": 40},
        "rules": rules,
        "held_out": 2,
        "model": dataclasses.asdict(TINY),
        "batch_size": 2,
    }
    sft |= {"run": {"out": "x", "steps": 2}}
    sft["settings"]["max_new_tokens"] = 8
    rl |= {"data": {"kind": "world", "world": world, "samples": 4}, "rules": rules, "requests": 1, "group": 2}
    rl |= {"max_tokens": 8, "run": {"out": "x", "steps": 1}, "validation": {"prompts": 2}}
    rl["rewards"]["consistency"]["world"] = world
    rl["judge"] = {"kind": "world", "world": world, "steps": 2, "batch_size": 4, "width": 8}
    for name, tree in (("sft", sft), ("rl", rl)):
        (recipes / f"enhance-{name}.yaml").write_text(yaml.safe_dump(tree))
    chain = Chain(recipes, runs, limited)
    logs = []
    for _ in range(2):
        enhancer = train_enhancer(chain, tmp_path / "generator")
        logs.append([(runs / stage / "log.jsonl").read_text() for stage in ("enhance-sft", "enhance-rl")])
    assert chain.stages["enhance-rl"].folder == runs / "enhance-rl" / "model"
    assert logs[0] == logs[1]  # what is done is not done again
    enhancer.save_pretrained(tmp_path / "half", dtype=torch.float16)
    assert PromptEnhancer.from_pretrained(tmp_path / "half", device="cpu").backend.model.dtype == torch.float32
    assert train_enhancer(Chain(tmp_path / "none", runs, limited), tmp_path / "generator") is None


@pytest.mark.parametrize("family", ["micro", "mini"])
def test_recipes_are_read(family):
    sft = load_recipe(EnhanceSftRecipe, RECIPES / family / "enhance-sft.yaml")
    rl = load_recipe(EnhanceRlRecipe, RECIPES / family / "enhance-rl.yaml")
    assert sft.rules == rl.rules
    assert rl.judge.world == sft.rules.world
    assert {reward.kind: reward.weight for reward in rl.rewards}["consistency"] == 1.0
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
