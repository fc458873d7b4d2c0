"""Means over prompts, differences of two models on the same prompts, and how often one is better, with 95 % intervals.

Seeds of one prompt are not independent, so a prompt is one value, the mean of its pictures, and prompts are what is
resampled; a difference is taken prompt by prompt before. The plain percentile bootstrap is too narrow where prompts are
few, by the factor by which n - 1 is less than n and by the normal law in place of Student's; its ends are taken further
out by as much (Hesterberg 2015, expanded percentile interval).
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist

import numpy as np

from fourstroke.evaluate.statistics import SEED, Share, Z, wilson

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


def _resampled(values: Mapping[str, float]) -> Share:
    mean, low, high = intervals(np.asarray([*values.values()], float))
    return Share(float(mean), float(low), float(high), len(values))


def intervals(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of (..., n) values over n, and the ends of their 95 % intervals, each (...)."""
    values = np.asarray(values, float)
    n, means = values.shape[-1], values.mean(-1)
    if n < 2:
        return means, means, means
    counts = np.random.default_rng(SEED).multinomial(n, np.full(n, 1 / n), RESAMPLES)
    outer = NormalDist().cdf((n / (n - 1)) ** 0.5 * _student(n - 1))
    low, high = np.quantile(values @ counts.T.astype(float) / n, [1 - outer, outer], axis=-1)
    return means, np.minimum(low, means), np.maximum(high, means)


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t (Cornish-Fisher, four terms; within .02 from 4 degrees of freedom on)."""
    z, v = Z, float(freedom)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / v**power for power, term in enumerate(terms, 1))
