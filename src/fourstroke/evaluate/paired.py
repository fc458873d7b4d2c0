"""Means over prompts, differences of two models on the same prompts, and how often one is better, with 95 % intervals.

Seeds of one prompt are not independent, so a prompt is one value, the mean of its pictures, and prompts are what is
resampled; a difference is taken prompt by prompt before. The plain percentile bootstrap is too narrow where prompts are
few, by the factor by which n - 1 is less than n and by the normal law in place of Student's; its ends are taken further
out by as much (Hesterberg 2015, expanded percentile interval).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np

from fourstroke.evaluate.statistics import SEED, Share, Z, share, wilson

RESAMPLES = 2000


def prompt_means(values: Mapping[str, float], prompts: Mapping[str, str]) -> dict[str, float]:
    """By prompt, the mean of the values of its pictures; `prompts` names each picture's."""
    rows: dict[str, list[float]] = {}
    for picture, value in values.items():
        rows.setdefault(prompts[picture], []).append(value)
    return {prompt: sum(row) / len(row) for prompt, row in rows.items()}


def mean_of(values: Mapping[str, float]) -> Share:
    """The mean over prompts; its interval has no width where there is only one, or all are the same.

    Where all are 0 or all are 1, of things that may be either, Wilson's interval stands in.
    """
    if set(values.values()) in ({0.0}, {1.0}):
        right = sum(values.values())
        return Share(right / len(values), *wilson(right, len(values)), len(values))
    return _resampled(values)


def difference_of(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Share | None:
    """The mean of ours - theirs over the prompts that both have; None if there is none."""
    both = [prompt for prompt in ours if prompt in theirs]
    return _resampled({prompt: ours[prompt] - theirs[prompt] for prompt in both}) if both else None


def wins_of(ours: Mapping[str, float], theirs: Mapping[str, float], higher: bool = True) -> Share | None:
    """The share of prompts on which ours is better, ties by half; None if they share no prompt."""
    both = [prompt for prompt in ours if prompt in theirs]
    sign = 1 if higher else -1
    won = {prompt: float(np.sign(sign * (ours[prompt] - theirs[prompt])) + 1) / 2 for prompt in both}
    return mean_of(won) if won else None


def compare_shares(
    ours: Sequence[tuple[float, float]], theirs: Sequence[tuple[float, float]], *, ratio: bool = False
) -> Share | None:
    """ours - theirs, or ours / theirs, of the same prompts in the same order, a pair of sum and count for each.

    Both are sum / count over all prompts, as in tables, so that prompts weigh as much as there is to count in them.
    (0, 0) is a prompt of which nothing is counted; None if nothing is on one side, or theirs is 0 in a ratio.
    """
    sides = [np.asarray(side, float).reshape(-1, 2) for side in (ours, theirs)]
    asked = min(int((side[:, 1] > 0).sum()) for side in sides)
    n = len(sides[0])
    if not asked:
        return None
    counts = np.concatenate([np.ones((1, n)), _counts(np.random.default_rng(SEED), n)])
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = ((counts @ side[:, 0]) / (counts @ side[:, 1]) for side in sides)
        value, *drawn = first / second if ratio else first - second
    if not np.isfinite(value):
        return None
    kept = np.asarray(drawn)[np.isfinite(drawn)]
    low, high = _ends(kept, asked) if asked > 1 else (value, value)
    return Share(float(value), float(min(low, value)), float(max(high, value)), asked)


def difference_apart(ours: Sequence[tuple[float, float]], theirs: Sequence[tuple[float, float]]) -> Share | None:
    """ours - theirs of different prompts, given as for `compare_shares`.

    The interval is put together from those of both shares, so that it has a width where all is right on both sides
    (Zou and Donner 2008, MOVER).
    """
    first, second = (
        share([total for total, _ in side], [round(count) for _, count in side]) for side in (ours, theirs)
    )
    if first is None or second is None:
        return None
    value = first.value - second.value
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    return Share(value, low, high, min(sum(count > 0 for _, count in side) for side in (ours, theirs)))


def _resampled(values: Mapping[str, float]) -> Share:
    mean, low, high = intervals(np.asarray([*values.values()], float))
    return Share(float(mean), float(low), float(high), len(values))


def intervals(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of (..., n) values over n, and the ends of their 95 % intervals, each (...)."""
    values = np.asarray(values, float)
    n, means = values.shape[-1], values.mean(-1)
    if n < 2:
        return means, means, means
    low, high = _ends(values @ _counts(np.random.default_rng(SEED), n).T / n, n)
    return means, np.minimum(low, means), np.maximum(high, means)


def _counts(rng: np.random.Generator, n: int) -> np.ndarray:
    """How often each of n prompts is in each resample, (RESAMPLES, n)."""
    return rng.multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(float)


def _ends(drawn: np.ndarray, n: int) -> np.ndarray:
    """The ends of the interval of what resamples of n prompts came to, (..., RESAMPLES) -> (2, ...)."""
    outer = NormalDist().cdf((n / (n - 1)) ** 0.5 * _student(n - 1))
    return np.quantile(drawn, [1 - outer, outer], axis=-1)


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t (Cornish-Fisher, four terms; within .02 from 4 degrees of freedom on)."""
    z, v = Z, float(freedom)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / v**power for power, term in enumerate(terms, 1))
