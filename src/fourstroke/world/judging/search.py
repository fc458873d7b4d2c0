"""Finds the things of a world in a picture, coarsely everywhere, then finely where something may be.

Candidates of all classes compete for each place: whichever explains the most of the picture there takes it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fourstroke.world.judging.templates import RING, Templates, blur

Thing = tuple[str, bool]
"""A name and whether it is a shape."""

COARSE, FINE = 32, 64
"""Shorter side of the picture in pixels, for the two passes."""
SIZES = (8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 22)
"""Sizes in coarse pixels: 0.25 to 0.69 of the shorter side."""
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
    size: int
    score: float
    weight: float
    """What competes: a power of the share explained, times the extent of what is explained."""
    colour: tuple[float, float, float]


def search(pixels: np.ndarray, things: tuple[Thing, ...]) -> list[Candidate]:
    """Candidates in (H, W, 3) uint8 that won their places, best first; lengths in FINE pixels."""
    coarse, fine = shrink(pixels, COARSE), blur(shrink(pixels, FINE))
    found = [refine(fine, candidate) for candidate in propose(coarse, things)]
    return winners(found, rivals=1)


def propose(picture: Tensor, things: tuple[Thing, ...]) -> list[Candidate]:
    """The first pass over a whole picture (3, h, w)."""
    found: list[Candidate] = []
    for size in SIZES:
        templates = _templates(things, size, False)
        pad = round((RING + OUTSIDE) * size)
        scores, gains = templates.fit(_padded(picture, pad))
        peaks = (scores == F.max_pool2d(scores, 3, stride=1, padding=1)) & (scores > COARSE_SCORE)
        for index, top, left in peaks.nonzero().tolist():
            found.append(
                Candidate(
                    thing=things[index],
                    x=left + templates.centre - pad,
                    y=top + templates.centre - pad,
                    size=size,
                    score=scores[index, top, left].item(),
                    weight=scores[index, top, left].item() ** STRICTNESS * templates.extents[index].item(),
                    colour=tuple(gains[index, :, top, left].tolist()),
                )
            )
    own: list[Candidate] = []
    for thing in things:
        own += winners((c for c in found if c.thing == thing), rivals=1)
    return winners(own, rivals=RIVALS)


def refine(picture: Tensor, candidate: Candidate) -> Candidate:
    """The best fit near a coarse candidate, in the fine picture (3, h, w)."""
    scale = FINE // COARSE
    pad = FINE
    padded = _padded(picture, pad)
    best: Candidate | None = None
    for size in range(scale * candidate.size - 2, scale * candidate.size + 3):
        templates = _templates((candidate.thing,), size, True)
        reach = round(templates.centre + 2.5)
        left, top = (round(scale * v + pad - reach) for v in (candidate.x, candidate.y))
        window = padded[:, top : top + 2 * reach, left : left + 2 * reach]
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


def _padded(picture: Tensor, pad: int) -> Tensor:
    return F.pad(picture[None], (pad,) * 4, mode="replicate")[0]


@functools.lru_cache(maxsize=20_000)
def _templates(things: Sequence[Thing], size: int, ramps: bool) -> Templates:
    return Templates.make(things, size, ramps)


def _overlap(a: Candidate, b: Candidate) -> float:
    across = min(a.x + a.size / 2, b.x + b.size / 2) - max(a.x - a.size / 2, b.x - b.size / 2)
    along = min(a.y + a.size / 2, b.y + b.size / 2) - max(a.y - a.size / 2, b.y - b.size / 2)
    return max(across, 0.0) * max(along, 0.0) / min(a.size, b.size) ** 2
