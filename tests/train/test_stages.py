"""Each stage overfits a batch, and a run that was interrupted and resumed equals one that was not."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from fourstroke.parallel.checkpoint import load_values, read_state
from fourstroke.recipe import RecipeError
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


def test_a_second_run_into_the_same_folder_is_refused(vae_recipe):
    train_vae(vae_recipe)
    with pytest.raises(RecipeError, match="--resume"):
        train_vae(vae_recipe)
    more = dataclasses.replace(vae_recipe, run=dataclasses.replace(vae_recipe.run, steps=8))
    train_vae(more, resume=True)


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
