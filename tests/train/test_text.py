"""The text encoder learns to read what captions say, and the transformer can take it up."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fourstroke.chance import generator
from fourstroke.data.datasets.mixture import MixtureData, Part
from fourstroke.text import SmallTextConfig, TextEncoder
from fourstroke.train.loop import RunConfig, Trainer
from fourstroke.train.optimizer import OptimizerConfig
from fourstroke.train.text import TextRecipe, TextStage, train_text
from fourstroke.world import WorldConfig
from fourstroke.world.dataset import PosterData, SmallTextData, WorldData
from fourstroke.world.labels import WorldLabels
from fourstroke.world.pages import PageConfig

WORLD = WorldConfig(width=32, height=32, sprites=0)


@pytest.fixture
def recipe(tmp_path):
    return TextRecipe(
        data=WorldData(world=WORLD),
        labels=WorldLabels(world=WORLD),
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


def test_scenes_and_pages_are_read_together(recipe):
    world = WorldConfig(width=64, height=64, sprites=2, words=0.5)
    pages = PosterData(pages=PageConfig(width=64, height=64, words=(1, 6)))
    parts = (Part(data=WorldData(world=world), weight=3.0), Part(data=pages, weight=1.0))
    labels = WorldLabels(world=world, letters="abcdefghijklmnopqrstuvwxyz")
    stage = TextStage(dataclasses.replace(recipe, data=MixtureData(parts=parts), labels=labels, batch_size=40))
    drawn = stage.data.drawn(40, generator(1, 2))
    assert [record.name for record in drawn] == [record.name for record in stage.data.drawn(40, generator(1, 2))]
    assert 22 <= sum("scene" in record.meta for record in drawn) < 40
    assert {"scene", "page"} == {key for record in stage.held_out for key in record.meta}
    losses = stage.loss(0)
    assert losses.keys() == {"loss", "things", "colours", "letters"}
    assert all(loss > 0 for loss in losses.values())


def test_data_without_captions_is_refused_at_once(recipe):
    with pytest.raises(ValueError, match="has a caption; there is nothing to read"):
        TextStage(dataclasses.replace(recipe, data=SmallTextData(width=32, height=32)))
