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
    """A value in [0, 1] with its 95 % interval; `count` things were counted."""

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
        picks = np.random.default_rng(SEED).integers(len(asked), size=(RESAMPLES, len(asked)))
        low, high = np.quantile(good[picks].sum(1) / asked[picks].sum(1), [0.025, 0.975])
    return Share(value, min(float(low), value), max(float(high), value), int(asked.sum()))


def wilson(hits: float, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of `hits` of `total` independent trials."""
    if total < 1 or not 0 <= hits <= total:
        raise ValueError(f"{hits} of {total} is no share")
    p, spread = hits / total, Z**2 / total
    middle = p + spread / 2
    width = Z * (p * (1 - p) / total + spread / (4 * total)) ** 0.5
    return max(0.0, (middle - width) / (1 + spread)), min(1.0, (middle + width) / (1 + spread))
