"""Reference pages of recipes and registries, from the dataclasses that recipes are read into."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import logging
import pkgutil
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

import fourstroke
from docstrings import attributes, cell, markdown
from fourstroke import commands, registry
from fourstroke.ranges import Range
from fourstroke.recipe import load_recipe
from fourstroke.registry import Registered

log = logging.getLogger("mkdocs.fourstroke")
ROOT = Path(__file__).resolve().parents[2]
GROUPS: dict[str, str] = {
    "datasets": "What a recipe's `data` may be: samples with a picture, captions and, for edits, input images.",
    "filters": "What a recipe's `data.filters` may be: reasons to leave a sample out.",
    "labels": "What each cell of a picture shows, for `semantics` and for `train features`.",
    "objectives": "What `train distill` trains the student by.",
    "losses": "The terms of `train vae`'s objective.",
    "judges": "What scores pictures.",
    "validators": "What looks at a model while it is trained, and chooses the checkpoint.",
    "rewards": "What `train enhance-rl` rewards.",
    "caption_rules": "Rules by which `fourstroke data degrade` takes captions apart without a language model.",
    "trackers": "Where `run.tracker` sends curves and sheets, beside `log.jsonl`.",
    "evaluations": "What `fourstroke eval` offers.",
    "chapters": "What `fourstroke eval report` has tables and pictures of.",
    "suites": "What `fourstroke eval prompts` draws, from the user's download.",
}


def pages() -> dict[str, str]:
    """By path, the pages of all stages, an index of them, and the page of kinds."""
    made = {f"reference/recipes/{stage}.md": stage_page(stage) for stage in commands.STAGES}
    made["reference/recipes/index.md"] = index()
    made["reference/kinds.md"] = kinds_page()
    return made


def stage_recipe(stage: str) -> type:
    """The dataclass of a stage's recipe."""
    module, name, _ = commands.STAGES[stage]
    return typing.cast(type, getattr(importlib.import_module(f"fourstroke.train.{module}"), name))


def index() -> str:
    """What recipes are, and where each stage's stands."""
    rows = [f"| [`train {s}`]({s}.md) | {cell(_first(stage_recipe(s)))} |" for s in commands.STAGES]
    import fourstroke.recipe

    return "\n".join(
        ["# Recipes", "", markdown(fourstroke.recipe.__doc__), "", "| stage | recipe |", "|---|---|", *rows, ""]
    )


def stage_page(stage: str) -> str:
    """Every key of a stage's recipe, with those of the groups within it."""
    kind = stage_recipe(stage)
    text = [f"---\ntitle: train {stage}\n---\n\n# `train {stage}`: its recipe", "", markdown(kind.__doc__), ""]
    if examples := [path for path in sorted((ROOT / "recipes").rglob("*.yaml")) if _reads(kind, path)]:
        links = [f"[`{p.relative_to(ROOT)}`]({'../' * 3}{p.relative_to(ROOT)})" for p in examples]
        text += ["Recipes in the tree: " + ", ".join(links) + ".", ""]
    text += ["    " + f"fourstroke train {stage} --recipe RECIPE.yaml key=value …", ""]
    places = {kind: ""}
    waiting = [("", kind)]
    while waiting:
        above, owner = waiting.pop(0)
        for place, group in nested(owner, above):
            if group not in places:
                places[group] = place
                waiting.append((place, group))
    for group, place in places.items():
        if place:
            text += [f"## `{place}` {{#{_anchor(place)}}}", "", f"*{group.__name__}.* {markdown(group.__doc__)}", ""]
        text += table(group, place, places)
    return "\n".join(text)


def table(kind: type, place: str = "", places: dict[type, str] | None = None) -> list[str]:
    """The keys of a dataclass at `place`: type with range, default, meaning; `places` has tables of their own."""
    fields = [f for f in dataclasses.fields(kind) if f.init]  # type: ignore[arg-type]
    if not fields:
        return ["No keys.", ""]
    hints, notes = typing.get_type_hints(kind, include_extras=True), attributes(kind)
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for field in fields:
        prefix = f"{place}." if place else ""
        said = notes.get(field.name) or " ".join(_first(inner) for _, inner in _groups(hints[field.name]))
        shown = describe(hints[field.name])
        for _, inner in _groups(hints[field.name]):
            if places:
                shown = shown.replace("group", f"[{inner.__name__}](#{_anchor(places[inner])})", 1)
        rows.append(f"| `{prefix}{field.name}` | {shown} | {_default(field)} | {cell(said)} |")
    return [*rows, ""]


def nested(kind: type, place: str) -> Iterator[tuple[str, type]]:
    """The groups of keys within a dataclass."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        for end, inner in _groups(hints[field.name]):
            yield f"{place}.{field.name}".lstrip(".") + end, inner


def _groups(hint: Any) -> Iterator[tuple[str, type]]:
    """The dataclasses within a type, with "[]" before them where there may be several."""
    several = "[]" if get_origin(_bare(hint)) in (tuple, list) else ""
    for inner in _parts(hint):
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            yield several, inner


def _anchor(place: str) -> str:
    return place.replace(".", "-").replace("[]", "").replace("_", "-")


def describe(hint: Any) -> str:
    """A type as a reader of YAML thinks of it, with the range of its numbers."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        group = next((extra.group for extra in arguments[1:] if isinstance(extra, Registered)), None)
        if group:
            return f"one of the [{group.replace('_', ' ')}](/reference/kinds.md#{group.replace('_', '-')})"
        ranges = [str(extra) for extra in arguments[1:] if isinstance(extra, Range)]
        return ", ".join([describe(arguments[0]), *ranges])
    if origin in (Union, types.UnionType):
        return " or ".join(describe(option) for option in arguments if option is not type(None))
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (tuple, list):
        inner = arguments[:1] if origin is list or arguments[1:] == (...,) else arguments
        kinds = list(dict.fromkeys(describe(item) for item in inner))
        number = f"{len(inner)} of " if origin is tuple and len(inner) > 1 else ""
        return f"list of {number}{' and '.join(kinds)}"
    if origin is not None and issubclass(origin, typing.Mapping):
        return f"{describe(arguments[0])} to {describe(arguments[1])}"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path", Any: "anything"}
    if dataclasses.is_dataclass(hint):
        return "group"
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def kinds_page() -> str:
    """Every registered kind, by group, with its options."""
    for module in pkgutil.iter_modules(fourstroke.__path__, "fourstroke."):
        if module.ispkg and module.name != "fourstroke.serve":
            importlib.import_module(module.name)  # packages offer their kinds when they are imported
    text = ["# Kinds", "", markdown(registry.__doc__), ""]
    for group in registry.GROUPS:
        text += [f"## {group.replace('_', ' ')} {{#{group.replace('_', '-')}}}", "", GROUPS.get(group, ""), ""]
        if not (known := registry.kinds(group)):
            text += ["None is registered yet.", ""]
        for name in sorted(known):
            try:
                kind = registry.find(group, name)
            except ValueError as error:
                log.warning("%s", error)
                continue
            text += [f"### `{name}` {{#{group.replace('_', '-')}-{name}}}", "", f"`{known[name]}`", ""]
            text += [markdown(_unless_signature(kind)), ""]
            if dataclasses.is_dataclass(kind) and isinstance(kind, type):
                text += table(kind)
                for place, inner in nested(kind, ""):
                    text += [f"`{place}`: {markdown(inner.__doc__)}", "", *table(inner, place)]
    return "\n".join(text)


def _unless_signature(kind: Any) -> str:
    """A docstring; dataclasses without one get their signature for it, which says nothing."""
    said = inspect.getdoc(kind) or ""
    return "" if said.startswith(f"{getattr(kind, '__name__', '')}(") else said


def _first(kind: type) -> str:
    return (inspect.getdoc(kind) or "").split("\n\n")[0]


def _bare(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        return next(option for option in get_args(hint) if option is not type(None))
    return hint


def _parts(hint: Any) -> Iterator[Any]:
    """The classes that a type is made of; a registered kind's protocol is none of them."""
    if get_origin(hint) is ClassVar or any(isinstance(extra, Registered) for extra in get_args(hint)):
        return
    if get_args(hint) and get_origin(hint) is not Literal:
        for inner in get_args(hint):
            yield from _parts(inner)
    else:
        yield hint


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "**required**"
    if dataclasses.is_dataclass(value):
        return "its own"
    if value is None or value == "" or value == () or value == []:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (tuple, list)) and any(map(dataclasses.is_dataclass, value)):
        return f"{len(value)} of its own"
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def _reads(kind: type, path: Path) -> bool:
    """Whether a file of the tree is a recipe of this kind."""
    try:
        load_recipe(kind, path)
    except ValueError:
        return False
    return True
