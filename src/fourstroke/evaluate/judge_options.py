"""Judges as the command line names them: `NAME:key=value,key.sub=value`, or a YAML file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fourstroke.evaluate.judges import JudgeKind
from fourstroke.recipe import build, load_kind, put_value, resolved
from fourstroke.registry import find

ANSWERS = "answers.sqlite"


def parse_judge(words: str, given: Mapping[str, Any]) -> JudgeKind:
    """A judge from `NAME`, `NAME:key=value,key.sub=value`, or a YAML file that names its kind and options.

    `given` are further options, for those kinds that have them.

    Raises:
        ValueError: if there is no such judge, or an option that it does not have or take; RecipeError is one.
    """
    if words.endswith((".yaml", ".yml", ".json")):
        kind: JudgeKind = load_kind("judges", Path(words))
        return dataclasses.replace(kind, **{k: v for k, v in _fitting(kind, given).items() if getattr(kind, k) is None})  # type: ignore[type-var]
    match = re.fullmatch(r"([^=]+?)(?::([\w.]+=.*))?", words, re.S)
    if match is None:
        raise ValueError(f"--judge {words}: write NAME, NAME:key=value,key=value or a YAML file")
    found = find("judges", match[1])
    tree: dict[str, Any] = {k: v for k, v in _fitting(found, given).items() if v is not None}
    for word in _split(match[2] or ""):
        name, equal, text = word.partition("=")
        if not equal:
            raise ValueError(f"--judge {words}: {word!r} should read key=value")
        put_value(tree, name.strip(), text, f"--judge {words}")
    return build(found, {k: _plain(v) for k, v in tree.items()}, f"--judge {match[1]}")


def settings(kind: JudgeKind) -> dict[str, Any]:
    """The judge's options and versions, without keys of endpoints."""
    told = resolved(kind)
    if isinstance(endpoint := told["recipe"].get("endpoint"), dict):
        endpoint.pop("key", None)
    return told


def _fitting(kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in given.items() if name in names}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _split(text: str) -> list[str]:
    """At commas that stand in no brackets."""
    parts, depth, start = [], 0, 0
    for place, character in enumerate(text):
        depth += (character in "[{(") - (character in "]})")
        if character == "," and not depth:
            parts.append(text[start:place])
            start = place + 1
    return [part for part in (*parts, text[start:]) if part.strip()]
