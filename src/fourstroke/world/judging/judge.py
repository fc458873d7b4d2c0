"""Judges a picture against the scene that its prompt describes, from the pixels alone.

Like GenEval (arXiv 2310.11513), which detects objects with a network trained on photographs; in the procedural world
every object is known, so templates do (`search`), and the judge needs no weights. Background colours are reported
apart: short captions do not always state them. Pictures may be a little off in place, size, sharpness and colour.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fourstroke.evaluate.reading import TESSERACT, Reading, compare, read_line, readable
from fourstroke.world import World, WorldConfig
from fourstroke.world.atlas import STYLES
from fourstroke.world.compose import SHAPES
from fourstroke.world.graph import Background, Object, Relation, Scene, Sign
from fourstroke.world.judging.hidden import hidden_behind, is_before
from fourstroke.world.judging.search import FINE, Candidate, search
from fourstroke.world.judging.templates import SHAPE, Thing
from fourstroke.world.palette import BACKGROUND_COLOURS, SHAPE_COLOURS
from fourstroke.world.render import light_field, texture_field

FOUND_SCORE = 0.55
"""Set on 100 held-out scenes of micro, clean and degraded: false detections stay below 0.51 (bare horizons: 0.53),
true ones above 0.57."""
FOUND_BEFORE = 0.35
"""The same for what stands before something else."""
BEHIND = BACKGROUND_COLOURS["gray"]
"""What transparent pictures are laid over."""
MARGINS = 1.2, 1.0, 0.8
"""How much of its surroundings a thing takes from the background: the first that leaves enough to be seen."""
DEPTHS = 0.25, 0.4, 0.65
"""How far from the top and from the bottom a gradient's colours are looked for; others are in the first."""
LEAST_SEEN = 0.02
"""Of the picture, for each of the background's colours."""
DIMMEST, BRIGHTEST = 0.6, 1.1
"""Light on a shape, relative to its palette colour."""
SMALL, LARGE = 0.42, 0.55
"""A lone thing that is asked small is smaller than this, a large one larger; true ones are up to .3 and from .68 on."""
LARGER = 1.1
"""How many times as large as another a thing must be that is asked larger; true ones are 1.4 times as large, and seen
as 1.13 times and more, for small ones are seen up to three pixels of 64 too large."""


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Something seen; `x`, `y`, `size` are fractions as in `Object`, `score` in (0, 1] is the share explained."""

    name: str
    kind: Literal["sprite", "shape"]
    style: str
    colour: str | None
    x: float
    y: float
    size: float
    score: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What of a scene is right, in the order of the scene; each asked thing counts once."""

    objects: tuple[bool, ...]
    """Whether each object is there; a shape counts whatever its colour."""
    colours: tuple[bool, ...]
    """Whether each object with a stated colour is there in that colour."""
    relations: tuple[bool, ...]
    """Whether each relation that captions state holds between the centres of what was found."""
    backgrounds: tuple[bool, ...]
    """Whether each colour of the background, or its transparency, is right."""
    word: Reading | None
    """The reading of the sign; None if there is none, or Cyrillic and nothing can read it."""
    styles: tuple[bool, ...] = ()
    """Whether each sprite is there in the style that it was asked in."""
    counts: tuple[bool, ...] = ()
    """Whether each group is there in its number, no more and no fewer."""
    sizes: tuple[bool, ...] = ()
    """Whether sizes that are spoken of hold: of a lone thing, or of each two against each other."""
    likeness: tuple[float, ...] = ()
    """How well each object's own picture explains what was drawn for it (`Detection.score`); 0 if it is not there."""

    @property
    def right(self) -> bool:
        """Whether all objects, colours, relations, counts, sizes and the word are right.

        The background and the styles are left aside: captions do not always state them.
        """
        facts = self.objects + self.colours + self.relations + self.counts + self.sizes
        return all(facts) and (self.word is None or self.word.exact)


class Judge:
    """Looks at pictures of one world, of any size.

    Relations of scenes whose captions state none are not judged.
    """

    def __init__(self, config: WorldConfig) -> None:
        world = World(config)
        shapes = tuple((name, SHAPE) for name in SHAPES) if config.shapes else ()
        styles = [style for style, weight in zip(STYLES, config.styles, strict=True) if weight > 0]
        sprites = tuple((name, style) for style in styles for name in world.by_style[style])
        self.second = config.things != 0
        self.things: tuple[Thing, ...] = (*(sprites if self.second else ((n, "flat") for n in world.sprites)), *shapes)

    def look(self, image: np.ndarray, asked: Collection[str] | None = None) -> list[Detection]:
        """What is in the picture, (H, W, 3 or 4) uint8 with straight alpha; heaviest first.

        With `asked`, only things of these names, and what stands in their places.
        """
        pixels = opaque(image)
        names = None if asked is None else frozenset(asked)
        found = search(pixels, self.things, names)
        return [_detection(one, pixels) for one in found if one.score >= FOUND_SCORE]

    def verdict(self, image: np.ndarray, scene: Scene) -> Verdict:
        """Compare the picture with the scene that was asked for.

        Raises:
            ValueError: for a scene with a sign, if RapidOCR is not installed.
        """
        detections, before = self.find(image, scene)
        matches = match(scene.objects, detections)
        pairs = list(zip(scene.objects, matches, strict=True))
        stated = scene.relations if scene.stated else ()
        return Verdict(
            objects=tuple(m is not None for m in matches),
            colours=tuple(m is not None and m.colour == o.colour for o, m in pairs if o.colour is not None),
            relations=tuple(before if r.predicate == "in front of" else holds(scene, r, matches) for r in stated),
            backgrounds=judge_background(image, scene, detections),
            word=None if scene.sign is None else _word(image, scene.sign),
            styles=tuple(m is not None and m.style == o.style for o, m in pairs if o.kind == "sprite"),
            counts=tuple(_number(scene.objects[g.indices[0]], detections) == g.number for g in scene.groups),
            sizes=_sizes(scene, matches),
            likeness=tuple(0.0 if m is None else m.score for m in matches),
        )

    def find(self, image: np.ndarray, scene: Scene) -> tuple[list[Detection], bool]:
        """What there is of a scene in the picture, and whether what is to stand in front of something else does."""
        if scene.layout == "front":
            return self._overlapping(image, scene)
        return self.look(image, {thing.name for thing in scene.objects} if self.second else None), False

    def _overlapping(self, image: np.ndarray, scene: Scene) -> tuple[list[Detection], bool]:
        """The two things of a scene in which one hides a part of the other, and whether the right one is in front.

        The farther one is looked for in what the nearer one leaves of it to be seen. The nearer one stands before no
        plain background, so that less of the picture has to be explained by it, if it hides a part of the other.
        """
        pixels, (relation,) = opaque(image), scene.relations
        subject, other = (scene.objects[index].name for index in (relation.subject, relation.object))
        nearer, farther = (tuple(thing for thing in self.things if thing[0] == name) for name in (subject, other))
        for near in search(pixels, nearer, frozenset((subject,)))[:3]:
            if near.score < FOUND_BEFORE:
                continue
            far = hidden_behind(pixels, farther, near, range(FINE // 5, 3 * FINE // 4, 2))
            before = near.y > far.y and is_before(pixels, near, far)
            if far.score >= FOUND_SCORE and (before or near.score >= FOUND_SCORE):
                return [_detection(near, pixels), _detection(far, pixels)], before
        return self.look(image, {subject, other}), False


def match(objects: tuple[Object, ...], detections: list[Detection]) -> list[Detection | None]:
    """Gives each object its own detection of its class; among several, right colours first, styles, then nearness."""
    best: tuple[float, list[Detection | None]] = (-1.0, [None] * len(objects))
    options: list[list[Detection | None]] = [
        [None, *(d for d in detections if (d.name, d.kind) == (o.name, o.kind))] for o in objects
    ]
    for choice in itertools.product(*options):
        taken = [id(d) for d in choice if d is not None]
        if len(set(taken)) < len(taken):
            continue
        value = 0.0
        for thing, seen in zip(objects, choice, strict=True):
            if seen is not None:
                right = 10 * (seen.colour == thing.colour) + 5 * (seen.style == thing.style)
                value += 100 + right - abs(seen.x - thing.x) - abs(seen.y - thing.y)
        if value > best[0]:
            best = value, list(choice)
    return best[1]


def opaque(image: np.ndarray) -> np.ndarray:
    """(H, W, 3 or 4) uint8 with straight alpha -> (H, W, 3), laid over an even gray if it is transparent."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4):
        raise ValueError(f"a picture is (H, W, 3 or 4) uint8, found {image.shape} {image.dtype}")
    if image.shape[2] == 3:
        return image
    alpha = image[..., 3:].astype(np.float32) / 255
    laid = image[..., :3] * alpha + np.asarray(BEHIND, np.float32) * (1 - alpha)
    return np.round(laid).astype(np.uint8)


def nearest_shape_colour(rgb: tuple[float, float, float]) -> str:
    """The palette's nearest colour to one in 0..1, after the brightness of the light is allowed for."""
    seen = np.asarray(rgb) * 255

    def distance(name: str) -> float:
        own = np.asarray(SHAPE_COLOURS[name], float)
        light = np.clip(seen @ own / (own @ own), DIMMEST, BRIGHTEST)
        return float(np.linalg.norm(seen - light * own))

    return min(SHAPE_COLOURS, key=distance)


def judge_background(image: np.ndarray, scene: Scene, detections: list[Detection]) -> tuple[bool, ...]:
    """Whether the background shows the scene's colours; its light may be the stated one or an even one.

    The first colour is looked for in the upper quarter, the second in the lower quarter, a flat one everywhere, always
    beside what was detected and beside the sign. Where things and their shadows leave too little of a quarter, a
    gradient is looked at farther from its end. A transparent background must be mostly transparent.
    """
    background = scene.background
    depths = DEPTHS if background.kind == "gradient" else DEPTHS[:1]
    for margin in MARGINS:
        free = ~_covered(image.shape[:2], scene, detections, margin)
        zones = _ends(free, depths) if background.kind not in ("flat", "transparent") else [free]
        if min(zone.mean() for zone in zones) >= LEAST_SEEN:
            break
    if background.kind == "transparent":
        return (image.shape[2] == 4 and bool((image[free][:, 3] < 64).mean() > 0.9) if free.any() else False,)
    pixels = opaque(image).astype(np.float32)
    return tuple(
        bool(zone.any()) and colour in _nearest_backgrounds(pixels, zone, index, background)
        for index, (zone, colour) in enumerate(zip(zones, background.colours, strict=True))
    )


def _ends(free: np.ndarray, depths: Sequence[float]) -> list[np.ndarray]:
    """What is free (H, W) at the top and at the bottom, each to the first depth that shows enough, else the last."""
    rows = np.arange(len(free))[:, None] / len(free)
    ends = ([free & (rows < depth) for depth in depths], [free & (rows >= 1 - depth) for depth in depths])
    return [next((zone for zone in zones if zone.mean() >= LEAST_SEEN), zones[-1]) for zones in ends]


def _nearest_backgrounds(pixels: np.ndarray, zone: np.ndarray, index: int, background: Background) -> set[str]:
    """The palette's nearest colour to the zone's median, under the stated light and under an even one."""
    height, width = zone.shape
    if background.kind == "gradient":  # the zone is not quite at the end of the gradient
        other = np.asarray(BACKGROUND_COLOURS[background.colours[1 - index]], float)
        share = float(np.median(np.nonzero(zone)[0])) / height
        share = share if index == 0 else 1 - share
    else:
        other, share = np.zeros(3), 0.0
    names: set[str] = set()
    seen = np.median(pixels[zone], axis=0) / _texture(background, zone)
    for light in {background.light, "even"}:
        field = np.ones(3)
        if light != "even":
            field = np.broadcast_to(light_field(light, width, height), (3, height, width))[:, zone].mean(1)

        def distance(name: str, field: np.ndarray = field) -> float:
            own = np.asarray(BACKGROUND_COLOURS[name], float)
            return float(np.linalg.norm(seen - field * (own * (1 - share) + other * share)))

        names.add(min(BACKGROUND_COLOURS, key=distance))
    return names


def _texture(background: Background, zone: np.ndarray) -> float:
    """What the background's texture multiplies most of a zone's pixels by."""
    if background.texture == "plain":
        return 1.0
    return float(np.median(texture_field(background.texture, zone.shape[1], zone.shape[0])[zone]))


def _covered(shape: tuple[int, ...], scene: Scene, detections: list[Detection], margin: float) -> np.ndarray:
    """(H, W) bool: where detections, `margin` times as large as they are for their shadows, and the sign lie."""
    height, width = shape
    side = min(height, width)
    y, x = (np.arange(height)[:, None] + 0.5) / height, (np.arange(width)[None, :] + 0.5) / width
    covered = np.zeros((height, width), bool)
    boxes = [(d.x, d.y, margin * d.size * side / width, margin * d.size * side / height) for d in detections]
    if scene.sign is not None:
        boxes.append((scene.sign.x, scene.sign.y, scene.sign.width + 0.06, scene.sign.height + 0.06))
    for left, top, across, along in boxes:
        covered |= (np.abs(x - left) < across / 2) & (np.abs(y - top) < along / 2)
    return covered


def _detection(candidate: Candidate, pixels: np.ndarray) -> Detection:
    """A candidate, whose lengths are in FINE pixels of the shorter side, in fractions of the picture."""
    height, width = pixels.shape[:2]
    side, (name, style) = min(height, width), candidate.thing
    shape = style == SHAPE
    return Detection(
        name=name,
        kind="shape" if shape else "sprite",
        style="flat" if shape else style,
        colour=nearest_shape_colour(candidate.colour) if shape else None,
        x=candidate.x * side / FINE / width,
        y=candidate.y * side / FINE / height,
        size=candidate.size / FINE,
        score=candidate.score,
    )


def _word(image: np.ndarray, sign: Sign) -> Reading | None:
    if sign.script in TESSERACT and not readable(sign.script):
        return None
    return compare(read_line(opaque(image), sign.script), sign.word)


def _number(asked: Object, detections: list[Detection]) -> int:
    """How many of a thing, in its colour, there are."""
    return sum((d.name, d.kind, d.colour) == (asked.name, asked.kind, asked.colour) for d in detections)


def _places(
    scene: Scene, relation: Relation, matches: Sequence[Detection | None]
) -> tuple[list[Detection | None], list[Detection | None]]:
    """What was found of both sides of a relation: of a group every member."""
    units = {unit[0]: unit for unit in scene.units}
    subject, other = (units.get(index, (index,)) for index in (relation.subject, relation.object))
    return [matches[index] for index in subject], [matches[index] for index in other]


def _sizes(scene: Scene, matches: Sequence[Detection | None]) -> tuple[bool, ...]:
    """Whether the sizes that are spoken of hold."""
    scaled = [(o, m) for o, m in zip(scene.objects, matches, strict=True) if o.scale is not None]
    if len(scaled) == 1:
        ((thing, seen),) = scaled
        return (seen is not None and (seen.size > LARGE if thing.scale == "large" else seen.size < SMALL),)
    found = []
    for (thing, seen), (other, beside) in itertools.combinations(scaled, 2):
        if thing.size < other.size:
            seen, beside = beside, seen
        found.append(seen is not None and beside is not None and seen.size > LARGER * beside.size)
    return tuple(found)


def holds(scene: Scene, relation: Relation, matches: Sequence[Detection | None]) -> bool:
    """Whether the middle of what was found of one side stands so to that of the other, with nothing missing.

    `matches` are what was found of the scene's objects.
    """
    subjects, others = _places(scene, relation, matches)
    first, second = ([d for d in side if d is not None] for side in (subjects, others))
    if len(first) < len(subjects) or len(second) < len(others):
        return False
    (x, y), (a, b) = ((np.mean([d.x for d in side]), np.mean([d.y for d in side])) for side in (first, second))
    return bool({"left of": x < a, "right of": x > a, "above": y < b, "below": y > b}[str(relation.predicate)])
