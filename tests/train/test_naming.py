"""What stands at each cell is told by labels of things, colours and letters, and their losses weigh as they should."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from fourstroke.train.dit import DitStage, SemanticsConfig
from fourstroke.train.loop import Trainer
from fourstroke.train.naming import CellNaming
from fourstroke.train.optimizer import OptimizerConfig
from fourstroke.train.text import TextRecipe, TextStage
from fourstroke.world import World, WorldConfig
from fourstroke.world.cells import UNKNOWN, letter_labels

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIGNS = WorldConfig(width=64, height=64, sprites=2, words=1.0, max_word_length=3)


def test_letters_of_a_cell_are_those_of_its_four_squares():
    world = World(SIGNS)
    naming, scene = CellNaming(world, LETTERS), world.scene(3)
    labels = naming.labels([scene])["letters"][0]
    squares = letter_labels(scene, LETTERS)
    assert labels.shape == (4, 16)
    assert {LETTERS[index - 1] for index in squares[squares > 0].tolist()} <= set(scene.sign.word)
    for row, column in torch.argwhere(squares > 0).tolist():
        cell, quarter = (row // 2) * 4 + column // 2, row % 2 * 2 + column % 2
        assert labels[quarter, cell] == squares[row, column]


def test_letters_weigh_as_much_as_places_without_one():
    world = World(SIGNS)
    naming = CellNaming(world, LETTERS)
    labels = naming.labels([world.scene(seed) for seed in range(4)])
    logits = torch.zeros(4, naming.outputs, 16)
    even = naming.losses(logits, labels)
    assert even["things"] == pytest.approx(math.log(naming.widths["things"]))
    assert even["letters"] == pytest.approx(2 * math.log(1 + len(LETTERS)), rel=1e-5)
    parts = naming.split(logits)
    assert parts["letters"].shape == (4, 1 + len(LETTERS), 4, 16)
    sure = logits.clone()
    for name, part in naming.split(sure).items():  # views of `sure`
        wanted = labels[name].clamp_min(0).unsqueeze(1)
        part.scatter_(1, wanted, torch.full_like(wanted, 50.0, dtype=part.dtype))
    assert sum(naming.losses(sure, labels).values()) < 1e-6
    hidden = {name: torch.full_like(part, UNKNOWN) for name, part in labels.items()}
    assert sum(naming.losses(logits, hidden).values()) == 0


def test_the_text_encoder_learns_to_spell(dit_recipe, tmp_path):
    run = dataclasses.replace(dit_recipe.run, out=tmp_path / "text", steps=60)
    recipe = TextRecipe(world=SIGNS, text=dit_recipe.text, run=run, optimizer=dit_recipe.optimizer, batch_size=8,
                        letters=LETTERS, tokenizer_captions=64)  # fmt: skip
    trainer = Trainer(TextStage(recipe), recipe.run, recipe.optimizer, {})
    first = trainer.update()["letters"].item()
    for _ in range(59):
        last = trainer.update()["letters"].item()
    assert last < 0.75 * first
    assert trainer.stage.sample(tmp_path, 0).keys() >= {"short_letters", "rich_letters", "short_things"}


def test_hidden_states_learn_to_name_letters(dit_recipe):
    recipe = dataclasses.replace(
        dit_recipe,
        world=dataclasses.replace(dit_recipe.world, words=1.0, max_word_length=3),
        samples=4,
        held_out=8,
        drop_prompt=0.0,
        semantics=SemanticsConfig(block=1, letters=LETTERS),
        optimizer=OptimizerConfig(lr=1e-2, warmup=2),
    )
    trainer = Trainer(DitStage(recipe), recipe.run, recipe.optimizer, {})
    losses = [trainer.update()["letters"].item() for _ in range(60)]
    assert losses[-1] < 0.7 * losses[0]
