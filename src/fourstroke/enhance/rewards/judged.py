"""Any judge of pictures as a reward: `judge: {judge: {kind: vqa, …}, score: all}`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from fourstroke.enhance.rewards.reward import Reward, RewardBatch
from fourstroke.evaluate.judges import Judge, JudgeOption
from fourstroke.ranges import Finite


@dataclass(frozen=True, kw_only=True)
class Judged(Reward):
    """What a judge says of a picture against its request, mapped from `low` … `high` to [0, 1] and cut there; NaN where
    it says nothing. `score` is one of its readings; without one their mean counts.
    """

    kind: ClassVar[str] = "judge"

    judge: JudgeOption
    score: str | None = None
    low: Finite = 0.0
    high: Finite = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low == self.high:
            raise ValueError(f"low={self.low}, high={self.high}: choose two numbers; high below low turns it around")

    @cached_property
    def opened(self) -> Judge:
        """The judge; it learns now if it has to."""
        return self.judge.open()

    def __call__(self, batch: RewardBatch) -> Tensor:
        """Raises ValueError if the judge has no such reading."""
        scores = self.opened.score(batch.pictures, batch.records)
        names = list(scores) if self.score is None else [self.score]
        if missing := [name for name in names if name not in scores]:
            raise ValueError(f"{self.judge.kind} has no score {missing[0]!r}; it has {', '.join(scores) or 'none'}")
        values = torch.tensor([scores[name] for name in names]) if names else torch.full((1, len(batch)), torch.nan)
        return ((values.nanmean(0) - self.low) / (self.high - self.low)).clamp(0, 1)
