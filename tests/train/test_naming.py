"""Letters are learnt where they stand, by the text encoder and by the transformer's hidden states."""

from __future__ import annotations

import dataclasses

from fourstroke.train.dit import DitStage
from fourstroke.train.loop import Trainer
from fourstroke.train.optimizer import OptimizerConfig
from fourstroke.train.repa import SemanticsConfig
from fourstroke.train.text import TextRecipe, TextStage
from fourstroke.world import WorldConfig
from fourstroke.world.dataset import WorldData
from fourstroke.world.labels import WorldLabels

from .conftest import WORLD

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIGNS = WorldConfig(width=64, height=64, sprites=2, words=1.0, max_word_length=3)


def test_the_text_encoder_learns_to_spell(dit_recipe, tmp_path):
    run = dataclasses.replace(dit_recipe.run, out=tmp_path / "text", steps=60)
    recipe = TextRecipe(
        data=WorldData(world=SIGNS),
        labels=WorldLabels(world=SIGNS, letters=LETTERS),
        text=dit_recipe.text,
        run=run,
        optimizer=dit_recipe.optimizer,
        batch_size=8,
        tokenizer_captions=64,
    )
    trainer = Trainer(TextStage(recipe), recipe.run, recipe.optimizer, {})
    first = trainer.update()["letters"].item()
    for _ in range(59):
        last = trainer.update()["letters"].item()
    assert last < 0.75 * first
    assert trainer.stage.sample(tmp_path, 0).keys() >= {"short_letters", "rich_letters", "short_things"}


def test_hidden_states_learn_to_name_letters(dit_recipe):
    world = dataclasses.replace(WORLD, words=1.0, max_word_length=3)
    recipe = dataclasses.replace(
        dit_recipe,
        data=WorldData(world=world, samples=4, held_out=8),
        held_out=0,
        drop_prompt=0.0,
        semantics=SemanticsConfig(labels=WorldLabels(world=world, letters=LETTERS), block=1),
        optimizer=OptimizerConfig(lr=1e-2, warmup=2),
    )
    trainer = Trainer(DitStage(recipe), recipe.run, recipe.optimizer, {})
    losses = [trainer.update()["letters"].item() for _ in range(60)]
    assert losses[-1] < 0.7 * losses[0]
