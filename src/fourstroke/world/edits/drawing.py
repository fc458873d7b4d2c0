"""Draws edits by chance: each kind starts from a scene, or takes one apart.

Every function returns None where the scene does not lend itself to its kind: nothing to recolour, no room to move to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fourstroke.chance import pick, uniform
from fourstroke.world.atlas import styles_of
from fourstroke.world.compose import draw_background
from fourstroke.world.edits.graph import Edit, EditKind, changed, title_of, unit_of, without
from fourstroke.world.edits.region import allowed
from fourstroke.world.graph import INVERSE, Background, Object, Relation, Scene, Split, split_of
from fourstroke.world.palette import SHAPE_COLOURS, stands_out
from fourstroke.world.snap import snapped
from fourstroke.world.units import Unit
from fourstroke.world.words import choose_words
from fourstroke.world.world import World

PLACES = {"left": (0.25, 0.5), "right": (0.75, 0.5), "top": (0.5, 0.25), "bottom": (0.5, 0.75), "center": (0.5, 0.5)}
LARGEST_MOVED = 0.47
"""Of what is moved, so that it is whole wherever it goes."""


def draw_edit(kind: EditKind, scene: Scene, rng: np.random.Generator, world: World, split: Split) -> Edit | None:
    """An edit of a kind that starts from, or ends in, a scene of a world and split.

    None if the scene does not lend itself to it, or what comes out belongs to the other split.
    """
    edit = _DRAW[kind](scene, rng, world, split)
    if edit is None:
        return None
    return edit if split_of(edit.after) == split else None


def on_lattice(edit: Edit, step: int) -> Edit | None:
    """The edit of a scene on the lattice, with what was moved or written anew on it too.

    None if there is no room, or things are so large that nothing of the picture has to stay as it was.
    """
    before, after = edit.before, edit.after
    moved = snapped(after, step) if edit.kind in ("move", "swap", "words") else after
    lent = [snapped(scene, step) for scene in before[1:]]
    if moved is None or None in lent:
        return None
    edit = replace(edit, before=(before[0], *(scene for scene in lent if scene is not None)), after=moved)
    return None if edit.kind != "background" and allowed(edit).all() else edit


def _remove(scene: Scene, rng: np.random.Generator, world: World, split: Split) -> Edit | None:
    if len(scene.units) < (1 if scene.sign is not None else 2) or scene.layout == "front":
        return None
    unit = pick(rng, scene.units)
    return Edit(kind="remove", before=(scene,), after=without(scene, unit), old=unit)


def _add(scene: Scene, rng: np.random.Generator, world: World, split: Split) -> Edit | None:
    taken = _remove(scene, rng, world, split)
    return None if taken is None else Edit(kind="add", before=(taken.after,), after=scene, new=taken.old)


def _combine(scene: Scene, rng: np.random.Generator, world: World, split: Split) -> Edit | None:
    if len(scene.units) != 2 or scene.groups or scene.sign is not None or scene.layout == "front":
        return None
    unit = pick(rng, scene.units)
    lent = scene.objects[unit[0]]
    x, y = (0.5 + uniform(rng, -0.03, 0.03) for _ in range(2))
    for _ in range(8):
        ground = draw_background(rng, (1.0, 0.0, 0.0), 0.0, 0.0)
        if _seen(lent, ground):
            lone = Scene(
                width=scene.width,
                height=scene.height,
                layout="alone",
                background=ground,
                objects=(replace(lent, x=x, y=y, size=0.625, scale=None),),
            )
            return Edit(kind="combine", before=(without(scene, unit), lone), after=scene, new=unit)
    return None


def _recolour(scene: Scene, rng: np.random.Generator, world: World, split: Split) -> Edit | None:
    units = [unit for unit in scene.units if scene.objects[unit[0]].colour is not None]
    if not units:
        return None
    unit = pick(rng, units)
    taken = {title_of(scene, other) for other in scene.units}
    colours = [
        colour
        for colour in SHAPE_COLOURS
        if (scene.objects[unit[0]].name, colour) not in taken
        and all(stands_out(colour, ground) for ground in scene.background.colours)
    ]
    if not colours:
        return None
    after = changed(scene, unit, colour=pick(rng, colours))
    return Edit(kind="recolour", before=(scene,), after=after, old=unit, new=unit)


def _replace(scene: Scene, rng: np.random.Generator, world: World, split: Split) -> Edit | None:
    units = [unit for unit in scene.units if scene.objects[unit[0]].colour is None]
    if not units or scene.layout == "front":
        return None
    unit = pick(rng, units)
    old = scene.objects[unit[0]]
    here = {entry.name for entry in scene.objects}
    for _ in range(8):
        name = pick(rng, world.by_style[old.style])
        if name not in here and _seen(replace(old, name=name), scene.background):
            return Edit(kind="replace", before=(scene,), after=changed(scene, unit, name=name), old=unit, new=unit)
    return None


def _move(scene: Scene, rng: np.random.Generator, world: World, split: Split) -> Edit | None:
    if len(scene.objects) != 1 or scene.sign is not None or scene.objects[0].size > LARGEST_MOVED:
        return None
    (entry,) = scene.objects
    place = pick(rng, [place for place in PLACES if place != entry.place])
    x, y = (round(along + uniform(rng, -0.02, 0.02), 4) for along in PLACES[place])
    return Edit(kind="move", before=(scene,), after=changed(scene, (0,), x=x, y=y), old=(0,), new=(0,))


def _swap(scene: Scene, rng: np.random.Generator, world: World, split: Split) -> Edit | None:
    if scene.layout != "pair" or scene.groups or scene.sign is not None or len(scene.objects) != 2:
        return None
    first, second = scene.objects
    after = changed(changed(scene, (0,), x=second.x, y=second.y), (1,), x=first.x, y=first.y)
    relations = tuple(
        Relation(subject=r.subject, predicate=INVERSE[r.predicate], object=r.object)  # type: ignore[arg-type]
        for r in scene.relations
    )
    if not _whole(after):
        return None
    return Edit(kind="swap", before=(scene,), after=replace(after, relations=relations), old=(0, 1), new=(0, 1))


def _restyle(scene: Scene, rng: np.random.Generator, world: World, split: Split) -> Edit | None:
    things = [index for index, entry in enumerate(scene.objects) if entry.kind == "sprite"]
    if not things or scene.layout == "front":
        return None
    alike = len({scene.objects[index].style for index in things}) == 1 and len(things) == len(scene.objects)
    chosen = tuple(things) if alike else unit_of(scene, pick(rng, things))
    now = {scene.objects[index].style for index in chosen}
    styles = [
        style
        for style in world.by_style
        if world.by_style[style] and style not in now and all(style in styles_of(scene.objects[i].name) for i in chosen)
    ]
    if not styles:
        return None
    after = changed(scene, chosen, style=pick(rng, styles))
    if not all(_seen(after.objects[index], scene.background) for index in chosen):
        return None
    return Edit(kind="restyle", before=(scene,), after=after, old=chosen, new=chosen)


def _words(scene: Scene, rng: np.random.Generator, world: World, split: Split) -> Edit | None:
    sign = scene.sign
    if sign is None:
        return None
    config = world.config
    most = min(max(3, round(len(sign.word) * 1.5)), config.max_word_length)
    shown = sign.word.lower()
    word = pick(rng, [other for other in choose_words(sign.script, split, most, config.characters) if other != shown])
    word = word.upper() if sign.word.isupper() else word
    return Edit(kind="words", before=(scene,), after=replace(scene, sign=replace(sign, word=word)))


def _background(scene: Scene, rng: np.random.Generator, world: World, split: Split) -> Edit | None:
    old = scene.background
    if old.kind == "transparent":
        return None
    for _ in range(8):
        new = replace(draw_background(rng, (0.6, 0.2, 0.2), 0.0, 0.0), light=old.light)
        if new.colours != old.colours and all(_seen(entry, new) for entry in scene.objects):
            return Edit(kind="background", before=(scene,), after=replace(scene, background=new))
    return None


def _seen(entry: Object, ground: Background) -> bool:
    """Whether the thing can be told from what is behind it."""
    if entry.colour is not None:
        return all(stands_out(entry.colour, colour) for colour in ground.colours)
    return Unit(name=entry.name, colour=None, style=entry.style).recognisable(entry.size, ground)


def _whole(scene: Scene) -> bool:
    """Whether all objects lie within the picture."""
    side = min(scene.width, scene.height)
    return all(
        entry.size / 2 * side / scene.width <= min(entry.x, 1 - entry.x)
        and entry.size / 2 * side / scene.height <= min(entry.y, 1 - entry.y)
        for entry in scene.objects
    )


_DRAW: dict[EditKind, Callable[[Scene, np.random.Generator, World, Split], Edit | None]] = {
    "add": _add,
    "remove": _remove,
    "recolour": _recolour,
    "replace": _replace,
    "move": _move,
    "swap": _swap,
    "restyle": _restyle,
    "words": _words,
    "background": _background,
    "combine": _combine,
}
