"""Finds the things of a world in a picture, coarsely everywhere, then finely where something may be.

Candidates of all classes compete for each place: whichever explains the most of the picture there takes it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fourstroke.world.judging.templates import RING, Templates, Thing, blur

COARSE, FINE = 32, 64
"""Shorter side of the picture in pixels, for the two passes."""
SIZES = (8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 22)
"""Sizes in coarse pixels: 0.25 to 0.69 of the shorter side."""
ALL_SIZES = (10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 22, 24, 26, 28)
"""Those of the second edition: 0.3 to 0.87."""
SMALL_SIZES = (12, 13, 14, 15, 16, 17, 18, 19)
"""Sizes in fine pixels, 0.19 to 0.3: what is so small is looked for in the fine picture from the start."""
OUTSIDE = 0.1
"""How far an object may reach over the picture's border, in sizes."""
COARSE_SCORE = 0.25
STRICTNESS = 2
"""Power of the score where candidates compete: two small good fits should beat a large poor one over both."""
RIVALS = 10
"""Candidates that are examined finely at one place."""
OVERLAP = 0.2
"""Share of the smaller of two boxes that both cover, above which only one of them stands."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A class at a place; `x`, `y` and `size` in pixels of the pass, `colour` is RGB in about 0..1."""

    thing: Thing
    x: float
    y: float
    size: float
    score: float
    weight: float
    """What competes: a power of the share explained, times the extent of what is explained."""
    colour: tuple[float, float, float]


def search(
    pixels: np.ndarray,
    things: tuple[Thing, ...],
    asked: frozenset[str] | None = None,
) -> list[Candidate]:
    """Candidates in (H, W, 3) uint8 that won their places, best first; lengths in FINE pixels.

    With `asked` things may be of all sizes, and only things of these names are looked for everywhere; all others only
    where one of them was found, in its place, so that a picture takes a fraction of the time.
    """
    coarse, sharp = shrink(pixels, COARSE), shrink(pixels, FINE)
    fine = blur(sharp)
    if asked is None:
        return winners([refine(fine, candidate) for candidate in propose(coarse, things, SIZES)], rivals=1)
    proposed = propose(coarse, things, ALL_SIZES, asked)
    proposed += [halved(candidate) for candidate in propose(sharp, things, SMALL_SIZES, asked)]
    kept = winners([stricter(refine(fine, candidate)) for candidate in proposed], rivals=1)
    rivals = [stricter(refine(fine, rival)) for one in kept for rival in rivals_of(coarse, sharp, one, things)]
    return winners([*kept, *rivals], rivals=1)


def stricter(candidate: Candidate) -> Candidate:
    """The same with its weight times its score: among many things some large one explains a little of everything."""
    return replace(candidate, weight=candidate.weight * candidate.score)


def propose(
    picture: Tensor, things: tuple[Thing, ...], sizes: Sequence[int], asked: frozenset[str] | None = None
) -> list[Candidate]:
    """The first pass over a whole picture (3, h, w)."""
    indices = [index for index, (name, _) in enumerate(things) if asked is None or name in asked]
    found: list[Candidate] = []
    for size in sizes if indices else ():
        templates = _templates(things, size, False)
        if asked is not None:
            templates = templates.pick(indices)
        pad = round((RING + OUTSIDE) * size)
        found += _peaks(templates, padded(picture, pad), [things[i] for i in indices], size, -pad, -pad)
    own: list[Candidate] = []
    for index in indices:
        own += winners((c for c in found if c.thing == things[index]), rivals=1)
    return winners(own, rivals=RIVALS)


def halved(candidate: Candidate) -> Candidate:
    """A candidate of the fine picture, in coarse pixels."""
    scale = FINE // COARSE
    return replace(candidate, x=candidate.x / scale, y=candidate.y / scale, size=candidate.size / scale)


def rivals_of(coarse: Tensor, sharp: Tensor, candidate: Candidate, things: tuple[Thing, ...]) -> list[Candidate]:
    """What else may stand in the place of a candidate (in FINE pixels), by the first pass around it."""
    scale = FINE // COARSE
    small = candidate.size <= SMALL_SIZES[-1]
    picture, sizes, one = (sharp, SMALL_SIZES, candidate) if small else (coarse, ALL_SIZES, halved(candidate))
    pad = 2 * picture.shape[1]
    wide = padded(picture, pad)
    found: list[Candidate] = []
    for size in (size for size in sizes if 0.8 * one.size <= size <= 1.25 * one.size):
        templates = _templates(things, size, False)
        reach = round(templates.centre + 2 * (scale if small else 1))
        left, top = round(one.x + pad - reach), round(one.y + pad - reach)
        window = wide[:, top : top + 2 * reach, left : left + 2 * reach]
        found += _peaks(templates, window, things, size, left - pad, top - pad)
    own = [max((c for c in found if c.thing == thing), key=lambda c: c.weight) for thing in {c.thing for c in found}]
    best = sorted(own, key=lambda c: (-c.weight, c.thing))[:RIVALS]
    return [halved(rival) for rival in best] if small else best


def _peaks(
    templates: Templates, picture: Tensor, things: Sequence[Thing], size: int, left: float, top: float
) -> list[Candidate]:
    """Where templates fit best in a picture whose corner is at (left, top)."""
    scores, gains = templates.fit(picture)
    peaks = (scores == F.max_pool2d(scores, 3, stride=1, padding=1)) & (scores > COARSE_SCORE)
    return [
        Candidate(
            thing=things[index],
            x=column + templates.centre + left,
            y=row + templates.centre + top,
            size=size,
            score=scores[index, row, column].item(),
            weight=scores[index, row, column].item() ** STRICTNESS * templates.extents[index].item(),
            colour=tuple(gains[index, :, row, column].tolist()),
        )
        for index, row, column in peaks.nonzero().tolist()
    ]


def refine(picture: Tensor, candidate: Candidate) -> Candidate:
    """The best fit near a coarse candidate, in the fine picture (3, h, w)."""
    scale = FINE // COARSE
    pad = FINE
    wide = padded(picture, pad)
    best: Candidate | None = None
    for size in range(round(scale * candidate.size) - 2, round(scale * candidate.size) + 3):
        templates = _templates((candidate.thing,), size, True)
        reach = round(templates.centre + 2.5)
        left, top = (round(scale * v + pad - reach) for v in (candidate.x, candidate.y))
        window = wide[:, top : top + 2 * reach, left : left + 2 * reach]
        scores, gains = templates.fit(window)
        place = int(scores[0].argmax())
        row, column = divmod(place, scores.shape[2])
        weight = max(scores[0, row, column].item(), 0.0) ** STRICTNESS * templates.extents.item()
        if best is None or weight > best.weight:
            best = Candidate(
                thing=candidate.thing,
                x=left + column + templates.centre - pad,
                y=top + row + templates.centre - pad,
                size=size,
                score=scores[0, row, column].item(),
                weight=weight,
                colour=tuple(gains[0, :, row, column].tolist()),
            )
    assert best is not None
    return best


def winners(candidates: Iterable[Candidate], rivals: int) -> list[Candidate]:
    """Keeps the heaviest candidates, at most `rivals` that overlap one another."""
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: -c.weight):
        if sum(_overlap(candidate, other) > OVERLAP for other in kept) < rivals:
            kept.append(candidate)
    return kept


def shrink(pixels: np.ndarray, side: int) -> Tensor:
    """(H, W, 3) uint8 -> (3, h, w) in [0, 1] with a shorter side of `side` pixels."""
    height, width = pixels.shape[:2]
    scale = side / min(height, width)
    shape = round(width * scale), round(height * scale)
    filters = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    small = Image.fromarray(np.ascontiguousarray(pixels)).resize(shape, filters)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255


def padded(picture: Tensor, pad: int) -> Tensor:
    """A picture (3, h, w) with its border repeated `pad` times."""
    return F.pad(picture[None], (pad,) * 4, mode="replicate")[0]


@functools.lru_cache(maxsize=20_000)
def _templates(things: Sequence[Thing], size: int, ramps: bool) -> Templates:
    return Templates.make(things, size, ramps)


def _overlap(a: Candidate, b: Candidate) -> float:
    across = min(a.x + a.size / 2, b.x + b.size / 2) - max(a.x - a.size / 2, b.x - b.size / 2)
    along = min(a.y + a.size / 2, b.y + b.size / 2) - max(a.y - a.size / 2, b.y - b.size / 2)
    return max(across, 0.0) * max(along, 0.0) / min(a.size, b.size) ** 2
