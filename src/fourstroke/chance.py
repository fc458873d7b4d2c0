"""Chance that is the same everywhere: generators from seeds, draws from sequences, and the stable hash of the split.

Python's ``hash`` and global random states differ between processes; nothing here does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


def generator(*seeds: int) -> np.random.Generator:
    """A generator that depends on all of ``seeds`` (each >= 0) and on nothing else."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seeds)))


def pick(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    """One of ``items``, each equally likely."""
    return items[int(rng.random() * len(items))]


def pick_weighted(rng: np.random.Generator, items: Sequence[Item], weights: Sequence[float]) -> Item:
    """One of ``items``, drawn in proportion to ``weights``, which need not sum to one."""
    threshold = rng.random() * sum(weights)
    for item, weight in zip(items, weights, strict=True):
        threshold -= weight
        if threshold < 0:
            return item
    return items[-1]


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number in [low, high), rounded to four digits so that scenes stay short when written as JSON."""
    return round(low + (high - low) * rng.random(), 4)


def stable_fraction(*parts: str) -> float:
    """A number in [0, 1) that depends on the text of ``parts`` only, on every machine the same."""
    digest = hashlib.blake2b("\x1f".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
