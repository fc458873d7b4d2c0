"""The scene graph: everything a picture shows, as plain data that can be checked, edited and written as JSON.

Places are fractions of the picture: ``x`` of its width from the left, ``y`` of its height from the top. Sizes are
fractions of its shorter side; the longer side of an object's tight box equals its ``size``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fourstroke.world.chance import stable_fraction

Split = Literal["train", "heldout"]
HELD_OUT_SHARE = 0.1
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@dataclass(frozen=True, kw_only=True)
class Object:
    """One thing in the scene: a sprite, or a shape with a colour."""

    name: str
    kind: Literal["sprite", "shape"]
    colour: str | None = None
    x: float
    y: float
    size: float

    @property
    def title(self) -> str:
        """The name with its colour, as captions say it: ``cat``, ``red circle``."""
        return f"{self.colour} {self.name}" if self.colour else self.name

    @property
    def place(self) -> str:
        """Where the centre lies: ``center``, ``left``, ``right``, ``top`` or ``bottom``, whichever it leans to most."""
        dx, dy = self.x - 0.5, self.y - 0.5
        if max(abs(dx), abs(dy)) < 0.1:
            return "center"
        if abs(dx) >= abs(dy):
            return "left" if dx < 0 else "right"
        return "top" if dy < 0 else "bottom"


@dataclass(frozen=True, kw_only=True)
class Relation:
    """``subject`` stands ``predicate`` ``object``; both are indices into the scene's objects."""

    subject: int
    predicate: Literal["left of", "right of", "above", "below"]
    object: int


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

    @property
    def place(self) -> str:
        """``center``, ``top`` or ``bottom``."""
        return "center" if abs(self.y - 0.5) < 0.1 else "top" if self.y < 0.5 else "bottom"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture before it is drawn; ``width`` and ``height`` in pixels."""

    width: int
    height: int
    layout: Literal["alone", "pair", "row", "column", "pyramid", "funnel", "sign"]
    background: Background
    objects: tuple[Object, ...]
    relations: tuple[Relation, ...] = ()
    sign: Sign | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON; ``Scene.from_dict`` reads it back."""
        plain = asdict(self)
        return plain | {"objects": list(plain["objects"]), "relations": list(plain["relations"])}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Scene:
        """The scene that ``to_dict`` wrote."""
        return cls(
            width=plain["width"],
            height=plain["height"],
            layout=plain["layout"],
            background=Background(**plain["background"]),
            objects=tuple(Object(**entry) for entry in plain["objects"]),
            relations=tuple(Relation(**entry) for entry in plain["relations"]),
            sign=None if plain["sign"] is None else Sign(**plain["sign"]),
        )


def combinations(scene: Scene) -> list[tuple[str, ...]]:
    """What the split looks at: each related pair with its predicate, or the lone object with its background and place.

    ``cat left of dog`` and ``dog right of cat`` are one combination; ``cat right of dog`` is another. The ends of a row
    or a column are a pair too, though its relations name neighbours alone.
    """
    if len(scene.objects) == 1:
        alone = scene.objects[0]
        return [("alone", alone.title, scene.background.colour or "transparent", alone.place)]
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
        verdicts.add(any(is_held_out(*combination) for combination in combinations(scene)))
    if scene.sign is not None:
        verdicts.add(is_held_out("word", scene.sign.word))
    if len(verdicts) != 1:
        return None
    return "heldout" if verdicts.pop() else "train"
