"""What a reward is: `Reward(batch) -> Tensor`, a number in [0, 1] for each rewrite of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from torch import Tensor

from fourstroke.data.sample import Record
from fourstroke.enhance.checks import Lexicon
from fourstroke.ranges import NonNegative, check_ranges


class RewardBatch:
    """Rewrites with the requests that they answer, and their pictures, which are drawn when one is first looked at.

    Turns that hold no rewrite are not among them; every reward of theirs is 0.
    """

    def __init__(
        self,
        records: Sequence[Record],
        rewrites: Sequence[str],
        draw: Callable[[], list[np.ndarray]],
        lexicon: Lexicon | None = None,
    ) -> None:
        self.records, self.rewrites, self.lexicon = records, rewrites, lexicon or Lexicon()
        self._draw = draw

    def __len__(self) -> int:
        return len(self.rewrites)

    @property
    def requests(self) -> list[str]:
        """What was asked for."""
        return [record.captions[0].text for record in self.records]

    @cached_property
    def pictures(self) -> list[np.ndarray]:
        """What the frozen generator drew of each rewrite, as `Generator.draw` gives it."""
        return self._draw()


@dataclass(frozen=True, kw_only=True)
class Reward(ABC):
    """A kind of reward in a recipe; subclasses add their options. Rewards are summed by `weight`, 0 leaves one out."""

    kind: ClassVar[str]

    weight: NonNegative = 1.0

    def __post_init__(self) -> None:
        check_ranges(self)

    @abstractmethod
    def __call__(self, batch: RewardBatch) -> Tensor:
        """(n,) float in [0, 1], one for each rewrite; NaN where there is no reading."""
