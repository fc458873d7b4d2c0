"""Judges a picture against the scene that its prompt describes, from the pixels alone.

Like GenEval (arXiv 2310.11513), which detects objects with a network trained on photographs; in the procedural world
every object is known, so templates do (`search`), and the judge needs no weights. Background colours are reported
apart: short captions do not always state them. Pictures may be a little off in place, size, sharpness and colour.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fourstroke.evaluate.reading import Reading, compare, read_line
from fourstroke.world import World, WorldConfig
from fourstroke.world.compose import SHAPES
from fourstroke.world.graph import Background, Object, Scene
from fourstroke.world.judging.search import FINE, Candidate, Thing, search
from fourstroke.world.palette import BACKGROUND_COLOURS, SHAPE_COLOURS
from fourstroke.world.render import light_field

FOUND_SCORE = 0.55
"""Set on 100 held-out scenes of micro, clean and degraded: false detections stay below 0.51 (bare horizons: 0.53),
true ones above 0.57."""
BEHIND = BACKGROUND_COLOURS["gray"]
"""What transparent pictures are laid over."""
DIMMEST, BRIGHTEST = 0.6, 1.1
"""Light on a shape, relative to its palette colour."""


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Something seen; `x`, `y`, `size` are fractions as in `Object`, `score` in (0, 1] is the share explained."""

    name: str
    kind: Literal["sprite", "shape"]
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
    """Whether each relation holds between the centres of what was found."""
    backgrounds: tuple[bool, ...]
    """Whether each colour of the background, or its transparency, is right."""
    word: Reading | None
    """The reading of the sign, if there is one."""
    likeness: tuple[float, ...] = ()
    """How well each object's own picture explains what was drawn for it (`Detection.score`); 0 if it is not there."""

    @property
    def right(self) -> bool:
        """Whether all objects, colours, relations and the word are right; the background is left aside."""
        return all(self.objects + self.colours + self.relations) and (self.word is None or self.word.exact)


class Judge:
    """Looks at pictures of one world, of any size."""

    def __init__(self, config: WorldConfig) -> None:
        world = World(config)
        shapes = SHAPES if config.shapes else ()
        self.things: tuple[Thing, ...] = (*((n, False) for n in world.sprites), *((n, True) for n in shapes))

    def look(self, image: np.ndarray) -> list[Detection]:
        """What is in the picture, (H, W, 3 or 4) uint8 with straight alpha; heaviest first."""
        pixels = opaque(image)
        height, width = pixels.shape[:2]
        side = min(height, width)
        found = [c for c in search(pixels, self.things) if c.score >= FOUND_SCORE]
        return [_detection(c, side / FINE / width, side / FINE / height) for c in found]

    def verdict(self, image: np.ndarray, scene: Scene) -> Verdict:
        """Compare the picture with the scene that was asked for.

        Raises:
            ValueError: for a scene with a sign, if RapidOCR is not installed.
        """
        detections = self.look(image)
        matches = match(scene.objects, detections)
        pairs = list(zip(scene.objects, matches, strict=True))
        return Verdict(
            objects=tuple(m is not None for m in matches),
            colours=tuple(m is not None and m.colour == o.colour for o, m in pairs if o.colour is not None),
            relations=tuple(_holds(r.predicate, matches[r.subject], matches[r.object]) for r in scene.relations),
            backgrounds=judge_background(image, scene, detections),
            word=None if scene.sign is None else compare(read_line(opaque(image)), scene.sign.word),
            likeness=tuple(0.0 if m is None else m.score for m in matches),
        )


def match(objects: tuple[Object, ...], detections: list[Detection]) -> list[Detection | None]:
    """Gives each object its own detection of its class; among several, right colours first, then nearness."""
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
                value += 100 + 10 * (seen.colour == thing.colour) - abs(seen.x - thing.x) - abs(seen.y - thing.y)
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
    beside what was detected and beside the sign. A transparent background must be mostly transparent.
    """
    background = scene.background
    free = ~_covered(image.shape[:2], scene, detections)
    if background.kind == "transparent":
        return (image.shape[2] == 4 and bool((image[free][:, 3] < 64).mean() > 0.9) if free.any() else False,)
    pixels = opaque(image).astype(np.float32)
    rows = np.arange(len(pixels))[:, None] / len(pixels)
    zones = [free] if background.kind == "flat" else [free & (rows < 0.25), free & (rows >= 0.75)]
    return tuple(
        bool(zone.any()) and colour in _nearest_backgrounds(pixels, zone, index, background)
        for index, (zone, colour) in enumerate(zip(zones, background.colours, strict=True))
    )


def _nearest_backgrounds(pixels: np.ndarray, zone: np.ndarray, index: int, background: Background) -> set[str]:
    """The palette's nearest colour to the zone's median, under the stated light and under an even one."""
    height, width = zone.shape
    seen = np.median(pixels[zone], axis=0)
    if background.kind == "gradient":  # the zone is not quite at the end of the gradient
        other = np.asarray(BACKGROUND_COLOURS[background.colours[1 - index]], float)
        share = float(np.median(np.nonzero(zone)[0])) / height
        share = share if index == 0 else 1 - share
    else:
        other, share = np.zeros(3), 0.0
    names: set[str] = set()
    for light in {background.light, "even"}:
        field = np.ones(3)
        if light != "even":
            field = np.broadcast_to(light_field(light, width, height), (3, height, width))[:, zone].mean(1)

        def distance(name: str, field: np.ndarray = field) -> float:
            own = np.asarray(BACKGROUND_COLOURS[name], float)
            return float(np.linalg.norm(seen - field * (own * (1 - share) + other * share)))

        names.add(min(BACKGROUND_COLOURS, key=distance))
    return names


def _covered(shape: tuple[int, ...], scene: Scene, detections: list[Detection]) -> np.ndarray:
    """(H, W) bool: where detections, with their shadows, and the sign lie."""
    height, width = shape
    side = min(height, width)
    y, x = (np.arange(height)[:, None] + 0.5) / height, (np.arange(width)[None, :] + 0.5) / width
    covered = np.zeros((height, width), bool)
    boxes = [(d.x, d.y, 1.2 * d.size * side / width, 1.2 * d.size * side / height) for d in detections]
    if scene.sign is not None:
        boxes.append((scene.sign.x, scene.sign.y, scene.sign.width + 0.06, scene.sign.height + 0.06))
    for left, top, across, along in boxes:
        covered |= (np.abs(x - left) < across / 2) & (np.abs(y - top) < along / 2)
    return covered


def _detection(candidate: Candidate, across: float, along: float) -> Detection:
    name, shape = candidate.thing
    return Detection(
        name=name,
        kind="shape" if shape else "sprite",
        colour=nearest_shape_colour(candidate.colour) if shape else None,
        x=candidate.x * across,
        y=candidate.y * along,
        size=candidate.size / FINE,
        score=candidate.score,
    )


def _holds(predicate: str, subject: Detection | None, other: Detection | None) -> bool:
    if subject is None or other is None:
        return False
    return {
        "left of": subject.x < other.x,
        "right of": subject.x > other.x,
        "above": subject.y < other.y,
        "below": subject.y > other.y,
    }[predicate]
