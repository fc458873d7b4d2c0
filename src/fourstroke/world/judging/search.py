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

from fourstroke.world.judging.templates import GAINS, NOISE, RING, SHAPE, Templates, Thing, blur, planes_of

COARSE, FINE = 32, 64
"""Shorter side of the picture in pixels, for the two passes."""
SIZES = (8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 22)
"""Sizes in coarse pixels: 0.25 to 0.69 of the shorter side."""
ALL_SIZES = (6, 7, *SIZES, 24, 26, 28)
"""Those of the second edition: 0.19 to 0.87."""
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


def search(
    pixels: np.ndarray,
    things: tuple[Thing, ...],
    sizes: Sequence[int] = SIZES,
    asked: frozenset[str] | None = None,
) -> list[Candidate]:
    """Candidates in (H, W, 3) uint8 that won their places, best first; lengths in FINE pixels.

    With `asked` only things of these names are looked for everywhere; all others only where one of them was found, in
    its place, so that a picture takes a fraction of the time.
    """
    coarse, fine = shrink(pixels, COARSE), blur(shrink(pixels, FINE))
    found = [refine(fine, candidate) for candidate in propose(coarse, things, sizes, asked)]
    kept = winners(found, rivals=1)
    if asked is None:
        return kept
    rivals = [refine(fine, rival) for one in kept for rival in rivals_of(coarse, one, things, sizes)]
    return winners([*kept, *rivals], rivals=1)


def propose(
    picture: Tensor, things: tuple[Thing, ...], sizes: Sequence[int] = SIZES, asked: frozenset[str] | None = None
) -> list[Candidate]:
    """The first pass over a whole picture (3, h, w)."""
    indices = [index for index, (name, _) in enumerate(things) if asked is None or name in asked]
    found: list[Candidate] = []
    for size in sizes if indices else ():
        templates = _templates(things, size, False)
        if asked is not None:
            templates = templates.pick(indices)
        pad = round((RING + OUTSIDE) * size)
        found += _peaks(templates, _padded(picture, pad), [things[i] for i in indices], size, -pad, -pad)
    own: list[Candidate] = []
    for index in indices:
        own += winners((c for c in found if c.thing == things[index]), rivals=1)
    return winners(own, rivals=RIVALS)


def rivals_of(
    picture: Tensor, candidate: Candidate, things: tuple[Thing, ...], sizes: Sequence[int]
) -> list[Candidate]:
    """What else may stand in the place of a candidate (in FINE pixels), by the first pass around it."""
    scale = FINE // COARSE
    x, y, about = candidate.x / scale, candidate.y / scale, candidate.size / scale
    found: list[Candidate] = []
    for size in (size for size in sizes if 0.8 * about <= size <= 1.25 * about):
        templates = _templates(things, size, False)
        pad = 2 * COARSE
        reach = round(templates.centre + 2)
        left, top = round(x + pad - reach), round(y + pad - reach)
        window = _padded(picture, pad)[:, top : top + 2 * reach, left : left + 2 * reach]
        found += _peaks(templates, window, things, size, left - pad, top - pad)
    own = [max((c for c in found if c.thing == thing), key=lambda c: c.weight) for thing in {c.thing for c in found}]
    return sorted(own, key=lambda c: (-c.weight, c.thing))[:RIVALS]


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


def hidden_behind(pixels: np.ndarray, things: Sequence[Thing], nearer: Candidate, sizes: Sequence[int]) -> Candidate:
    """The best fit of some things where another one, nearer, hides a part of them; lengths in FINE pixels.

    As `Templates.fit`, but over the pixels beside the nearer thing alone, before a background of one colour.
    """
    fine = blur(shrink(pixels, FINE))
    covered = (_laid(nearer.thing, nearer, fine.shape[1:]) > 0.05).float()
    mask = 1 - F.max_pool2d(covered[None], 3, stride=1, padding=1)[0]
    best: Candidate | None = None
    for thing in things:
        for size in sizes:
            found = _fit_masked(fine, mask, thing, size)
            if best is None or found.weight > best.weight:
                best = found
    assert best is not None
    return best


def is_before(pixels: np.ndarray, one: Candidate, other: Candidate) -> bool:
    """Whether the picture shows `one` rather than `other` where both would be."""
    fine = shrink(pixels, FINE)
    shape = (fine.shape[1], fine.shape[2])
    both = (_laid(one.thing, one, shape) > 0.6) & (_laid(other.thing, other, shape) > 0.6)
    if not both.any():
        return False
    errors = [(fine - _colours(each, shape)).square().sum(0)[both].mean().item() for each in (one, other)]
    return errors[0] < errors[1]


def _laid(thing: Thing, place: Candidate, shape: Sequence[int], channel: int = 3) -> Tensor:
    """A channel (3: the alpha) of a thing in its place on a canvas (h, w), in 0..1."""
    planes = planes_of(thing, place.size, place.size, False)[channel]
    canvas = torch.zeros(shape[0] + 4 * FINE, shape[1] + 4 * FINE)
    left, top = (round(v - place.size / 2) + 2 * FINE for v in (place.x, place.y))
    canvas[top : top + place.size, left : left + place.size] = planes
    return canvas[2 * FINE : -2 * FINE, 2 * FINE : -2 * FINE]


def _colours(place: Candidate, shape: Sequence[int]) -> Tensor:
    """A candidate as it would look, (3, h, w), 0 beside it."""
    gains = torch.tensor(place.colour)[:, None, None]
    return torch.stack([_laid(place.thing, place, shape, channel) for channel in range(3)]) * gains


def _fit_masked(picture: Tensor, mask: Tensor, thing: Thing, size: int) -> Candidate:
    """The best place of one thing at one size in a picture (3, h, w), by the pixels of a mask (h, w of 0 and 1) alone."""
    ring = max(1, round(RING * size))
    canvas = size + 2 * ring
    planes = planes_of(thing, size, canvas, True)
    alpha = planes[3]
    weight = 0.5 * alpha + 0.5 * F.max_pool2d(alpha[None], 2 * ring + 1, stride=1, padding=ring)[0]
    pad = ring + round(OUTSIDE * size)
    m = F.pad(mask[None], (pad,) * 4)
    x = _padded(picture, pad) * m
    behind = 1 - alpha

    def over(field: Tensor, image: Tensor) -> Tensor:  # sum of weights * field * image around each place
        return F.conv2d(image[:, None], (weight * field)[None, None])[:, 0]

    ones = torch.ones_like(alpha)
    area, energy = over(ones, m), over(ones, x * x).sum(0)
    null = (energy - (over(ones, x).square() / area.clamp_min(1e-6)).sum(0)).clamp_min(0)
    bb, xb = over(behind * behind, m), over(behind, x)
    explained, gains = torch.zeros_like(null), []
    for channel in range(3):
        colour = planes[channel]
        pp, pb = over(colour * colour, m)[0], over(colour * behind, m)[0]
        xp = over(colour, x[channel : channel + 1])[0]
        gain = (xp * bb[0] - xb[channel] * pb) / (pp * bb[0] - pb * pb).clamp_min(1e-6)
        if thing[1] != SHAPE:
            gain = gain.clamp(*GAINS)
        back = (xb[channel] - gain * pb) / bb[0].clamp_min(1e-6)
        explained += 2 * (gain * xp + back * xb[channel]) - gain**2 * pp - back**2 * bb[0] - 2 * gain * back * pb
        gains.append(gain)
    residual = (energy - explained).clamp_min(0)
    scores = (null - residual) / (null + NOISE * area[0])
    scores[area[0] < 0.45 * weight.sum()] = 0  # too much of it is hidden
    row, column = divmod(int(scores.argmax()), scores.shape[1])
    score = max(scores[row, column].item(), 0.0)
    return Candidate(
        thing=thing,
        x=column + canvas / 2 - pad,
        y=row + canvas / 2 - pad,
        size=size,
        score=score,
        weight=score**STRICTNESS * weight.sum().sqrt().item(),
        colour=tuple(gain[row, column].item() for gain in gains),
    )
