"""Which sample is drawn when, as a function of a seed and a number alone, so that a run can be taken up anywhere."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import numpy as np

SHARDS = 4
"""So many shards are drawn from at a time."""


class Schedule:
    """Draws from several streams, each as often as its weight says, at moments that chance spreads over the whole.

    Time is cut into equal parts for each stream, one for each of its draws; a draw is due at a random moment of its
    part. So no stream is ever more than a draw ahead or behind.
    """

    def __init__(self, weights: Sequence[float], seed: tuple[int, ...]) -> None:
        whole = sum(weights)
        self.rates, self.seed = [weight / whole for weight in weights], seed

    def draws(self, start: int = 0) -> Iterator[tuple[int, int]]:
        """Endless (stream, how many of its draws came before), from draw `start` on."""
        counts = self.counts(start)
        due = [(self._due(k, count), k, count) for k, count in enumerate(counts) if self.rates[k]]
        heapq.heapify(due)
        while True:
            _, stream, turn = due[0]
            heapq.heapreplace(due, (self._due(stream, turn + 1), stream, turn + 1))
            yield stream, turn

    def counts(self, start: int) -> list[int]:
        """How many of the first `start` draws are each stream's."""
        if start == 0 or len(self.rates) == 1:
            return [start if rate else 0 for rate in self.rates]
        low, high = 0.0, float(start + 2 * len(self.rates))
        while True:  # moments are distinct, so that one is found at which exactly `start` draws are past
            moment = (low + high) / 2
            counts = [self._past(k, moment) for k in range(len(self.rates))]
            if (past := sum(counts)) == start:
                return counts
            low, high = (moment, high) if past < start else (low, moment)

    def _due(self, stream: int, turn: int) -> float:
        chance = 0.5 if len(self.rates) == 1 else np.random.default_rng((*self.seed, stream, turn)).random()
        return (turn + chance) / self.rates[stream]

    def _past(self, stream: int, moment: float) -> int:
        if not self.rates[stream]:
            return 0
        near = max(0, int(moment * self.rates[stream]) - 1)
        return near + sum(self._due(stream, turn) <= moment for turn in range(near, near + 3))


class ShuffledIndices:
    """Members of a stream in an endless order: round after round, each a permutation of its own.

    With `blocks`, the first members' indices of shards, a round goes through shards in random order, a few at a time.
    """

    def __init__(self, members: np.ndarray, seed: tuple[int, ...], blocks: Sequence[int] = ()) -> None:
        self.members, self.seed = members, seed
        self.shards = np.searchsorted(np.asarray(blocks), members, side="right") if len(blocks) > SHARDS else None
        self._rounds: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, position: int) -> int:
        turn, place = divmod(position, len(self.members))
        if turn not in self._rounds:
            self._rounds = {key: value for key, value in self._rounds.items() if key == turn - 1}
            self._rounds[turn] = self._permutation(turn)
        return int(self._rounds[turn][place])

    def _permutation(self, turn: int) -> np.ndarray:
        rng = np.random.default_rng((*self.seed, turn))
        if self.shards is None:
            return rng.permutation(self.members)
        present, own = np.unique(self.shards, return_inverse=True)
        group = rng.permutation(len(present)) // SHARDS
        return self.members[np.lexsort((rng.random(len(self.members)), group[own]))]
