"""An edit as plain data: the scenes that it starts from, the one that it ends in, and which of its units changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from fourstroke.world.graph import Group, Layout, Object, Relation, Scene

EditKind = Literal["add", "remove", "recolour", "replace", "move", "swap", "restyle", "words", "background", "combine"]
KINDS: tuple[EditKind, ...] = (
    "add",
    "remove",
    "recolour",
    "replace",
    "move",
    "swap",
    "restyle",
    "words",
    "background",
    "combine",
)


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What is asked, and what it is asked of.

    ``before`` are the input pictures; all but the first only lend a thing (``combine``). ``old`` and ``new`` are
    indices of the objects that change, in the first scene before and in the one after.
    """

    kind: EditKind
    before: tuple[Scene, ...]
    after: Scene
    old: tuple[int, ...] = ()
    new: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON; ``Edit.from_dict`` reads it back."""
        return {
            "kind": self.kind,
            "before": [scene.to_dict() for scene in self.before],
            "after": self.after.to_dict(),
            "old": list(self.old),
            "new": list(self.new),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Edit:
        """The edit that ``to_dict`` wrote."""
        return cls(
            kind=plain["kind"],
            before=tuple(map(Scene.from_dict, plain["before"])),
            after=Scene.from_dict(plain["after"]),
            old=tuple(plain["old"]),
            new=tuple(plain["new"]),
        )


def without(scene: Scene, gone: tuple[int, ...]) -> Scene:
    """The scene without some of its objects, a whole unit; what was said of them goes too."""
    kept = [index for index in range(len(scene.objects)) if index not in gone]
    place = {index: position for position, index in enumerate(kept)}
    relations = [
        Relation(subject=place[r.subject], predicate=r.predicate, object=place[r.object])
        for r in scene.relations
        if r.subject in place and r.object in place
    ]
    if len(scene.units) == 3 and not relations and len(scene.relations) == 2:
        relations = _joined(scene, place)
    groups = tuple(
        Group(indices=tuple(place[index] for index in group.indices), form=group.form)
        for group in scene.groups
        if group.indices[0] in place
    )
    rest = len(scene.units) - 1
    layout: Layout = "sign" if not rest else "alone" if rest == 1 else "pair"
    objects = tuple(scene.objects[index] for index in kept)
    if rest == 1:
        objects = tuple(replace(entry, scale=None) for entry in objects)
    stated = scene.stated and (bool(relations) or rest < 2)
    return replace(scene, layout=layout, objects=objects, relations=tuple(relations), groups=groups, stated=stated)


def changed(scene: Scene, indices: tuple[int, ...], **fields: Any) -> Scene:
    """The scene with fields of some objects set anew."""
    objects = list(scene.objects)
    for index in indices:
        objects[index] = replace(objects[index], **fields)
    return replace(scene, objects=tuple(objects))


def unit_of(scene: Scene, index: int) -> tuple[int, ...]:
    """The unit that an object belongs to."""
    return next(unit for unit in scene.units if index in unit)


def title_of(scene: Scene, unit: tuple[int, ...]) -> tuple[str, str | None]:
    """Name and colour of a unit; no two units of a scene have the same."""
    first: Object = scene.objects[unit[0]]
    return first.name, first.colour


def _joined(scene: Scene, place: Mapping[int, int]) -> list[Relation]:
    """What holds between the ends of a row or column when the middle is gone."""
    first, second = scene.relations
    if first.object != second.subject or first.predicate != second.predicate:
        return []
    return [Relation(subject=place[first.subject], predicate=first.predicate, object=place[second.object])]
