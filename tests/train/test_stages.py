"""Each stage overfits a batch, and a run that was interrupted and resumed equals one that was not."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from fourstroke import Pipeline
from fourstroke.parallel.checkpoint import load_values, read_state
from fourstroke.recipe import RecipeError
from fourstroke.train.dit import DitStage, SemanticsConfig, train_dit
from fourstroke.train.labels import known_cross_entropy
from fourstroke.train.log import Log
from fourstroke.train.loop import DivergedError, Trainer
from fourstroke.train.vae import VaeStage, train_vae
from fourstroke.vae import Autoencoder
from fourstroke.world.cells import UNKNOWN


def _weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    live = {f"{k}.{n}": v for k, m in trainer.stage.models.items() for n, v in m.state_dict().items()}
    return live | {f"average.{n}": v for n, v in trainer.average.weights.items()}


def _runs(stage, recipe, split_at):
    """The weights after all steps, straight through and with a save and a load in between."""
    straight = Trainer(stage(recipe), recipe.run, recipe.optimizer, {})
    for _ in range(recipe.run.steps):
        straight.update()
    first = Trainer(stage(recipe), recipe.run, recipe.optimizer, {})
    for _ in range(split_at):
        first.update()
    first.save(recipe.run.out / "state")
    second = Trainer(stage(recipe), recipe.run, recipe.optimizer, {})
    second.load(recipe.run.out / "state")
    for _ in range(recipe.run.steps - split_at):
        second.update()
    return _weights(straight), _weights(second)


def test_interrupted_and_resumed_vae_equals_uninterrupted(vae_recipe):
    straight, resumed = _runs(VaeStage, vae_recipe, 3)
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)


def test_interrupted_and_resumed_dit_equals_uninterrupted(dit_recipe):
    straight, resumed = _runs(DitStage, dit_recipe, 3)
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)


def test_vae_run_writes_a_model_with_statistics_and_a_sheet(vae_recipe):
    folder = train_vae(vae_recipe)
    model = Autoencoder.from_pretrained(folder)
    z = model.encode(VaeStage(vae_recipe).held_out[0])
    assert z.shape[1:] == (64, 2, 2)
    assert 0.3 < z.std() < 3
    assert list((vae_recipe.run.out / "samples").glob("*.png"))
    rows = [json.loads(line) for line in (vae_recipe.run.out / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["scores"]["psnr"] > 5
    assert json.loads((vae_recipe.run.out / "recipe.json").read_text())["recipe"]["batch_size"] == 4


def test_dit_run_ends_in_a_pipeline_that_draws(dit_recipe):
    pipe = Pipeline.from_pretrained(train_dit(dit_recipe))
    image = pipe("a red circle", seed=3).images[0]
    assert image.size == (32, 32)
    assert pipe.info.name == "tiny"


def test_the_held_out_loss_is_the_mean_over_scenes_not_over_batches(dit_recipe, tmp_path):
    stage = DitStage(dataclasses.replace(dit_recipe, held_out=33))
    stage._error = lambda prompts, x_0, draws, generator: torch.full((len(x_0) * draws,), 1.0 if len(x_0) > 1 else 5.0)
    assert stage.sample(tmp_path, 0)["heldout"] == pytest.approx((32 + 5) / 33)


def test_a_second_run_into_the_same_folder_is_refused(vae_recipe):
    train_vae(vae_recipe)
    with pytest.raises(RecipeError, match="--resume"):
        train_vae(vae_recipe)
    more = dataclasses.replace(vae_recipe, run=dataclasses.replace(vae_recipe.run, steps=8))
    train_vae(more, resume=True)


def test_the_transformer_overfits_a_batch(dit_recipe):
    recipe = dataclasses.replace(dit_recipe, drop_prompt=0.0)
    stage = DitStage(recipe)
    stage._indices = lambda step: [0, 1, 2, 3]  # always the same pictures
    trainer = Trainer(stage, dataclasses.replace(recipe.run, steps=10_000), recipe.optimizer, {})
    losses = [trainer.update()["loss"].item() for _ in range(80)]
    assert sum(losses[-10:]) < 0.75 * sum(losses[:10])


def test_training_changes_every_part_and_the_frozen_one_stays(dit_recipe):
    stage = DitStage(dit_recipe)
    before = {k: v.clone() for k, v in stage.transformer.state_dict().items()}
    words = stage.text_encoder.model.model.language_model.embed_tokens.weight.clone()
    latent = {k: v.clone() for k, v in stage.autoencoder.state_dict().items()}
    trainer = Trainer(stage, dit_recipe.run, dit_recipe.optimizer, {})
    for _ in range(6):
        trainer.update()
    still = [k for k, v in stage.transformer.state_dict().items() if torch.equal(v, before[k])]
    assert not still
    assert not torch.equal(words, stage.text_encoder.model.model.language_model.embed_tokens.weight)
    assert all(torch.equal(v, latent[k]) for k, v in stage.autoencoder.state_dict().items())
    assert all(p.grad is None for p in stage.autoencoder.parameters())


def test_a_share_of_prompts_is_dropped_and_times_have_their_mean_and_deviation(dit_recipe, monkeypatch):
    """What the transformer is asked: empty prompts in `drop_prompt` of the rows, logits of t as the recipe says."""
    stage = DitStage(dataclasses.replace(dit_recipe, drop_prompt=0.25, time_mean=-2.0, time_std=0.5))
    prompts, times = [], []
    tokenize, denoise = stage.text_encoder.tokenize, stage.transformer.denoise
    monkeypatch.setattr(stage.text_encoder, "tokenize", lambda rows: (prompts.extend(rows), tokenize(rows))[1])
    monkeypatch.setattr(stage.transformer, "denoise", lambda x, t, cache: (times.append(t), denoise(x, t, cache))[1])
    with torch.no_grad():
        for step in range(128):
            stage.loss(step)
    dropped = sum(not prompt for prompt in prompts) / len(prompts)
    assert 0.17 < dropped < 0.33  # of 512, four deviations
    assert {*prompts} - {""} <= {*stage.cache.short, *stage.cache.rich}
    logits = torch.cat(times).logit()
    assert logits.mean() == pytest.approx(-2.0, abs=0.1)
    assert logits.std() == pytest.approx(0.5, abs=0.1)


def test_hidden_states_learn_to_name_what_the_scene_shows(dit_recipe):
    recipe = dataclasses.replace(dit_recipe, drop_prompt=0.0, semantics=SemanticsConfig(block=2, weight=1.0))
    stage = DitStage(recipe)
    stage._indices = lambda step: [0, 1, 2, 3]
    trainer = Trainer(stage, dataclasses.replace(recipe.run, steps=10_000), recipe.optimizer, {})
    updates = [trainer.update() for _ in range(60)]
    named = [(update["things"] + update["colours"]).item() for update in updates]
    assert sum(named[-10:]) < 0.5 * sum(named[:10])
    assert "semantics" not in {p.name for p in (train_dit(recipe)).iterdir()}  # the head is not part of the model


def test_semantics_of_a_block_that_is_not_there_is_refused(dit_recipe):
    with pytest.raises(ValueError, match="there are 2 blocks"):
        DitStage(dataclasses.replace(dit_recipe, semantics=SemanticsConfig(block=3)))


def test_max_minutes_ends_cleanly_with_a_state_and_a_model(vae_recipe):
    run = dataclasses.replace(vae_recipe.run, steps=10**9, max_minutes=0.02)
    folder = train_vae(dataclasses.replace(vae_recipe, run=run))
    assert Autoencoder.from_pretrained(folder)
    assert (run.out / "state" / "state.json").exists()


def test_no_step_is_looked_at_or_saved_twice(vae_recipe):
    run = dataclasses.replace(vae_recipe.run, steps=3, sample_first=True, sample_minutes=0.0, save_minutes=0.0)
    trainer = Trainer(VaeStage(vae_recipe), run, vae_recipe.optimizer, {})
    saved, save = [], trainer.save
    trainer.save = lambda folder, wait=True: (saved.append(trainer.step), save(folder, wait))
    trainer.run()
    rows = [json.loads(line) for line in (run.out / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "scores" in row] == [0, 1, 2, 3]
    assert saved == [1, 2, 3]


def test_a_diverged_run_says_so(vae_recipe):
    run = dataclasses.replace(vae_recipe.run, steps=25)
    stage = VaeStage(vae_recipe)
    stage.loss = lambda step: {"loss": sum(p.sum() for p in stage.model.parameters()) * float("nan")}
    with pytest.raises(DivergedError, match="step 20"):
        Trainer(stage, run, vae_recipe.optimizer, {}).run()


def test_a_gradient_that_is_no_number_ends_a_run_before_it_is_saved(vae_recipe):
    run = dataclasses.replace(vae_recipe.run, steps=7, save_minutes=0.0)
    stage = VaeStage(vae_recipe)
    loss = stage.loss

    def broken(step):
        found = loss(step)
        return found | {"loss": found["loss"] * (float("inf") if step == 4 else 1)}

    stage.loss = broken
    trainer = Trainer(stage, run, vae_recipe.optimizer, {})
    with pytest.raises(DivergedError, match="step 5"):
        trainer.run()
    assert load_values(run.out / "state")["step"] == 4
    assert all(torch.isfinite(weight).all() for weight in read_state(run.out / "state", "average.").values())


def test_rates_and_means_are_those_of_what_was_trained(tmp_path, capsys):
    log = Log(tmp_path, log_seconds=2.0)
    log.add(1, 1.0, {"loss": torch.tensor(1.0), "rare": torch.tensor(8.0)}, 0.1, 4)
    log.add(2, 2.0, {"loss": torch.tensor(3.0)}, 0.2, 12)
    row = json.loads((tmp_path / "log.jsonl").read_text())
    assert (row["loss"], row["rare"], row["rate"]) == (2.0, 8.0, 8.0)
    log.add(3, 4.0, {"loss": torch.tensor(5.0)}, 0.3, 6)
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[1])["rate"] == 3.0


def test_targets_that_are_all_unknown_cost_nothing():
    logits = torch.randn(2, 3, 4, requires_grad=True)
    target = torch.full((2, 4), UNKNOWN)
    loss = known_cross_entropy(logits, target)
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()
    target[0, 1] = 2
    expected = torch.nn.functional.cross_entropy(logits, target, ignore_index=UNKNOWN)
    torch.testing.assert_close(known_cross_entropy(logits, target), expected)
