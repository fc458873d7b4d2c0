"""The stage: frozen stays frozen, the fake score learns, resumed equals uninterrupted, a collapse is caught."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from fourstroke import Pipeline
from fourstroke.checkpoint import map_tensors
from fourstroke.data.prompts import PromptsData
from fourstroke.distill.comparison import CollapseLimits
from fourstroke.distill.teachers import SpecialistConfig
from fourstroke.dit import Transformer, TransformerConfig, condition
from fourstroke.evaluate.image_metrics import stack
from fourstroke.folder import ADAPTER_WEIGHTS, ModelInfo
from fourstroke.parallel.mesh import Shard
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


def test_the_student_goes_on_from_an_earlier_one_and_the_fake_score_from_the_teacher(recipe, tmp_path):
    earlier = Pipeline.from_pretrained(recipe.teacher)
    with torch.no_grad():
        for parameter in earlier.transformer.parameters():
            parameter.add_(0.01)
    earlier.save_pretrained(tmp_path / "earlier")
    stage = DistillStage(dataclasses.replace(recipe, init=str(tmp_path / "earlier")))
    wanted, teacher = earlier.transformer.state_dict(), stage.base.pipe.transformer.state_dict()
    assert all(torch.equal(wanted[key], value) for key, value in stage.student.state_dict().items())
    assert all(torch.equal(teacher[key], value) for key, value in stage.distilled.fake.state_dict().items())
    assert not any(torch.equal(wanted[key], teacher[key]) for key in wanted)


def test_an_earlier_student_is_carried_over_to_a_teacher_that_has_learned_more(recipe, tmp_path):
    teacher = Pipeline.from_pretrained(recipe.teacher)
    for name, moved in (("former", 0.5), ("student", 0.25)):
        earlier = Pipeline.from_pretrained(recipe.teacher)
        with torch.no_grad():
            for parameter in earlier.transformer.parameters():
                parameter.add_(moved)
        earlier.save_pretrained(tmp_path / name)
    told = {"init": str(tmp_path / "student"), "init_teacher": str(tmp_path / "former")}
    student = DistillStage(dataclasses.replace(recipe, **told)).student
    for mine, now in zip(student.parameters(), teacher.transformer.parameters(), strict=True):
        torch.testing.assert_close(mine, now - 0.25)
    with pytest.raises(ValueError, match="name the student as init"):
        dataclasses.replace(recipe, init_teacher=told["init_teacher"])


def test_an_earlier_student_of_other_sizes_is_refused(recipe, tmp_path):
    other = Pipeline.from_pretrained(recipe.teacher)
    other.transformer = Transformer(dataclasses.replace(other.transformer.config, num_layers=1))
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(RecipeError, match="num_layers"):
        DistillStage(dataclasses.replace(recipe, init=str(tmp_path / "other")))
    with pytest.raises(ValueError, match="init starts all weights"):
        dataclasses.replace(recipe, init=str(tmp_path / "other"), lora_rank=4)


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
    stage = DistillStage(dataclasses.replace(recipe, batch_size=2, noise_samples=4))
    with torch.no_grad():
        for p in stage.distilled.fake.proj_out.parameters():
            p.mul_(-1)
    noise = torch.Generator().manual_seed(0)
    batch = stage.batches.make(0, noise)
    optimizer = torch.optim.Adam(stage.distilled.fake.parameters(), lr=3e-3)
    with torch.no_grad():
        student = condition(stage.student, batch.text, batch.grid, repeats=4)
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
            student = condition(stage.student, batch.text, batch.grid, repeats=recipe.noise_samples)
            losses[weight, step] = stage.student_loss(batch, student, generator)["loss"].item()
    assert losses[1.0, 0] > losses[0.0, 0]
    assert losses[1.0, 1] == losses[0.0, 1]


def test_a_specialist_with_the_whole_share_replaces_the_base_teacher(recipe, teacher_folder):
    specialist = SpecialistConfig(model=teacher_folder, shares=(0.0, 0.0, 1.0, 0.5), guidance=1.0)
    stage = DistillStage(dataclasses.replace(recipe, specialists=(specialist,)))
    batch = stage.batches.make(0, torch.Generator().manual_seed(0))
    x, t = torch.randn(6, 4, 64, generator=torch.Generator().manual_seed(1)), torch.full((6,), 0.5)
    with torch.no_grad():
        own = condition(stage.base.pipe.transformer, batch.text, (2, 2), repeats=2)(x, t)
        base = stage.base.velocity(batch.prompts, (2, 2), 2)(x, t)
        found = [stage.teachers(batch, k)(x, t) for k in (0, 2, 3)]
    for value, expected in zip(found, (base, own, 0.5 * base + 0.5 * own), strict=True):
        torch.testing.assert_close(value, expected)


def test_a_run_ends_in_a_student_of_four_steps(recipe):
    run = dataclasses.replace(recipe.run, sample_first=True)
    folder = train_distill(dataclasses.replace(recipe, run=run, validation=_lenient(recipe)))
    steps = []
    pipe = Pipeline.from_pretrained(folder)
    pipe("a red circle", seed=1, on_step=lambda step, n, x: steps.append((step, n)))
    assert steps == [(k, 4) for k in (1, 2, 3, 4)]
    assert pipe.info.sample_sigmas == recipe.sigmas
    assert pipe.info.guidance_scale == 1
    rows = [json.loads(line) for line in (run.out / "log.jsonl").read_text().splitlines()]
    scores = [row["scores"]["score"] for row in rows if "scores" in row]
    assert len(scores) == 2
    assert json.loads((folder / "distill.json").read_text())["value"] == scores[1]
    assert {file.name for file in (run.out / "samples").glob("*.png")} == {
        "teacher.png",
        "step-000000.png",
        "step-000006.png",
    }
    with pytest.raises(RecipeError, match="--resume"):
        train_distill(dataclasses.replace(recipe, run=run))


@dataclass(frozen=True, kw_only=True)
class Told:
    """A validator that says what it was told, one value a look, the teacher's first."""

    kind: ClassVar[str] = "told"
    values: tuple[float, ...]

    def open(self):
        left = iter(self.values)
        return SimpleNamespace(run=lambda *_: {"composition": next(left)})


def test_the_best_checkpoint_is_kept_not_the_last(recipe, tmp_path):
    told = dataclasses.replace(recipe, validators=(Told(values=(0.8, 0.5, 0.7, 0.6)),), validation=_lenient(recipe))
    stage = DistillStage(told)
    scores = []
    for step in range(3):
        with torch.no_grad():  # what is drawn stays nearly the same, so that the score is that of the composition
            stage.student.proj_out.weight[0, 0] = step / 100
        scores.append(stage.sample(tmp_path, step)["score"])
    assert scores == pytest.approx([0.5, 0.7, 0.6], abs=0.05)
    stage.export(tmp_path / "model")
    assert Pipeline.from_pretrained(tmp_path / "model").transformer.proj_out.weight[0, 0].item() == pytest.approx(0.01)
    again = DistillStage(told)
    again.recall()
    assert (again.best.value, again.best.step, again.highest) == (stage.best.value, 1, 0.7)


def test_a_fall_of_composition_ends_the_run_also_after_a_resume(recipe, tmp_path):
    told = dataclasses.replace(recipe, validators=(Told(values=(0.8, 0.2, 0.8)),), validation=_lenient(recipe))
    stage = DistillStage(told)
    for step in range(2):
        stage.sample(tmp_path, step)
    again = DistillStage(dataclasses.replace(told, validators=(Told(values=(0.8, 0.1)),)))
    again.recall()
    with pytest.raises(CollapsedError, match=r"step 2: composition fell from 0\.800 to 0\.100; the best .* of step 1"):
        again.sample(tmp_path, 2)


@pytest.fixture
def by_prompts(recipe, tmp_path):
    """Adapters of a guided teacher by a file of prompts, looked at after every step."""
    colours, shapes = ("red", "blue", "green", "yellow"), ("circle", "square", "triangle")
    (tmp_path / "prompts.txt").write_text("\n".join(f"a {c} {s}" for c in colours for s in shapes))
    run = dataclasses.replace(recipe.run, sample_first=True, sample_minutes=0.0)
    changes = {"data": PromptsData(path=tmp_path / "prompts.txt", held_out=2), "lora_rank": 2}
    return dataclasses.replace(recipe, **changes, run=run, validation=_lenient(recipe))


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
    assert kept["value"] == max(value for step, value in scores.items() if step)
    tensors = map_tensors(folder / "lora", ADAPTER_WEIGHTS)
    assert all(tensor.any() for name, tensor in tensors.items() if "lora_B" in name)


def test_an_untrained_student_is_kept_only_until_there_is_another(by_prompts, tmp_path):
    stage = DistillStage(by_prompts)
    first = stage.sample(tmp_path, 0)
    assert (first["teacher_error"], stage.best.step) != (0.0, 1)
    assert (by_prompts.run.out / "best" / "model_index.json").exists()  # should the run end here
    with torch.no_grad():
        for name, p in stage.models["student"].named_parameters():
            p.add_(0.5 if "lora_B" in name else 0.0)
    second = stage.sample(tmp_path, 1)
    assert second["score"] < first["score"]
    assert stage.best.step == 1


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
    folder = train_distill(dataclasses.replace(recipe, run=run, validation=_lenient(recipe)))
    assert (folder / "model_index.json").exists()
    assert (run.out / "state" / "state.json").exists()


@pytest.mark.parametrize("family", ["micro", "mini", "7b"])
def test_bundled_recipes_are_valid(family):
    recipe = load_recipe(DistillRecipe, RECIPES / family / "distill.yaml")
    assert len(recipe.sigmas) == 4


def test_the_teacher_of_the_open_weights_is_asked_as_it_is_meant_to_be_sampled():
    recipe = load_recipe(DistillRecipe, RECIPES / "7b" / "distill.yaml")
    assert recipe.guidance == ModelInfo().guidance_scale == 1.0


def test_frozen_parts_may_be_half_precision_while_all_weights_are_trained_in_single(recipe):
    trainer = _trainer(dataclasses.replace(recipe, dtype="bfloat16"))
    stage, base = trainer.stage, trainer.stage.base.pipe
    frozen = {p.dtype for part in (base.transformer, base.text_encoder, base.autoencoder) for p in part.parameters()}
    assert frozen == {torch.bfloat16}
    assert {p.dtype for model in stage.models.values() for p in model.parameters()} == {torch.float32}
    before = _weights(trainer)
    before = {key: value.clone() for key, value in before.items()}
    scalars = trainer.update()
    assert all(torch.isfinite(value) for value in scalars.values())
    moved = {key: value for key, value in _weights(trainer).items() if not torch.equal(value, before[key])}
    assert moved.keys() == before.keys()
    assert any((value - value.bfloat16().float()).abs().max() > 0 for value in moved.values())  # finer than bfloat16


def test_ranks_draw_their_own_rows_of_one_noise(recipe, monkeypatch):
    shards = [Shard(0, 1), Shard(0, 2), Shard(1, 2)]
    noise = []
    for shard, size in zip(shards, (4, 2, 2), strict=True):
        stage = DistillStage(dataclasses.replace(recipe, batch_size=size))
        batch = stage.batches.make(0, torch.Generator().manual_seed(0))
        monkeypatch.setattr("fourstroke.parallel.noise.data_shard", lambda shard=shard: shard)
        drawn = torch.Generator().manual_seed(3)
        noise.append([stage._noise(batch, drawn).unflatten(0, (size, recipe.noise_samples)) for _ in range(2)])
        monkeypatch.undo()
    whole, *parts = noise
    for n in range(2):
        assert torch.equal(whole[n], torch.stack([parts[0][n], parts[1][n]], dim=1).flatten(0, 1))
    assert not torch.equal(whole[0], whole[1])
    assert len(whole[0].flatten(0, 1).unique(dim=0)) == 4 * recipe.noise_samples


def test_the_teachers_prefix_without_a_prompt_is_computed_once(recipe, monkeypatch):
    stage = DistillStage(recipe)
    batch = stage.batches.make(0, torch.Generator().manual_seed(0))
    x, t = torch.randn(6, 4, 64, generator=torch.Generator().manual_seed(1)), torch.full((6,), 0.5)
    first = stage.base.velocity(batch.prompts, (2, 2), 2)(x, t)
    seen, prefill = [], stage.base.pipe.transformer.prefill

    def counted(features, *rest):
        seen.append(features.shape[0])
        return prefill(features, *rest)

    monkeypatch.setattr(stage.base.pipe.transformer, "prefill", counted)
    torch.testing.assert_close(stage.base.velocity(batch.prompts, (2, 2), 2)(x, t), first)
    assert seen == [3]  # the prompts alone
    stage.base.velocity(batch.prompts, (4, 2), 2)
    assert seen == [3, 3, 1]  # another grid has another


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigmas": (0.9, 0.5)}, "start at 1.0"),
        ({"sigmas": (1.0, 0.5, 0.5)}, "fall strictly"),
        ({"fake_updates": 0}, "at least 1"),
    ],
)
def test_bad_recipes_are_refused(recipe, changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(recipe, **changes)


def _lenient(recipe):
    return dataclasses.replace(recipe.validation, limits=CollapseLimits(diversity=0.0, saturation=1e6))


def test_an_adapter_is_distilled_from_a_file_of_prompts_and_merged_when_loaded(recipe, tmp_path):
    lines = [f"a {colour} {shape}" for colour in ("red", "blue", "green") for shape in ("circle", "square")]
    (tmp_path / "prompts.txt").write_text("\n".join(lines) + '\n{"rich": "a red cat", "short": "cat"}\n')
    changes = {"data": PromptsData(path=tmp_path / "prompts.txt", held_out=2), "lora_rank": 2}
    adapted = dataclasses.replace(recipe, **changes, gradient_checkpointing=True, validation=_lenient(recipe))
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
        merged, before = (condition(p.transformer, text, (2, 2))(x, t) for p in (pipe, plain))
    assert not torch.allclose(merged, before)


def test_the_teacher_that_a_late_first_look_measures_has_no_adapters(recipe, tmp_path):
    adapted = DistillStage(dataclasses.replace(recipe, lora_rank=2))
    with torch.no_grad():
        for model in adapted.models.values():
            for name, p in model.named_parameters():
                p.add_(0.5 if "lora_B" in name else 0.0)
    taught = []
    for stage in (DistillStage(recipe), adapted):
        stage._see_teacher(tmp_path)
        taught.append(stack(stage.comparison._taught.pictures))
    assert torch.equal(*taught)


def test_gradients_of_an_adapter_survive_recomputation(recipe, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(f"a circle {n}" for n in range(8)))
    changes = {"data": PromptsData(path=tmp_path / "prompts.txt", held_out=2), "lora_rank": 2}
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
    changes = [f"teacher={tmp_path / 'teacher'}", f"data.path={tmp_path / 'prompts.txt'}", "data.held_out=2"]
    changes += [f"run.out={tmp_path / 'run'}", "width=64", "height=32", "run.steps=2", "validation.prompts=2"]
    changes += ["validation.diversity_prompts=1", "validation.seeds=2", "validation.teacher_steps=2"]
    changes += ["validation.limits={diversity: 0.0, saturation: 1000000.0}"]
    folder = train_distill(load_recipe(DistillRecipe, RECIPES / "7b" / "distill.yaml", changes))
    student = Pipeline.from_pretrained(folder)
    assert student.info.sample_sigmas == (1.0, 0.9, 0.75, 0.5)
    assert student("a circle", seed=1).images[0].size == (64, 32)
