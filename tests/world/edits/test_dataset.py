"""Edits keep the promises of every dataset: random access, the same anywhere, split in two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fourstroke.recipe import load_recipe
from fourstroke.registry import find
from fourstroke.text.templates import transparent
from fourstroke.world import WorldConfig, split_of
from fourstroke.world.edits import EditConfig
from fourstroke.world.edits.dataset import EditData

WORLD = load_recipe(WorldConfig, Path(__file__).parents[3] / "recipes" / "micro" / "world.yaml")
CONFIG = EditData(edits=EditConfig(world=WORLD), samples=60, held_out=20)


def test_a_recipe_finds_it():
    assert find("datasets", "world_edits") is EditData


def test_samples_are_the_same_in_any_order_and_hold_what_their_records_say():
    data, again = CONFIG.open(), CONFIG.open()
    assert len(data) == 60
    for index in (41, 3, 17, 3):
        sample, record = data.sample(index), again.record(index)
        assert sample.record == record
        assert sample.image.shape[:2] == record.size[::-1]
        assert [(x.shape[1], x.shape[0]) for x in sample.inputs] == list(record.inputs)
        assert sample.mask is not None
        assert sample.mask.shape == sample.image.shape[:2]
        assert [caption.kind for caption in record.captions] == ["short", "rich"]
        assert split_of(record.meta["scene"]) == "train"
        np.testing.assert_array_equal(sample.image, again.sample(index).image)


def test_instructions_for_stickers_come_as_the_pipeline_gives_them():
    scene = replace(CONFIG.edits.world, transparent=0.5)
    data = replace(CONFIG, edits=replace(CONFIG.edits, world=scene)).open()
    records = [data.record(index) for index in range(40)]
    stickers = [r for r in records if r.meta["scene"].background.kind == "transparent"]
    assert 10 < len(stickers) < 30
    for record in records:
        short, rich, *asked = (caption.text for caption in record.captions)
        assert [text in (transparent(short), transparent(rich)) for text in asked] == [True] * (record in stickers)


def test_both_numbers_of_inputs_come():
    assert {len(CONFIG.open().record(index).inputs) for index in range(60)} == {1, 2}


def test_sizes_are_told_beforehand():
    data = CONFIG.open()
    assert len(data.hints.shapes) == 60
    for index in range(60):
        record = data.record(index)
        assert data.hints.shapes[index] == (record.size, record.inputs)


def test_digests_tell_pictures_apart():
    data, other = CONFIG.open(), replace(CONFIG, seed=1).open()
    found = [data.digest(index) for index in range(60)] + [other.digest(0), CONFIG.open("heldout").digest(0)]
    assert len(set(found)) == 62
    assert data.digest(5) == CONFIG.open().digest(5)
    with pytest.raises(IndexError, match="has 60 samples"):
        data.sample(60)
