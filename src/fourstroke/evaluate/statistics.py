"""Shares with 95 % intervals. Things within one picture are not independent, so pictures are what is resampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
SEED = 20
Z = 1.959964
"""The normal quantile of a two-sided 95 % interval."""


@dataclass(frozen=True)
class Share:
    """A value, in [0, 1] if it is a share, with its 95 % interval; `count` things were counted."""

    value: float
    low: float
    high: float
    count: int


def share(hits: Sequence[float], totals: Sequence[int]) -> Share | None:
    """sum(hits) / sum(totals), one entry a picture, with a percentile bootstrap over pictures; None if nothing counts.

    Where all hit or none does the bootstrap has no width; Wilson's interval over pictures stands in.
    """
    if len(hits) != len(totals):
        raise ValueError(f"{len(hits)} hits, but {len(totals)} totals")
    good, asked = np.asarray(hits, float), np.asarray(totals, float)
    good, asked = good[asked > 0], asked[asked > 0]
    if not len(asked):
        return None
    value = float(good.sum() / asked.sum())
    if value in (0.0, 1.0):
        low, high = wilson(value * len(asked), len(asked))
    else:
        low, high = _bootstrap(good, asked)
    return Share(value, min(low, value), max(high, value), int(asked.sum()))


def mean(values: Sequence[float]) -> Share:
    """The mean of some values of any scale, one a picture (at least one), with a percentile bootstrap over pictures."""
    found = np.asarray(values, float)
    low, high = _bootstrap(found, np.ones(len(found)))
    return Share(float(found.mean()), low, high, len(found))


def over_prompts(values: Sequence[float], prompts: Sequence[str]) -> Share:
    """The mean of values of any scale, one a picture (at least one), with an interval over prompts.

    Pictures of one prompt are not independent, so prompts are what is resampled.
    """
    rows: dict[str, list[float]] = {}
    for value, prompt in zip(values, prompts, strict=True):
        rows.setdefault(prompt, []).append(value)
    sums, counts = [sum(row) for row in rows.values()], [len(row) for row in rows.values()]
    if set(values) in ({0.0}, {1.0}) and (found := share(sums, counts)) is not None:
        return found
    low, high = _bootstrap(np.asarray(sums, float), np.asarray(counts, float))
    return Share(float(np.mean(values)), low, high, len(values))


def _bootstrap(sums: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    picks = np.random.default_rng(SEED).integers(len(weights), size=(RESAMPLES, len(weights)))
    low, high = np.quantile(sums[picks].sum(1) / weights[picks].sum(1), [0.025, 0.975])
    return float(low), float(high)


def wilson(hits: float, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of `hits` of `total` independent trials."""
    if total < 1 or not 0 <= hits <= total:
        raise ValueError(f"{hits} of {total} is no share")
    p, spread = hits / total, Z**2 / total
    middle = p + spread / 2
    width = Z * (p * (1 - p) / total + spread / (4 * total)) ** 0.5
    return max(0.0, (middle - width) / (1 + spread)), min(1.0, (middle + width) / (1 + spread))
