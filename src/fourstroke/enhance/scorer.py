"""Scores rewrites by several rewards at once: drawn once, each reward a column, remembered for the batch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from fourstroke.data.sample import Record
from fourstroke.enhance.checks import Lexicon
from fourstroke.enhance.generator import Generator
from fourstroke.enhance.measure import rewrites
from fourstroke.enhance.rewards import Reward, RewardBatch

NOISES = 2**32
"""Seeds of noise in a step: one for each request, far fewer than there are."""


class Scorer:
    """Rewards of assistant turns on `records`, whose first captions are the requests."""

    def __init__(
        self, rewards: Sequence[Reward], records: Sequence[Record], generator: Generator, lexicon: Lexicon
    ) -> None:
        self.rewards = dict(zip(names(rewards), rewards, strict=True))
        self.records, self.generator, self.lexicon = records, generator, lexicon
        self._known: tuple[tuple[object, ...], dict[str, list[float]]] | None = None

    def scores(self, turns: Sequence[str], rows: Sequence[int], step: int = 0) -> dict[str, list[float]]:
        """By reward, a number for each turn; `rows` say which record each answers. A turn without answer has zeros.

        Rewrites of one request are drawn from the same noise, which is another at every `step`: a policy cannot learn
        the noise of a request by heart.
        """
        key = (step, *rows, *turns)
        if self._known is not None and self._known[0] == key:
            return self._known[1]
        given = rewrites(turns)
        good = [index for index, text in enumerate(given) if text is not None]
        texts, seeds = [given[i] or "" for i in good], [NOISES * step + rows[i] for i in good]
        batch = RewardBatch(
            [self.records[rows[i]] for i in good], texts, lambda: self.generator.draw(texts, seeds), self.lexicon
        )
        columns = {name: [0.0] * len(turns) for name in self.rewards}
        for name, values in self.read(batch).items():
            for index, value in zip(good, _completed(values, [rows[i] for i in good]), strict=True):
                columns[name][index] = value
        self._known = (key, columns)
        return columns

    def read(self, batch: RewardBatch) -> dict[str, list[float]]:
        """By reward, a number for each rewrite of a batch; NaN where there is no reading."""
        return {name: reward(batch).tolist() if len(batch) else [] for name, reward in self.rewards.items()}


def names(rewards: Sequence[Reward]) -> list[str]:
    """The name of each reward in logs: its kind, numbered from the second of a kind on."""
    seen: Counter[str] = Counter()
    found = []
    for reward in rewards:
        seen[reward.kind] += 1
        found.append(f"{reward.kind}-{seen[reward.kind]}" if seen[reward.kind] > 1 else reward.kind)
    return found


def _completed(values: Sequence[float], rows: Sequence[int]) -> list[float]:
    """Missing readings replaced by the mean of their request's others, which neither pulls nor pushes; else by 0."""
    found = []
    for value, row in zip(values, rows, strict=True):
        others = [v for v, r in zip(values, rows, strict=True) if r == row and not math.isnan(v)]
        found.append((float(np.mean(others)) if others else 0.0) if math.isnan(value) else value)
    return found
