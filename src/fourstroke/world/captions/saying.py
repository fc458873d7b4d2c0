"""What every language needs to know of a scene before it says it: its kind, and its things in an order."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fourstroke.chance import pick
from fourstroke.world.atlas import INDEX
from fourstroke.world.graph import INVERSE, Scale, Scene, place_of

StyleSaid = Literal["each", "all", "none"]
"""Whether captions give each thing its style, or say it once, or not at all."""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A thing, or some equal ones, as captions speak of it."""

    name: str
    colour: str | None
    style: str
    number: int
    form: str
    """How several stand: ``row``, ``column`` or ``cluster``."""
    scale: Scale | None
    size: float
    place: str


def things_of(scene: Scene) -> list[Thing]:
    """The scene's units, in the order of its objects."""
    forms = {group.indices: group.form for group in scene.groups}
    found = []
    for unit in scene.units:
        members = [scene.objects[index] for index in unit]
        first = members[0]
        x, y = (sum(getattr(member, axis) for member in members) / len(members) for axis in "xy")
        found.append(
            Thing(
                name=first.name,
                colour=first.colour,
                style=first.style,
                number=len(unit),
                form=forms.get(unit, "row"),
                scale=first.scale,
                size=first.size,
                place=place_of(x, y),
            )
        )
    return found


def kind_of(scene: Scene) -> str:
    """The heading under which the sentences for the scene stand in `wordings/`."""
    things = scene.units
    if scene.sign is not None:
        return ("sign", "sign one", "sign pair")[len(things)]
    if len(things) == 1:
        return "count" if scene.groups else "alone"
    if scene.layout == "front":
        return "front"
    if not scene.stated:
        scaled = len(things) == 2 and scene.objects[0].scale is not None
        return "sizes" if scaled else ("two", "three")[len(things) - 2]
    return "pair" if len(things) == 2 else "line" if scene.layout in ("row", "column") else "corners"


def ordered(scene: Scene, kind: str, rng: np.random.Generator) -> tuple[list[Thing], str]:
    """The things as a caption names them, with the predicate that holds between the first two ("" where none is said).

    In front: the nearer first. A line: from either end; its predicate is that of neighbours. Corners: the lone one,
    then the left and the right one. Where no relation is said, in any order, or in that of reading (`Scene.in_order`).
    """
    things = things_of(scene)
    predicate = str(scene.relations[0].predicate) if scene.relations and scene.stated else ""
    if kind == "front":
        return things[::-1], predicate
    turned = len(things) > 1 and rng.random() < 0.5
    if kind in ("pair", "sign pair", "line"):
        return (things[::-1], INVERSE[predicate]) if turned else (things, predicate)
    if kind in ("two", "three", "sizes") and scene.in_order:
        return _as_read(scene, things), ""
    if kind in ("two", "three", "sizes"):
        return [things[int(place)] for place in rng.permutation(len(things))], ""
    return things, predicate


def _as_read(scene: Scene, things: list[Thing]) -> list[Thing]:
    """From left to right, and the upper ones first."""
    if scene.layout in ("pyramid", "funnel"):
        return things if scene.layout == "pyramid" else [*things[1:], things[0]]
    relation = scene.relations[0]
    forwards = (relation.subject < relation.object) == (relation.predicate in ("left of", "above"))
    return things if forwards else things[::-1]


def style_said(scene: Scene, rng: np.random.Generator, always: bool = False) -> StyleSaid:
    """How the caption says styles: always each where they differ; a fourth of the others not at all."""
    styles = [entry.style for entry in scene.objects if entry.kind == "sprite"]
    if not styles:
        return "none"
    if len(set(styles)) > 1:
        return "each"
    said: StyleSaid = "all" if len(styles) == len(scene.objects) and rng.random() < 0.5 else "each"
    return "none" if not always and rng.random() < 0.25 else said


@functools.lru_cache(maxsize=1)
def read_names() -> dict[str, Any]:
    """`assets/names.json` with the shapes of `words.json`."""
    return json.loads((INDEX.parent / "names.json").read_text("utf-8")) | read_words()["shapes"]


@functools.lru_cache(maxsize=1)
def read_words() -> dict[str, Any]:
    """`assets/words.json`."""
    return json.loads((INDEX.parent / "words.json").read_text("utf-8"))


def fill(template: str, fields: Mapping[str, str]) -> str:
    """The template with its gaps filled."""
    return template.format_map(fields)


def maybe(rng: np.random.Generator, text: str, share: float = 0.5) -> str:
    """The text, or nothing."""
    return text if rng.random() < share else ""


def one_of(rng: np.random.Generator, *texts: str) -> str:
    """One of the texts."""
    return pick(rng, texts)
