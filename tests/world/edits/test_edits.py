"""Edits do what they say and nothing else: the graph, the pictures inside and outside the region, the words."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fourstroke.recipe import load_recipe
from fourstroke.world import WorldConfig, split_of
from fourstroke.world.captions.wordings import read_wordings, wordings_of
from fourstroke.world.edits import KINDS, Edit, EditConfig, Edits, allowed
from fourstroke.world.graph import Scene
from fourstroke.world.snap import snapped
from fourstroke.world.words import letters_of

CONFIG = load_recipe(WorldConfig, Path(__file__).parents[3] / "recipes" / "micro" / "world.yaml")
EDITS = Edits(EditConfig(world=CONFIG))
SEEDS = range(240)


@pytest.fixture(scope="module")
def drawn() -> list[Edit]:
    return [EDITS.edit(seed) for seed in SEEDS]


def units(scene: Scene) -> set[tuple[object, ...]]:
    """What the scene shows, without its order."""
    return {
        (first.title, first.style, len(unit), round(first.x, 3), round(first.y, 3))
        for unit in scene.units
        for first in (scene.objects[unit[0]],)
    }


def test_all_kinds_come_and_survive_json(drawn):
    assert {edit.kind for edit in drawn} == set(KINDS)
    assert all(Edit.from_dict(json.loads(json.dumps(edit.to_dict()))) == edit for edit in drawn)


def test_every_machine_draws_and_says_the_same(drawn):
    said = [EDITS.instruction(edit, rich, seed) for seed, edit in enumerate(drawn[:40]) for rich in (False, True)]
    plain = json.dumps([edit.to_dict() for edit in drawn[:40]]) + "\n".join(said)
    assert hashlib.sha256(plain.encode()).hexdigest()[:16] == "107f92579da7d11f"


def test_pictures_change_inside_the_region_only(drawn):
    for edit in drawn:
        (before, *_), after = EDITS.render(edit)
        difference = np.abs(before.astype(int) - after.astype(int)).max(2) > 24
        inside = allowed(edit) > 0
        assert difference[inside].mean() > 0.01, edit.kind
        assert (difference & ~inside).mean() < 0.002, edit.kind
        assert 0 < inside.mean() < 1, edit.kind


def test_words_change_to_such_as_the_world_writes():
    world = replace(CONFIG, words=1.0, scripts=("chinese", "latin"), characters=100, max_word_length=5)
    kinds = tuple(float(kind == "words") for kind in KINDS)
    edits = [Edits(EditConfig(world=world, kinds=kinds)).edit(seed) for seed in range(80)]
    signs = [edit.after.sign for edit in edits if edit.after.sign is not None]
    assert len(signs) == 80
    assert {letter for sign in signs for letter in sign.word} <= set(letters_of("chinese", 100) + letters_of("latin"))
    assert max(len(sign.word) for sign in signs) == 5
    half = replace(world, scripts=("latin",), capitals=0.5)
    changed = [Edits(EditConfig(world=half, kinds=kinds)).edit(seed) for seed in range(40)]
    pairs = [(edit.before[0].sign.word, edit.after.sign.word) for edit in changed]
    assert all(old.isupper() == new.isupper() and old != new for old, new in pairs)
    assert {old.isupper() for old, _ in pairs} == {True, False}


def test_the_graph_changes_as_the_kind_says(drawn):
    for edit in drawn:
        before, after = units(edit.before[0]), units(edit.after)
        gone, new = before - after, after - before
        expected = {"add": (0, 1), "combine": (0, 1), "remove": (1, 0), "swap": (2, 2), "words": (0, 0)}
        expected |= {"background": (0, 0)} | dict.fromkeys(("recolour", "replace", "move"), (1, 1))
        if edit.kind in expected:
            assert (len(gone), len(new)) == expected[edit.kind], edit.kind
        else:
            assert len(gone) == len(new) >= 1
        assert (edit.before[0].sign != edit.after.sign) == (edit.kind == "words")
        assert (edit.before[0].background != edit.after.background) == (edit.kind == "background")
        if edit.kind == "combine":
            (lent,) = edit.before[1].objects
            assert lent.title in {edit.after.objects[index].title for index in edit.new}


def test_what_is_moved_lent_or_written_anew_lies_on_the_lattice(drawn):
    for edit in drawn:
        assert all(snapped(scene, CONFIG.snap) == scene for scene in edit.before[1:])
        if edit.kind in ("move", "swap", "words"):
            assert snapped(edit.after, CONFIG.snap) == edit.after, edit.kind


def test_what_is_related_stands_so(drawn):
    signs = {"left of": ("x", -1), "right of": ("x", 1), "above": ("y", -1), "below": ("y", 1)}
    for edit in drawn:
        for relation in edit.after.relations:
            if relation.predicate in signs:
                axis, sign = signs[relation.predicate]
                a, b = (getattr(edit.after.objects[i], axis) for i in (relation.subject, relation.object))
                assert sign * (a - b) > 0.1


def test_splits_are_apart(drawn):
    assert {split_of(edit.after) for edit in drawn} == {"train"}
    assert {split_of(EDITS.edit(seed, "heldout").after) for seed in range(30)} == {"heldout"}


def test_instructions_name_what_changes(drawn):
    for seed, edit in enumerate(drawn):
        asked = EDITS.instruction(edit, False, seed)
        named = (
            {edit.after.objects[index].title for index in edit.new[:1]} if edit.kind in ("add", "combine") else set()
        )
        if edit.kind in ("remove", "recolour", "replace", "move", "swap"):
            named = {edit.before[0].objects[edit.old[0]].title}
        if edit.kind == "words":
            named = {f'"{edit.after.sign.word}"'}
        if len(edit.old or edit.new) == 1 or edit.kind in ("words", "swap"):
            assert all(name in asked for name in named), (edit.kind, asked)
        rich = EDITS.instruction(edit, True, seed)
        assert len(rich) > len(asked) * 0.8
        assert rich.count(". ") + rich.count("? ") >= 1
        assert "None" not in rich + asked
        assert "  " not in rich + asked


def test_brief_instructions_still_find_what_they_mean(drawn):
    brief = Edits(replace(EDITS.config, brief=1.0))
    shorter = pronouns = 0
    for seed, edit in enumerate(drawn):
        scene, asked = edit.before[0], brief.instruction(edit, False, seed)
        if edit.kind not in ("remove", "recolour", "replace", "move"):
            continue
        first = scene.objects[edit.old[0]]
        alike = [unit for unit in scene.units if scene.objects[unit[0]].name == first.name]
        if " it" in f" {asked}".replace("so that it", ""):
            assert len(scene.objects) == 1
            assert scene.sign is None
            pronouns += 1
        elif len(alike) > 1:
            assert first.title in asked
        else:
            assert f"the {first.title}" not in asked or not first.colour
        shorter += len(asked) < len(EDITS.instruction(edit, False, seed))
    assert shorter > 10
    assert pronouns > 2


def test_some_wordings_are_held_out():
    for kind in read_wordings("edits-en"):
        assert not set(wordings_of("edits-en", kind, "trained")) & set(wordings_of("edits-en", kind, "heldout"))
        assert wordings_of("edits-en", kind, "heldout")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"world": replace(CONFIG, words=0.0)}, "words are changed on signs"),
        ({"world": CONFIG, "kinds": (1.0,)}, "give 10 weights"),
        ({"world": WorldConfig()}, "second edition"),
    ],
)
def test_wrong_configurations_say_so(wrong, message):
    with pytest.raises(ValueError, match=message):
        EditConfig(**wrong)


def test_a_whole_picture_of_many_things_is_restyled():
    world = replace(CONFIG, groups=1.0, words=0.0)
    edits = Edits(EditConfig(world=world, kinds=tuple(float(kind == "restyle") for kind in KINDS)))
    seed = next(seed for seed in range(200) if len(edits.edit(seed).new) > 2)
    edit = edits.edit(seed)
    assert len(edit.new) == len(edit.after.objects)
    assert edits.instruction(edit, True, seed)
