"""The stage: frozen stays frozen, the fake score learns, resumed equals uninterrupted, a collapse is caught."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from fourstroke import Pipeline
from fourstroke.checkpoint import read_tensors
from fourstroke.distill.monitors import CollapseLimits, Readings
from fourstroke.distill.rollout import bind
from fourstroke.distill.teachers import SpecialistConfig
from fourstroke.dit import Transformer, TransformerConfig
from fourstroke.folder import ADAPTER_WEIGHTS, ModelInfo
from fourstroke.recipe import RecipeError, load_recipe
from fourstroke.train.distill import CollapsedError, DistillRecipe, DistillStage, WarmConfig, train_distill
from fourstroke.train.loop import DivergedError, Trainer
from fourstroke.train.optimizer import OptimizerConfig

from ..conftest import build_tiny_pipeline

RECIPES = Path(__file__).parents[2] / "recipes"


def _trainer(recipe, stage=None):
    return Trainer(stage or DistillStage(recipe), recipe.run, recipe.optimizers, {})


def _weights(trainer):
    live = {f"{k}.{n}": v for k, m in trainer.stage.models.items() for n, v in m.state_dict().items()}
    return live | {f"average.{n}": v for n, v in trainer.average.weights.items()}


@pytest.mark.parametrize("warm_steps", [0, 2, 4])
def test_interrupted_and_resumed_equals_uninterrupted(recipe, warm_steps):
    recipe = dataclasses.replace(recipe, warm=WarmConfig(steps=warm_steps, substeps=2, optimizer=recipe.student))
    straight = _trainer(recipe)
    for _ in range(6):
        straight.update()
    first = _trainer(recipe)
    for _ in range(3):
        first.update()
    first.save(recipe.run.out / "state")
    second = _trainer(recipe)
    second.load(recipe.run.out / "state")
    for _ in range(3):
        second.update()
    a, b = _weights(straight), _weights(second)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_both_models_move_and_everything_frozen_stays(recipe):
    trainer = _trainer(recipe)
    stage = trainer.stage
    base = stage.base.pipe
    parts = {"transformer": base.transformer, "vae": base.autoencoder, "text": base.text_encoder}
    frozen = {f"{k}.{n}": v.clone() for k, m in parts.items() for n, v in m.state_dict().items()}
    before = {key: value.clone() for key, value in _weights(trainer).items()}
    scalars = [trainer.update() for _ in range(3)]
    after = _weights(trainer)
    assert not [key for key in before if torch.equal(before[key], after[key])]
    assert all(torch.equal(v, frozen[f"{k}.{n}"]) for k, m in parts.items() for n, v in m.state_dict().items())
    assert all(p.grad is None for m in parts.values() for p in m.parameters())
    assert {"student_loss", "fake_loss", "student_grad_norm", "fake_grad_norm"} <= scalars[0].keys()
    assert {key.split(".")[0] for key in trainer.average.weights} == {"student"}


def test_the_student_starts_without_a_gap_and_the_losses_take_turns(recipe):
    plain = dataclasses.replace(recipe, guidance=1.0)
    losses = DistillStage(plain).losses(0)
    assert [name for name, _ in (next(losses), next(losses))] == ["fake", "fake"]
    name, scalars = next(losses)
    assert name == "student"
    assert scalars["gap"].item() == pytest.approx(0, abs=1e-6)  # nothing has moved, no guidance
    assert scalars["loss"].item() == pytest.approx(0, abs=1e-9)
    assert next(losses, None) is None


def test_warming_up_moves_the_student_alone_and_then_ends(recipe):
    warm = WarmConfig(steps=1, substeps=2, optimizer=dataclasses.replace(recipe.student, lr=1e-3))
    trainer = _trainer(dataclasses.replace(recipe, warm=warm))
    before = {key: value.clone() for key, value in _weights(trainer).items()}
    assert trainer.update().keys() == {"warm_loss", "warm_grad_norm"}
    moved = {key.split(".")[0] for key, value in _weights(trainer).items() if not torch.equal(value, before[key])}
    assert moved == {"student", "warm", "average"}
    assert {"student_loss", "fake_loss"} <= trainer.update().keys()


def test_every_learner_has_a_schedule_of_its_own(recipe):
    warm = WarmConfig(steps=4, optimizer=OptimizerConfig(lr=1.0, warmup=1, cooldown=0.5))
    recipe = dataclasses.replace(
        recipe,
        warm=warm,
        student=dataclasses.replace(recipe.student, lr=1e-3, warmup=2, cooldown=0.0),
        run=dataclasses.replace(recipe.run, steps=100),
    )
    trainer = Trainer(DistillStage(recipe), recipe.run, recipe.optimizers, {})
    rates = {"warm": [], "student": []}
    for _ in range(7):
        trainer.update()
        for name, found in rates.items():
            found.append(next(iter(trainer.optimizer_groups[name].optimizers.values())).param_groups[0]["lr"])
    assert rates["warm"][:4] == pytest.approx([1.0, 1.0, 1.0, 0.5])
    assert rates["student"][4:] == pytest.approx([5e-4, 1e-3, 1e-3])


def test_warming_up_teaches_where_the_guided_teacher_goes(recipe):
    warm = WarmConfig(steps=1000, substeps=3, optimizer=OptimizerConfig(kind="adamw", lr=3e-3, warmup=1, cooldown=0))
    stage = DistillStage(dataclasses.replace(recipe, guidance=4.0, warm=warm))
    one = stage.losses
    stage.losses = lambda step: one(0)
    run = dataclasses.replace(recipe.run, steps=1000)
    trainer = Trainer(stage, run, stage.recipe.optimizers, {})
    losses = [trainer.update()["warm_loss"].item() for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


def test_the_fake_score_overfits_a_frozen_student(recipe):
    stage = DistillStage(dataclasses.replace(recipe, batch_size=2, draws=4))
    with torch.no_grad():
        for p in stage.pupils.fake.proj_out.parameters():
            p.mul_(-1)
    noise = torch.Generator().manual_seed(0)
    batch = stage.batches.make(0, noise)
    optimizer = torch.optim.Adam(stage.pupils.fake.parameters(), lr=3e-3)
    with torch.no_grad():
        student = bind(stage.student, batch.text, stage.batches.prompts.grid, 4)
    losses = []
    for _ in range(60):
        loss = stage.fake_loss(batch, student, torch.Generator().manual_seed(7))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_flow_matching_counts_at_the_first_step_alone(recipe, monkeypatch):
    losses = {}
    for weight in (0.0, 1.0):
        stage = DistillStage(dataclasses.replace(recipe, flow_weight=weight))
        for step in (0, 1):
            monkeypatch.setattr(stage, "_random_step", lambda generator, step=step: step)
            generator = torch.Generator().manual_seed(0)
            batch = stage.batches.make(0, generator)
            student = bind(stage.student, batch.text, stage.batches.prompts.grid, recipe.draws)
            losses[weight, step] = stage.student_loss(batch, student, generator)["loss"].item()
    assert losses[1.0, 0] > losses[0.0, 0]
    assert losses[1.0, 1] == losses[0.0, 1]


def test_a_specialist_with_the_whole_share_replaces_the_base_teacher(recipe, teacher_folder):
    specialist = SpecialistConfig(model=teacher_folder, shares=(0.0, 0.0, 1.0, 0.5), guidance=1.0)
    stage = DistillStage(dataclasses.replace(recipe, specialists=(specialist,)))
    batch = stage.batches.make(0, torch.Generator().manual_seed(0))
    x, t = torch.randn(6, 4, 64, generator=torch.Generator().manual_seed(1)), torch.full((6,), 0.5)
    with torch.no_grad():
        own = bind(stage.base.pipe.transformer, batch.text, (2, 2), 2)(x, t)
        base = stage.base.velocity(batch.prompts, (2, 2), 2)(x, t)
        found = [stage.teachers(batch, k)(x, t) for k in (0, 2, 3)]
    for value, expected in zip(found, (base, own, 0.5 * base + 0.5 * own), strict=True):
        torch.testing.assert_close(value, expected)


def test_a_run_ends_in_a_student_of_four_steps(recipe):
    run = dataclasses.replace(recipe.run, sample_first=True)
    folder = train_distill(dataclasses.replace(recipe, run=run, watch=_lenient(recipe)))
    steps = []
    pipe = Pipeline.from_pretrained(folder)
    pipe("a red circle", seed=1, on_step=lambda step, n, x: steps.append((step, n)))
    assert steps == [(k, 4) for k in (1, 2, 3, 4)]
    assert pipe.info.sample_sigmas == recipe.sigmas
    assert pipe.info.guidance_scale == 1
    rows = [json.loads(line) for line in (run.out / "log.jsonl").read_text().splitlines()]
    scores = [row["scores"]["score"] for row in rows if "scores" in row]
    assert len(scores) == 2
    assert json.loads((folder / "distill.json").read_text())["score"] == max(scores)
    assert len(list((run.out / "samples").glob("*.png"))) == 2
    with pytest.raises(RecipeError, match="--resume"):
        train_distill(dataclasses.replace(recipe, run=run))


def test_the_best_checkpoint_is_kept_not_the_last(recipe, monkeypatch, tmp_path):
    stage = DistillStage(recipe)
    teacher = Readings(composition=0.8, words=None, diversity=0.2, saturation=0.3, flat_noise=None)
    looks = [dataclasses.replace(teacher, composition=c) for c in (0.5, 0.7, 0.6)]
    monkeypatch.setattr(stage, "reference", lambda: teacher)
    pictures = stage.watch.look(stage.base.pipe, 1)[1]
    for step, readings in enumerate(looks):
        with torch.no_grad():
            stage.student.proj_out.weight.fill_(step)
        monkeypatch.setattr(stage.watch, "look", lambda pipe, readings=readings: (readings, pictures))
        stage.sample(tmp_path, step)
    stage.export(tmp_path / "model")
    assert Pipeline.from_pretrained(tmp_path / "model").transformer.proj_out.weight.mean() == 1
    again = DistillStage(recipe)
    again.recall()
    assert again.best == stage.best == (0.7, 0.7, 1)


@pytest.fixture
def by_prompts(recipe, tmp_path):
    """Adapters of a guided teacher by a file of prompts, looked at after every step."""
    colours, shapes = ("red", "blue", "green", "yellow"), ("circle", "square", "triangle")
    (tmp_path / "prompts.txt").write_text("\n".join(f"a {c} {s}" for c in colours for s in shapes))
    run = dataclasses.replace(recipe.run, sample_first=True, sample_minutes=0.0)
    changes = {"world": None, "cache": None, "samples": 0, "prompts": tmp_path / "prompts.txt", "lora_rank": 2}
    return dataclasses.replace(recipe, **changes, run=run, watch=_lenient(recipe))


def test_a_run_by_prompts_exports_the_student_that_came_nearest_to_its_teacher(by_prompts):
    warm = OptimizerConfig(kind="adamw", lr=3e-3, warmup=1, cooldown=0.0, ema=0.0)
    folder = train_distill(dataclasses.replace(by_prompts, guidance=4.0, warm=WarmConfig(steps=6, optimizer=warm)))
    rows = [json.loads(line) for line in (by_prompts.run.out / "log.jsonl").read_text().splitlines()]
    scores = {row["step"]: row["scores"]["score"] for row in rows if "scores" in row}
    errors = [row["scores"]["teacher_error"] for row in rows if "scores" in row]
    assert list(scores) == list(range(7))
    assert len(set(errors)) == 7  # no ceiling: every look has its own
    kept = json.loads((folder / "distill.json").read_text())
    assert kept["step"] > 1  # the first that was acceptable is not the last word
    assert kept["score"] == max(value for step, value in scores.items() if step)
    tensors = read_tensors(folder / "lora", ADAPTER_WEIGHTS)
    assert all(tensor.any() for name, tensor in tensors.items() if "lora_B" in name)


@pytest.mark.parametrize(("errors", "best"), [((0.0, 0.3, 0.1, 0.2), 2), ((0.0, 0.3, 0.3), 1), ((0.2,), 0)])
def test_an_untrained_student_is_kept_only_until_there_is_another(by_prompts, monkeypatch, tmp_path, errors, best):
    stage = DistillStage(by_prompts)
    readings = Readings(composition=None, words=None, diversity=0.2, saturation=0.3, flat_noise=None)
    grey = [[Image.new("RGB", (32, 32), (round(255 * e),) * 3)] * 2 for e in (0.0, *errors)]
    looks = iter([(readings, pictures) for pictures in grey])
    monkeypatch.setattr(stage.watch, "look", lambda *_: next(looks))
    for step in range(len(errors)):
        stage.sample(tmp_path, step)
    assert stage.best is not None
    assert stage.best[2] == best
    assert stage.best[0] == pytest.approx(-errors[best], abs=0.002)


def test_a_collapsed_run_is_caught_and_its_best_checkpoint_stays(recipe):
    run = dataclasses.replace(recipe.run, steps=40, sample_first=True, sample_minutes=0.0)
    wild = dataclasses.replace(recipe, run=run, student=dataclasses.replace(recipe.student, lr=3.0, ema=0.0))
    with pytest.raises((CollapsedError, DivergedError)) as error:
        train_distill(wild)
    assert isinstance(error.value, CollapsedError)
    assert "collapsed at step" in str(error.value)
    assert str(run.out / "best") in str(error.value)
    assert "\n" not in str(error.value)
    assert Pipeline.from_pretrained(run.out / "best").info.sample_sigmas == recipe.sigmas


def test_latents_that_are_not_finite_say_so(recipe):
    trainer = _trainer(recipe)
    with torch.no_grad():
        trainer.stage.student.proj_out.weight.fill_(float("nan"))
    trainer.stage._random_step = lambda generator: 1
    with pytest.raises(DivergedError, match="not finite at step 0"):
        trainer.update()


def test_max_minutes_ends_in_a_model(recipe):
    run = dataclasses.replace(recipe.run, steps=10**9, max_minutes=0.01)
    folder = train_distill(dataclasses.replace(recipe, run=run, watch=_lenient(recipe)))
    assert (folder / "model_index.json").exists()
    assert (run.out / "state" / "state.json").exists()


@pytest.mark.parametrize("family", ["micro", "mini", "7b"])
def test_bundled_recipes_are_valid(family):
    recipe = load_recipe(DistillRecipe, RECIPES / family / "distill.yaml")
    assert len(recipe.sigmas) == 4


def test_the_teacher_of_the_open_weights_is_asked_as_it_is_meant_to_be_sampled():
    recipe = load_recipe(DistillRecipe, RECIPES / "7b" / "distill.yaml")
    assert recipe.guidance == ModelInfo().guidance_scale == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigmas": (0.9, 0.5)}, "start at 1.0"),
        ({"sigmas": (1.0, 0.5, 0.5)}, "fall strictly"),
        ({"fake_updates": 0}, "at least 1"),
        ({"prompts": Path("prompts.txt")}, "either a world"),
        ({"dtype": "bfloat16"}, "needs dtype float32"),
    ],
)
def test_bad_recipes_are_refused(recipe, changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(recipe, **changes)


def _lenient(recipe):
    return dataclasses.replace(recipe.watch, limits=CollapseLimits(diversity=0.0, saturation=1e6))


def test_an_adapter_is_distilled_from_a_file_of_prompts_and_merged_when_loaded(recipe, tmp_path):
    lines = [f"a {colour} {shape}" for colour in ("red", "blue", "green") for shape in ("circle", "square")]
    (tmp_path / "prompts.txt").write_text("\n".join(lines) + '\n{"rich": "a red cat", "short": "cat"}\n')
    changes = {"world": None, "cache": None, "samples": 0, "prompts": tmp_path / "prompts.txt", "lora_rank": 2}
    adapted = dataclasses.replace(recipe, **changes, gradient_checkpointing=True, watch=_lenient(recipe))
    stage = DistillStage(adapted)
    state = stage.base.pipe.transformer.state_dict()
    teacher = {k: v.clone() for k, v in state.items() if ".lora_" not in k}
    trainer = _trainer(adapted, stage)
    for _ in range(3):
        trainer.update()
    assert all(torch.equal(v, stage.base.pipe.transformer.state_dict()[k]) for k, v in teacher.items())
    assert {name.split(".")[0] for name in trainer.average.weights} == {"student"}
    folder = trainer.run()
    assert sum(p.stat().st_size for p in folder.rglob("*.safetensors")) < 2**20
    pipe = Pipeline.from_pretrained(folder)
    assert pipe.info.sample_sigmas == recipe.sigmas
    plain = Pipeline.from_pretrained(recipe.teacher)
    x, t = torch.randn(2, 4, 64, generator=torch.Generator().manual_seed(1)), torch.full((2,), 0.5)
    batch = stage.batches.make(0, torch.Generator().manual_seed(0))
    text = stage.base.pipe.text_encoder.encode(batch.prompts[:2])
    with torch.no_grad():
        merged, before = (bind(p.transformer, text, (2, 2), 1)(x, t) for p in (pipe, plain))
    assert not torch.allclose(merged, before)


def test_gradients_of_an_adapter_survive_recomputation(recipe, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(f"a circle {n}" for n in range(8)))
    changes = {"world": None, "cache": None, "samples": 0, "prompts": tmp_path / "prompts.txt", "lora_rank": 2}
    norms = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        adapted = dataclasses.replace(recipe, **changes, gradient_checkpointing=checkpointing)
        trainer = _trainer(adapted)
        for _ in range(2):
            scalars = trainer.update()
        norms.append([scalars[f"{name}_grad_norm"].item() for name in ("student", "fake")])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_the_recipe_of_the_open_weights_runs_on_a_narrow_copy_of_them(tmp_path):
    pipe = build_tiny_pipeline()
    torch.manual_seed(0)
    narrow = TransformerConfig(num_layers=3, num_attention_heads=1, context_in_dim=64)  # heads and axes as published
    pipe.transformer = Transformer(narrow).eval()
    with torch.no_grad():
        pipe.transformer.proj_out.weight.normal_(std=0.05)
    pipe.save_pretrained(tmp_path / "teacher")
    (tmp_path / "prompts.txt").write_text("\n".join(f"a circle number {n}" for n in range(4)))
    changes = [f"teacher={tmp_path / 'teacher'}", f"prompts={tmp_path / 'prompts.txt'}", f"run.out={tmp_path / 'run'}"]
    changes += ["width=64", "height=32", "run.steps=2", "watch.prompts=2", "watch.diversity_prompts=1"]
    changes += ["watch.seeds=2", "watch.teacher_steps=2", "watch.limits={diversity: 0.0, saturation: 1000000.0}"]
    folder = train_distill(load_recipe(DistillRecipe, RECIPES / "7b" / "distill.yaml", changes))
    student = Pipeline.from_pretrained(folder)
    assert student.info.sample_sigmas == (1.0, 0.9, 0.75, 0.5)
    assert student("a circle", seed=1).images[0].size == (64, 32)
