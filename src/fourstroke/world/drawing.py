"""Draws scenes of the second edition by chance: things in styles, counted, large and small, one before another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fourstroke.chance import pick, pick_weighted, uniform
from fourstroke.world.atlas import STYLES
from fourstroke.world.compose import (
    PREDICATES,
    Spot,
    arrange,
    draw_background,
    draw_sign,
    draw_titles,
)
from fourstroke.world.graph import (
    Background,
    Group,
    Layout,
    Object,
    Predicate,
    Relation,
    Scale,
    Scene,
    Sign,
    Split,
    Style,
)
from fourstroke.world.snap import snapped
from fourstroke.world.units import SMALLEST, STEP, Box, Unit, draw_form, draw_overlap, draw_size, pack
from fourstroke.world.words import choose_words, spell

if TYPE_CHECKING:
    from fourstroke.world.world import WorldConfig

NUMBERS = (2, 3, 4)
ROOMY = 0.4
"""Least size of the things of a group on a lattice, so that each has a large square."""
HALVES: dict[str, tuple[Box, Box]] = {
    "left of": ((0.265, 0.5, 0.47, 0.94), (0.735, 0.5, 0.47, 0.94)),
    "above": ((0.5, 0.265, 0.94, 0.47), (0.5, 0.735, 0.94, 0.47)),
}
"""Where the left one and the right one, the upper one and the lower one of two stand."""
SIZES: dict[Scale, tuple[float, float]] = {"small": (0.1875, 0.25), "large": (0.5, 0.57)}
"""Of two things against each other."""


@dataclass(frozen=True)
class _Layout:
    layout: Layout
    spots: Sequence[Sequence[Spot]]
    """Of each unit."""
    relations: tuple[tuple[int, Predicate, int], ...] = ()
    """Between units."""


def draw_scene(
    rng: np.random.Generator,
    config: WorldConfig,
    names: Mapping[Style, Sequence[str]],
    shape_share: float,
    split: Split,
) -> Scene | None:
    """One scene, of either split (but for the words); None if what was drawn first leaves no room for the rest."""
    background = draw_background(rng, config.backgrounds, config.textures, config.lights)
    if rng.random() < config.transparent:
        background = Background(kind="transparent", edge="soft" if rng.random() < config.soft_edges else "clean")
    sign, place = None, ""
    count = pick_weighted(rng, range(1, len(config.count_weights) + 1), config.count_weights)
    if rng.random() < config.words:
        script = pick(rng, config.scripts)
        count = pick_weighted(rng, (0, 1, 2), (0.3, *(*config.count_weights, 0.0)[:2]))
        place = pick(rng, ("top", "bottom")) if count else "center"
        if split == "train" and config.spelled and rng.random() < config.spelled:
            word = spell(rng, script, config.max_word_length, config.characters)
        else:
            word = pick(rng, choose_words(script, split, config.max_word_length, config.characters))
        if config.capitals and rng.spawn(1)[0].random() < config.capitals:
            word = word.upper()
        sign = draw_sign(rng, word, script, place, config.sign_fonts)
    units = _draw_units(rng, count, config, names, shape_share, background)
    shares = config.groups, config.sizes, config.overlaps, config.unstated
    grouped, sizes, overlaps, unstated = (rng.random() < share for share in shares)
    smallest = ROOMY if config.snap else SMALLEST / STEP
    if grouped and (numbers := _numbers(count, sign is not None, config.snap > 0)):
        chosen = int(rng.random() * count)
        units[chosen] = replace(units[chosen], number=pick(rng, numbers))
    grouped = any(unit.number > 1 for unit in units)
    stated = not (unstated and count > 1 and sign is None)
    if not count:
        layout = _Layout("sign", ())
    elif sign is not None:
        layout = _beside_sign(rng, units, place, smallest)
    elif overlaps and count == 2 and not grouped:
        same = units[0].colour is not None and units[0].colour == units[1].colour
        overlap = None if same else draw_overlap(rng, units[0], units[1], config.width, config.height)
        if overlap is None:
            return None
        nearer, farther = overlap
        units.reverse()
        layout, stated = _Layout("front", ([farther], [nearer]), ((1, "in front of", 0),)), True
    elif grouped:
        layout = (_alone_group if count == 1 else _pair_with_group)(rng, units, smallest)
    elif sizes and not (config.snap and count == 3):  # a lattice has no room for three sizes side by side
        layout = (_scaled_alone, _scaled_pair, _scaled_line)[count - 1](rng, units)
    else:
        arrangement = arrange(rng, count, config.centred, lines=not config.snap)
        shrink = 0.93 if count == 3 else 1.0  # so that a row leaves gaps to be seen
        spots = [[(x, y, draw_size(rng, shrink * size, shrink * size))] for x, y, size in arrangement.spots]
        relations = tuple((r.subject, r.predicate, r.object) for r in arrangement.relations)
        layout = _Layout(arrangement.layout, spots, relations)
    if not all(unit.recognisable(spots[0][2], background) for unit, spots in zip(units, layout.spots, strict=True)):
        return None
    scene = _build(config, background, units, layout, sign, stated)
    if not stated and config.in_order:
        scene = replace(scene, in_order=bool(rng.spawn(1)[0].random() < config.in_order))
    return snapped(scene, config.snap) if config.snap else scene


def _build(
    config: WorldConfig,
    background: Background,
    units: list[Unit],
    layout: _Layout,
    sign: Sign | None,
    stated: bool,
) -> Scene:
    objects: list[Object] = []
    groups: list[Group] = []
    firsts: list[int] = []
    for unit, spots in zip(units, layout.spots, strict=True):
        firsts.append(len(objects))
        objects += unit.objects(spots)
        if unit.number > 1:
            groups.append(Group(indices=tuple(range(firsts[-1], len(objects))), form=unit.form))
    return Scene(
        width=config.width,
        height=config.height,
        layout=layout.layout,
        background=background,
        objects=tuple(objects),
        relations=tuple(
            Relation(subject=firsts[a], predicate=predicate, object=firsts[b]) for a, predicate, b in layout.relations
        ),
        sign=sign,
        groups=tuple(groups),
        stated=stated,
    )


def _numbers(count: int, beside_sign: bool, on_lattice: bool) -> Sequence[int]:
    """How many there may be of one of ``count`` things; on a lattice only as many as find room for their squares."""
    if not on_lattice or (count == 1 and not beside_sign):
        return NUMBERS if count in (1, 2) else ()
    return NUMBERS[:1] if count == (1 if beside_sign else 2) else ()


def _draw_units(
    rng: np.random.Generator,
    count: int,
    config: WorldConfig,
    names: Mapping[Style, Sequence[str]],
    shape_share: float,
    background: Background,
) -> list[Unit]:
    """Different things, all of one style or each of its own; shapes are flat."""
    mixed = rng.random() < config.mixed_styles
    style: Style = pick_weighted(rng, STYLES, config.styles)
    units: list[Unit] = []
    while len(units) < count:
        if mixed:
            style = pick_weighted(rng, STYLES, config.styles)
        ((name, colour),) = draw_titles(rng, 1, names[style], shape_share, background)
        if (name, colour) not in [(unit.name, unit.colour) for unit in units]:
            units.append(Unit(name=name, colour=colour, style="flat" if colour else style))
    return units


def _alone_group(rng: np.random.Generator, units: list[Unit], smallest: float) -> _Layout:
    number = units[0].number
    form = draw_form(rng, number, 0.94, 0.94, smallest)
    x, y = 0.5 + uniform(rng, -0.02, 0.02), 0.5 + uniform(rng, -0.02, 0.02)
    if form != "cluster" and rng.random() < 0.4:
        aside = pick(rng, (0.27, 0.73))
        x, y = (x, aside) if form == "row" else (aside, y)
    units[0] = replace(units[0], form=form)
    box = (
        (x, y, 0.94, 0.94)
        if abs(x - 0.5) + abs(y - 0.5) < 0.1
        else (x, y, *((0.94, 0.46) if form == "row" else (0.46, 0.94)))
    )
    return _Layout("alone", [pack(rng, number, form, box)])


def _pair_with_group(rng: np.random.Generator, units: list[Unit], smallest: float) -> _Layout:
    predicate = pick(rng, PREDICATES)
    halves = HALVES["left of" if predicate in ("left of", "right of") else "above"]
    return _in_boxes(rng, units, predicate, halves if predicate in HALVES else halves[::-1], smallest)


def _in_boxes(
    rng: np.random.Generator, units: list[Unit], predicate: Predicate, boxes: Sequence[Box], smallest: float
) -> _Layout:
    spots = []
    for place, (unit, box) in enumerate(zip(units, boxes, strict=True)):
        form = draw_form(rng, unit.number, *box[2:], smallest) if unit.number > 1 else "row"
        units[place] = unit = replace(unit, form=form)
        spots.append(pack(rng, unit.number, unit.form, box))
    return _Layout("pair", spots, ((0, predicate, 1),))


def _beside_sign(rng: np.random.Generator, units: list[Unit], place: str, smallest: float) -> _Layout:
    """In the part of the picture that a sign at the top or bottom leaves free."""
    y = 0.66 if place == "top" else 0.34
    if len(units) == 1:
        form = draw_form(rng, units[0].number, 0.94, 0.6, smallest) if units[0].number > 1 else "row"
        units[0] = replace(units[0], form=form)
        return _Layout("alone", [pack(rng, units[0].number, form, (0.5, y, 0.94, 0.6), largest=0.56)])
    boxes = (0.265, y, 0.47, 0.6), (0.735, y, 0.47, 0.6)
    predicate = pick(rng, PREDICATES[:2])
    return _in_boxes(rng, units, predicate, boxes if predicate == "left of" else boxes[::-1], smallest)


def _scaled_alone(rng: np.random.Generator, units: list[Unit]) -> _Layout:
    if rng.random() < 0.5:
        units[0] = replace(units[0], scale="large")
        x, y = 0.5 + uniform(rng, -0.05, 0.05), 0.5 + uniform(rng, -0.05, 0.05)
        return _Layout("alone", [[(x, y, draw_size(rng, 0.7, 0.86))]])
    units[0] = replace(units[0], scale="small")
    along, across = 0.5 + uniform(rng, -0.05, 0.05), uniform(rng, 0.2, 0.3)
    places = ((across, along), (1 - across, along), (along, across), (along, 1 - across))
    x, y = pick(rng, places) if rng.random() < 0.5 else (along, 0.5 + uniform(rng, -0.05, 0.05))
    return _Layout("alone", [[(x, y, draw_size(rng, 0.22, 0.3))]])


def _scaled_pair(rng: np.random.Generator, units: list[Unit]) -> _Layout:
    predicate = pick(rng, PREDICATES)
    scales: list[Scale] = ["small", "large"]
    if rng.random() < 0.5:
        scales.reverse()
    units[:] = [replace(unit, scale=scale) for unit, scale in zip(units, scales, strict=True)]
    sizes = [draw_size(rng, *SIZES[scale]) for scale in scales]
    turned = predicate in ("right of", "below")
    spots = _line(rng, sizes[::-1] if turned else sizes, upright=predicate in ("above", "below"))
    return _Layout("pair", [[spot] for spot in (spots[::-1] if turned else spots)], ((0, predicate, 1),))


def _scaled_line(rng: np.random.Generator, units: list[Unit]) -> _Layout:
    drawn: list[tuple[Scale, float]] = [
        ("small", 12 / 64),
        ("medium", 17 / 64),
        ("large", draw_size(rng, 24 / 64, 27 / 64)),
    ]
    order = rng.permutation(3)
    units[:] = [replace(unit, scale=drawn[place][0]) for unit, place in zip(units, order, strict=True)]
    upright = rng.random() < 0.5
    spots = _line(rng, [drawn[place][1] for place in order], upright)
    predicate: Predicate = "above" if upright else "left of"
    layout: Layout = "column" if upright else "row"
    return _Layout(layout, [[spot] for spot in spots], ((0, predicate, 1), (1, predicate, 2)))


def _line(rng: np.random.Generator, sizes: Sequence[float], upright: bool) -> list[Spot]:
    """Spots from left to right, or downwards; things in a row stand on one floor more or less."""
    gap = min(0.09, (0.96 - sum(sizes)) / len(sizes))
    start = (1 - sum(sizes) - gap * (len(sizes) - 1)) / 2
    middle, lean = 0.5 + uniform(rng, -0.04, 0.04), 0.0 if upright else uniform(rng, 0.0, 0.5)
    spots = []
    for size in sizes:
        along, across = start + size / 2, middle + lean * (max(sizes) - size)
        spots.append((across, along, size) if upright else (along, across, size))
        start += size + gap
    return spots
