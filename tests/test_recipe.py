"""Recipes are read strictly, and every bundled one is valid."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from fourstroke.commands import STAGES
from fourstroke.recipe import RecipeError, load_kind, load_recipe, read_tree
from fourstroke.speedrun import MeasureRecipe
from fourstroke.world import WorldConfig

RECIPES = Path(__file__).parents[1] / "recipes"


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 1.0
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner
    name: str | None = None
    out: Path = Path("x")


def _write(tmp_path, text):
    (tmp_path / "r.yaml").write_text(text)
    return tmp_path / "r.yaml"


def test_values_files_and_overrides(tmp_path):
    (tmp_path / "inner.yaml").write_text("rate: 1e-3\nsizes: [3]")
    recipe = load_recipe(Outer, _write(tmp_path, "inner: inner.yaml\nout: here"), ["inner.rate=2", "name=cat"])
    assert recipe == Outer(inner=Inner(rate=2.0, sizes=(3,)), name="cat", out=Path("here"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inner: {rat: 1}", "unknown key 'rat'; did you mean 'rate'"),
        ("name: x", "'inner' is missing"),
        ("inner: {rate: fast}", "rate should be float"),
        ("inner: {sizes: 3}", "sizes should be"),
        ("inner: [", "not valid YAML"),
        ("- 1", "should hold keys"),
        ("inner: other.yaml", "no recipe at"),
    ],
)
def test_bad_recipes_are_one_clear_line(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message) as error:
        load_recipe(Outer, _write(tmp_path, text))
    assert "\n" not in str(error.value)


def test_missing_file_and_bad_override(tmp_path):
    with pytest.raises(RecipeError, match="no recipe at"):
        load_recipe(Outer, tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="key=value"):
        load_recipe(Outer, _write(tmp_path, "inner: {}"), ["rate"])


def test_a_mapping_has_the_keys_of_the_file_that_it_extends(tmp_path):
    (tmp_path / "below").mkdir()
    below = {"kind": "a", "list": [1], "group": {"x": 1, "y": 2}, "other": {"kind": "b", "z": 3}}
    (tmp_path / "below" / "low.yaml").write_text(yaml.safe_dump(below | {"world": "world.yaml"}))
    (tmp_path / "below" / "world.yaml").write_text("things: 3")
    path = _write(
        tmp_path, "extends: below/low.yaml\nlist: [2, 3]\ngroup: {y: 4}\nother: {kind: c}\n"
        "parts: [{extends: below/world.yaml, words: 1}]",
    )  # fmt: skip
    assert read_tree(path) == {
        "kind": "a",
        "list": [2, 3],
        "group": {"x": 1, "y": 4},
        "other": {"kind": "c"},
        "world": {"things": 3},
        "parts": [{"things": 3, "words": 1}],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: 3", "extends should name a YAML file, found 3"),
        ("inner: {extends: micro}", "extends should name a YAML file, found 'micro'"),
        ("extends: r.yaml", "r.yaml names itself"),
        ("inner: {outer: other.yaml}", "r.yaml names itself, by way of .*other.yaml"),
        ("extends: none.yaml", "no recipe at .*none.yaml"),
    ],
)
def test_a_file_that_cannot_be_extended_is_one_clear_line(tmp_path, text, message):
    (tmp_path / "other.yaml").write_text("inner: r.yaml")
    with pytest.raises(RecipeError, match=message) as error:
        load_recipe(Outer, _write(tmp_path, text))
    assert "\n" not in str(error.value)


def _readers(path: Path) -> list[Callable[[], Any]]:
    """What may read a file: a stage's recipe is named after its stage, `vae-pages` after `vae`, or is the dit's."""
    tree = read_tree(path)
    if "run" in tree:
        stage = next((name for name in STAGES if path.stem == name or path.stem.startswith(f"{name}-")), "dit")
        module, recipe, _ = STAGES[stage]
        return [lambda: load_recipe(getattr(importlib.import_module(f"fourstroke.train.{module}"), recipe), path)]
    if "kind" in tree:
        return [lambda: load_kind("datasets", path), lambda: load_kind("labels", path)]
    return [lambda: load_recipe(MeasureRecipe if "evaluations" in tree else WorldConfig, path)]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_bundled_recipes_are_valid(path: Path) -> None:
    failures = []
    for read in _readers(path):
        try:
            read()
            return
        except RecipeError as error:
            failures.append(str(error))
    pytest.fail("; ".join(failures))


def test_there_are_bundled_recipes() -> None:
    assert {"micro/dit.yaml", "7b/dit-pretrain.yaml"} <= {
        str(path.relative_to(RECIPES)) for path in RECIPES.glob("*/*")
    }
