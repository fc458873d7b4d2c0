"""What stands at each cell is told by labels of things, colours, styles and letters, and their losses weigh right."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from fourstroke.data.sample import Record
from fourstroke.recipe import build
from fourstroke.train.labels import UNKNOWN, Labels
from fourstroke.world import WorldConfig
from fourstroke.world.atlas import STYLES
from fourstroke.world.cells import letter_labels
from fourstroke.world.dataset import PosterData, WorldData
from fourstroke.world.labels import WorldLabels
from fourstroke.world.pages import PageConfig, letter_boxes
from fourstroke.world.pages.render import picture_box

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIGNS = WorldConfig(width=64, height=64, sprites=2, words=1.0, max_word_length=3)
SECOND = WorldConfig(width=64, height=64, things=12, styles=(1.0, 1.0, 1.0, 0.0))


def records(world: WorldConfig, n: int) -> list[Record]:
    data = WorldData(world=world).open()
    return [data.record(index) for index in range(n)]


def perfect(cells, wanted):
    """Logits that say what is wanted."""
    logits = torch.zeros(len(wanted["things"]), cells.outputs, wanted["things"].shape[1])
    for name, part in cells.split(logits).items():  # views of `logits`
        index = wanted[name].clamp_min(0).unsqueeze(1)
        part.scatter_(1, index, torch.full_like(index, 50.0, dtype=part.dtype))
    return logits


def test_letters_of_a_cell_are_those_of_its_four_squares():
    (record,) = records(SIGNS, 1)
    scene = record.meta["scene"]
    labels = WorldLabels(world=SIGNS, letters=LETTERS).open().labels([record])["letters"][0]
    squares = letter_labels(scene, LETTERS)
    assert labels.shape == (4, 16)
    assert {LETTERS[index - 1] for index in squares[squares > 0].tolist()} <= set(scene.sign.word)
    assert (squares > 0).any()
    for row, column in torch.argwhere(squares > 0).tolist():
        cell, quarter = (row // 2) * 4 + column // 2, row % 2 * 2 + column % 2
        assert labels[quarter, cell] == squares[row, column]


def test_letters_weigh_as_much_as_places_without_one():
    cells, asked = WorldLabels(world=SIGNS, letters=LETTERS).open(), records(SIGNS, 4)
    labels = cells.labels(asked)
    logits = torch.zeros(4, cells.outputs, 16)
    even = cells.losses(logits, labels)
    assert even["things"] == pytest.approx(math.log(cells.widths["things"]))
    assert even["letters"] == pytest.approx(2 * math.log(1 + len(LETTERS)), rel=1e-5)
    none = logits.clone()
    cells.split(none)["letters"][:, 0] = 2.0  # "no letter", with some doubt
    total = math.log(math.exp(2) + len(LETTERS))
    assert cells.losses(none, labels)["letters"] == pytest.approx(total + total - 2, rel=1e-5)
    assert cells.split(logits)["letters"].shape == (4, 1 + len(LETTERS), 4, 16)
    assert sum(cells.losses(perfect(cells, labels), labels).values()) < 1e-6
    hidden = {name: torch.full_like(part, UNKNOWN) for name, part in labels.items()}
    assert sum(cells.losses(logits, hidden).values()) == 0


def test_styles_are_named_where_there_are_several():
    assert "styles" not in WorldLabels(world=SIGNS).open().names
    cells, asked = WorldLabels(world=SECOND).open(), records(SECOND, 12)
    wanted = cells.labels(asked)
    styles = {thing.style for record in asked for thing in record.meta["scene"].objects if thing.kind == "sprite"}
    assert {STYLES[index] for index in wanted["styles"].unique().tolist() if index != UNKNOWN} <= styles
    assert len(styles) == 3
    scores = cells.scores(perfect(cells, wanted), asked)
    assert scores["things"] == scores["styles"] == 1.0
    wrong = {**wanted, "styles": torch.where(wanted["styles"] == 0, 1, 0)}
    assert cells.scores(perfect(cells, wrong), asked)["styles"] == 0.0


def test_pages_name_their_letters_and_pictures():
    data = PosterData(pages=PageConfig(width=128, height=128, words=(1, 12))).open()
    asked = [data.record(index) for index in range(24)]
    world = dataclasses.replace(SECOND, width=128, height=128, things=72)
    cells = WorldLabels(world=world, letters=LETTERS).open()
    wanted = cells.labels(asked)
    named = 0
    for row, record in enumerate(asked):
        page = record.meta["page"]
        seen = {LETTERS[index - 1] for index in wanted["letters"][row].unique().tolist() if index > 0}
        assert seen <= {letter.lower() for letter, *_ in letter_boxes(page)}
        for picture in page.pictures:
            left, top, right, bottom = picture_box(picture, 128, 128)
            cell = (top + bottom) // 2 // 16 * 8 + (left + right) // 2 // 16
            if picture.name in cells.names["things"]:
                assert cells.names["things"][wanted["things"][row, cell]] == picture.name
                assert STYLES[wanted["styles"][row, cell]] == picture.style
                named += 1
    assert named
    assert (wanted["letters"] > 0).sum() > 100
    assert cells.scores(perfect(cells, wanted), asked)["letters"] == 1.0


def test_what_is_no_scene_has_no_known_label_and_sizes_must_agree():
    cells = WorldLabels(world=SIGNS, letters=LETTERS).open()
    photograph = Record(name="cat.jpg", size=(64, 64))
    labels = cells.labels([*records(SIGNS, 1), photograph])
    assert all((part[1] == UNKNOWN).all() for part in labels.values())
    assert labels["letters"].shape == (2, 4, 16)
    for size in ((64, 80), (60, 64)):
        with pytest.raises(ValueError, match=r"one size in 16s"):
            cells.labels([photograph, Record(name="dog.jpg", size=size)])


def test_a_recipe_names_them():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Recipe:
        labels: Labels

    globals()["Recipe"] = Recipe  # where its types are looked up
    assert build(Recipe, {"labels": {"kind": "world", "world": {"sprites": 2}, "letters": "ab"}}).labels.letters == "ab"
    with pytest.raises(ValueError, match="once"):
        WorldLabels(world=SIGNS, letters="aa")
