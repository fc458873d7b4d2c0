"""The text encoder learns to read what captions say, and the transformer can take it up."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fourstroke.text import SmallTextConfig, TextEncoder
from fourstroke.train.loop import RunConfig, Trainer
from fourstroke.train.optimizer import OptimizerConfig
from fourstroke.train.text import TextRecipe, TextStage, train_text
from fourstroke.world import WorldConfig


@pytest.fixture
def recipe(tmp_path):
    return TextRecipe(
        world=WorldConfig(width=32, height=32, sprites=0),
        text=SmallTextConfig(
            vocab_size=400, hidden_size=64, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=32, intermediate_size=96
        ),
        run=RunConfig(out=tmp_path / "text", steps=4, log_seconds=0),
        optimizer=OptimizerConfig(lr=3e-3, warmup=2),
        batch_size=8,
        tokenizer_captions=64,
    )


def test_reading_overfits_a_batch_of_captions(recipe):
    stage = TextStage(recipe)
    one = stage.loss
    stage.loss = lambda step: one(step % 2)  # the same scenes, shortly and richly
    trainer = Trainer(stage, dataclasses.replace(recipe.run, steps=10_000), recipe.optimizer, {})
    losses = [trainer.update()["loss"].item() for _ in range(60)]
    assert sum(losses[-10:]) < 0.4 * sum(losses[:10])


def test_scores_are_those_of_chance_before_and_rise_with_training(recipe):
    stage = TextStage(dataclasses.replace(recipe, batch_size=16))
    folder = recipe.run.out
    folder.mkdir()
    trainer = Trainer(stage, dataclasses.replace(recipe.run, steps=10_000), recipe.optimizer, {})
    with torch.no_grad():
        before = stage.sample(folder, 0)
    for _ in range(60):
        trainer.update()
    with torch.no_grad():
        after = stage.sample(folder, 60)
    assert before.keys() == after.keys() == {"short_things", "short_colours", "rich_things", "rich_colours"}
    assert before["short_things"] < 0.5
    assert after["rich_colours"] > before["rich_colours"] + 0.1


def test_the_run_leaves_an_encoder_and_starts_from_one(recipe, tmp_path):
    folder = train_text(recipe)
    encoder = TextEncoder.from_pretrained(folder / "text_encoder", folder / "processor")
    again = TextStage(dataclasses.replace(recipe, init=folder)).text_encoder
    wanted, found = (one.encode(["a red circle above a blue square"]).features for one in (encoder, again))
    torch.testing.assert_close(found, wanted)
    assert not list(folder.rglob("*reader*"))
