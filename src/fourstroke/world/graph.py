"""The scene graph: everything a picture shows, as plain data that can be checked, edited and written as JSON.

Places are fractions of the picture: ``x`` of its width from the left, ``y`` of its height from the top. Sizes are
fractions of its shorter side; the longer side of an object's tight box equals its ``size``.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fourstroke.chance import stable_fraction

Split = Literal["train", "heldout"]
HELD_OUT_SHARE = 0.1
Style = Literal["flat", "3d", "clip-art", "rendered"]
Scale = Literal["small", "medium", "large"]
Layout = Literal["alone", "pair", "front", "row", "column", "pyramid", "funnel", "sign"]
Predicate = Literal["left of", "right of", "above", "below", "in front of"]
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above", "in front of": "behind"}


@dataclass(frozen=True, kw_only=True)
class Object:
    """One thing in the scene: a sprite, or a shape with a colour."""

    name: str
    kind: Literal["sprite", "shape"]
    colour: str | None = None
    x: float
    y: float
    size: float
    style: Style = "flat"
    """Whose pictures show it; shapes are always flat."""
    scale: Scale | None = None
    """What captions call its size. Of two things the larger one's size is at least 1.4 times the other's for each
    step between them; a lone thing is small up to 0.3 and large from 0.68 on. None: its size is not spoken of."""

    @property
    def title(self) -> str:
        """The name with its colour, as captions say it: ``cat``, ``red circle``."""
        return f"{self.colour} {self.name}" if self.colour else self.name

    @property
    def place(self) -> str:
        """Where the centre lies (`place_of`)."""
        return place_of(self.x, self.y)


@dataclass(frozen=True, kw_only=True)
class Relation:
    """``subject`` stands ``predicate`` ``object``; both are indices into the scene's objects.

    Of a group the first member is named, and the relation holds for all. What is ``in front of`` another is drawn
    later, stands lower and hides a part of it.
    """

    subject: int
    predicate: Predicate
    object: int


@dataclass(frozen=True, kw_only=True)
class Group:
    """Two to four equal things that belong together, as indices into the scene's objects."""

    indices: tuple[int, ...]
    form: Literal["row", "column", "cluster"]

    @property
    def number(self) -> int:
        """How many there are."""
        return len(self.indices)


@dataclass(frozen=True, kw_only=True)
class Background:
    """What lies behind the objects.

    ``flat`` shows ``colour``; ``gradient`` runs from ``colour`` at the top to ``second`` at the bottom; ``horizon``
    sets a wall of ``colour`` above a floor of ``second`` at height ``horizon``; ``transparent`` shows nothing.
    """

    kind: Literal["flat", "gradient", "horizon", "transparent"]
    colour: str | None = None
    second: str | None = None
    horizon: float | None = None
    texture: str = "plain"
    light: str = "even"
    edge: Literal["clean", "soft"] = "clean"
    """How stickers end."""

    @property
    def colours(self) -> tuple[str, ...]:
        """The named colours that it shows, top first."""
        return tuple(colour for colour in (self.colour, self.second) if colour is not None)


@dataclass(frozen=True, kw_only=True)
class Sign:
    """A board with one word; ``width`` and ``height`` are fractions of the picture's."""

    word: str
    script: str
    font: str
    board: str
    ink: str
    x: float
    y: float
    width: float
    height: float
    pitch: float = 0.0
    """Of the picture's width, what a letter takes, in a size that goes by it; 0 sets the word as large as it fits."""

    @property
    def place(self) -> str:
        """``center``, ``top`` or ``bottom``."""
        return "center" if abs(self.y - 0.5) < 0.1 else "top" if self.y < 0.5 else "bottom"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture before it is drawn; ``width`` and ``height`` in pixels."""

    width: int
    height: int
    layout: Layout
    """How the units stand: a group is one, and so is each thing that stands for itself."""
    background: Background
    objects: tuple[Object, ...]
    relations: tuple[Relation, ...] = ()
    sign: Sign | None = None
    groups: tuple[Group, ...] = ()
    stated: bool = True
    """Whether captions say the relations; they hold in any case."""
    in_order: bool = False
    """Whether captions that do not say them name things from left to right and from top to bottom."""

    @property
    def units(self) -> tuple[tuple[int, ...], ...]:
        """Indices of each group's members and of each thing that stands for itself, in the order of their firsts."""
        grouped = {index: group.indices for group in self.groups for index in group.indices}
        units = (grouped.get(index, (index,)) for index in range(len(self.objects)))
        return tuple(dict.fromkeys(units))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON; ``Scene.from_dict`` reads it back."""
        plain = asdict(self)
        groups = [{**group, "indices": list(group["indices"])} for group in plain["groups"]]
        if self.sign is not None and not self.sign.pitch:
            del plain["sign"]["pitch"]  # written as before there was one
        if not self.in_order:
            del plain["in_order"]
        return plain | {"objects": list(plain["objects"]), "relations": list(plain["relations"]), "groups": groups}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Scene:
        """The scene that ``to_dict`` wrote, in this or the first edition."""
        return cls(
            width=plain["width"],
            height=plain["height"],
            layout=plain["layout"],
            background=Background(**plain["background"]),
            objects=tuple(Object(**entry) for entry in plain["objects"]),
            relations=tuple(Relation(**entry) for entry in plain["relations"]),
            sign=None if plain["sign"] is None else Sign(**plain["sign"]),
            groups=tuple(Group(indices=tuple(g["indices"]), form=g["form"]) for g in plain.get("groups", ())),
            stated=plain.get("stated", True),
            in_order=plain.get("in_order", False),
        )


def place_of(x: float, y: float) -> str:
    """Which part of the picture a point leans to most: ``center``, ``left``, ``right``, ``top`` or ``bottom``."""
    dx, dy = x - 0.5, y - 0.5
    if max(abs(dx), abs(dy)) < 0.1:
        return "center"
    if abs(dx) >= abs(dy):
        return "left" if dx < 0 else "right"
    return "top" if dy < 0 else "bottom"


def combinations(scene: Scene) -> list[tuple[str, ...]]:
    """What the split looks at: what captions put together of the objects.

    Each related pair with its predicate, or the pair alone where relations are not stated; a group's number and thing;
    a larger and a smaller thing; a lone object with its background and place. ``cat left of dog`` and ``dog right of
    cat`` are one combination; ``cat right of dog`` is another. The ends of a row or a column are a pair too, though its
    relations name neighbours alone.
    """
    found: list[tuple[str, ...]] = [
        ("count", str(group.number), scene.objects[group.indices[0]].title) for group in scene.groups
    ]
    firsts = [scene.objects[unit[0]] for unit in scene.units]
    scaled = [entry for entry in firsts if entry.scale is not None]
    if len(firsts) == 1:
        if not scene.groups:
            found.append(("alone", firsts[0].title, scene.background.colour or "transparent", firsts[0].place))
        return found
    for larger, smaller in itertools.permutations(scaled, 2):
        if larger.size > smaller.size:
            found.append(("sizes", larger.title, smaller.title))
    if scene.stated:
        return found + _related(scene)
    return found + [("pair", *sorted((a.title, b.title))) for a, b in itertools.combinations(firsts, 2)]


def _related(scene: Scene) -> list[tuple[str, ...]]:
    pairs: list[tuple[str, ...]] = []
    for relation in _implied(scene.relations):
        subject, predicate, other = (
            scene.objects[relation.subject].title,
            str(relation.predicate),
            scene.objects[relation.object].title,
        )
        if subject > other:
            subject, predicate, other = other, INVERSE[predicate], subject
        pairs.append(("pair", subject, predicate, other))
    return pairs


def _implied(relations: Sequence[Relation]) -> list[Relation]:
    """The relations, and what follows from two of one predicate in a chain."""
    chains = [
        Relation(subject=first.subject, predicate=first.predicate, object=second.object)
        for first in relations
        for second in relations
        if first.object == second.subject and first.predicate == second.predicate
    ]
    return [*relations, *chains]


def is_held_out(*combination: str) -> bool:
    """Whether a combination, or a word, is kept from training: a tenth of them, by a stable hash."""
    return stable_fraction(*combination) < HELD_OUT_SHARE


def split_of(scene: Scene) -> Split | None:
    """``heldout`` if a combination of the objects is and the word is, ``train`` if none is, None for a mix."""
    verdicts = set()
    if scene.objects:
        held_out = any(is_held_out(*combination) for combination in combinations(scene))
        if not scene.stated and not held_out and any(is_held_out(*combination) for combination in _related(scene)):
            return None  # not said, but to be seen
        verdicts.add(held_out)
    if scene.sign is not None:
        verdicts.add(is_held_out("word", scene.sign.word.lower()))
    if len(verdicts) != 1:
        return None
    return "heldout" if verdicts.pop() else "train"
