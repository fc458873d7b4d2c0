"""Kinds are found by name, in installed packages' entry points and by their place; a recipe builds them strictly."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest

from fourstroke import registry
from fourstroke.recipe import RecipeError, load_recipe, resolved
from fourstroke.registry import Registered, find, offer


@dataclass(frozen=True, kw_only=True)
class Pebbles:
    kind: ClassVar[str] = "pebbles"
    count: int = 3


@dataclass(frozen=True, kw_only=True)
class Weighed:
    kind: ClassVar[str] = "guest"
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    data: Annotated[Pebbles, Registered("datasets")]
    more: tuple[Annotated[Pebbles, Registered("datasets")], ...] = ()


@pytest.fixture(autouse=True)
def _offered(monkeypatch):
    monkeypatch.setitem(registry._offered, "datasets", {})
    offer("datasets", pebbles=f"{__name__}:Pebbles")


def test_kinds_are_found_by_name_by_place_and_in_other_packages(monkeypatch):
    point = importlib.metadata.EntryPoint("guest", f"{__name__}:Pebbles", "fourstroke.datasets")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == point.group else [])
    assert (
        find("datasets", "pebbles") is find("datasets", "guest") is find("datasets", f"{__name__}:Pebbles") is Pebbles
    )


def test_an_unknown_kind_names_the_near_one():
    with pytest.raises(ValueError, match="did you mean 'pebbles'"):
        find("datasets", "pebble")
    with pytest.raises(ValueError, match="cannot be imported"):
        find("datasets", "no_such_module:Thing")


def test_a_recipe_holds_what_its_kind_takes(tmp_path):
    (tmp_path / "stones.yaml").write_text("kind: pebbles\ncount: 5\n")
    (tmp_path / "r.yaml").write_text("data: {kind: pebbles}\nmore: [stones.yaml, {kind: pebbles, count: 7}]\n")
    recipe = load_recipe(Recipe, tmp_path / "r.yaml", ["data.count=4"])
    assert recipe == Recipe(data=Pebbles(count=4), more=(Pebbles(count=5), Pebbles(count=7)))
    assert resolved(recipe)["recipe"]["data"] == {"kind": "pebbles", "count": 4}


def test_several_kinds_are_a_list_or_a_group_by_name(tmp_path):
    (tmp_path / "r.yaml").write_text("data: {kind: pebbles}\nmore: {pebbles: {count: 5}, guest: 0.5}\n")
    offer("datasets", guest=f"{__name__}:Weighed")
    recipe = load_recipe(Recipe, tmp_path / "r.yaml", ["more.pebbles.count=6"])
    assert recipe.more == (Pebbles(count=6), Weighed(weight=0.5))
    with pytest.raises(RecipeError, match=r"more: guest should be a weight or a group of options, found 'x'"):
        load_recipe(Recipe, tmp_path / "r.yaml", ["more.guest=x"])


@pytest.mark.parametrize(
    ("data", "said"),
    [("{kind: pebbles, size: 2}", "unknown key 'size'"), ("{count: 2}", "name its kind"), ("{kind: x}", "no 'x'")],
)
def test_a_wrong_kind_or_key_is_one_line(tmp_path, data, said):
    (tmp_path / "r.yaml").write_text(f"data: {data}\n")
    with pytest.raises(RecipeError, match=said):
        load_recipe(Recipe, tmp_path / "r.yaml")
