"""Two things of which one hides a part of the other: what is seen of the farther one, and which of them is in front."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fourstroke.world.judging.search import FINE, OUTSIDE, STRICTNESS, Candidate, padded, shrink
from fourstroke.world.judging.templates import GAINS, NOISE, RING, SHAPE, Thing, blur, planes_of

SEEN = 0.45
"""Least share of a thing, its ring included, that must not be hidden for it to be known."""
MARGIN = 0.38
"""How much smaller the squared error of what is in front must be, where both would be: on 40 true pictures it is .32
times as large at most, on the same things in the other order .40 at least."""


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
    own, others = ((fine - _colours(each, shape)).square().sum(0)[both].mean().item() for each in (one, other))
    return own < MARGIN * others


def _laid(thing: Thing, place: Candidate, shape: Sequence[int], channel: int = 3) -> Tensor:
    """A channel (3: the alpha) of a thing in its place on a canvas (h, w), in 0..1."""
    size = round(place.size)
    canvas = torch.zeros(shape[0] + 4 * FINE, shape[1] + 4 * FINE)
    left, top = (round(v - size / 2) + 2 * FINE for v in (place.x, place.y))
    canvas[top : top + size, left : left + size] = planes_of(thing, size, size, False)[channel]
    return canvas[2 * FINE : -2 * FINE, 2 * FINE : -2 * FINE]


def _colours(place: Candidate, shape: Sequence[int]) -> Tensor:
    """A candidate as it would look, (3, h, w), 0 beside it."""
    gains = torch.tensor(place.colour)[:, None, None]
    return torch.stack([_laid(place.thing, place, shape, channel) for channel in range(3)]) * gains


def _fit_masked(picture: Tensor, mask: Tensor, thing: Thing, size: int) -> Candidate:
    """The best place of one thing at one size in a picture (3, h, w), by the pixels where a mask (h, w) is 1."""
    ring = max(1, round(RING * size))
    canvas = size + 2 * ring
    planes = planes_of(thing, size, canvas, True)
    alpha = planes[3]
    weight = 0.5 * alpha + 0.5 * F.max_pool2d(alpha[None], 2 * ring + 1, stride=1, padding=ring)[0]
    pad = ring + round(OUTSIDE * size)
    m = F.pad(mask[None], (pad,) * 4)
    x = padded(picture, pad) * m
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
    scores[area[0] < SEEN * weight.sum()] = 0  # too much of it is hidden
    row, column = divmod(int(scores.argmax()), scores.shape[1])
    score = max(scores[row, column].item(), 0.0)
    return Candidate(
        thing=thing,
        x=column + canvas / 2 - pad,
        y=row + canvas / 2 - pad,
        size=size,
        score=score,
        weight=score**STRICTNESS * weight.sum().sqrt().item(),
        colour=tuple(torch.stack(gains)[:, row, column].tolist()),
    )
