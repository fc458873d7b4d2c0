"""Scorers elsewhere, each in an environment of its own, behind `POST /score` (the form of UniRL's reward service)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from fourstroke.enhance.endpoint import EndpointError
from fourstroke.enhance.rewards.reward import Reward, RewardBatch
from fourstroke.evaluate.score_service import ScoreClient, ScoreOptions
from fourstroke.ranges import Finite


@dataclass(frozen=True, kw_only=True)
class Http(ScoreOptions, Reward):
    """The scorer `reward` (clip, hpsv3, imagereward …) of a service; what it says is mapped from `low` … `high` to
    [0, 1] and cut there. `metric` is one of its readings; without one their mean counts.
    """

    kind: ClassVar[str] = "http"

    metric: str | None = None
    low: Finite = 0.0
    high: Finite = 1.0

    def __post_init__(self) -> None:
        Reward.__post_init__(self)
        ScoreOptions.__post_init__(self)
        if self.low >= self.high:
            raise ValueError(f"low={self.low}, high={self.high}: choose low to be less than high")

    @cached_property
    def client(self) -> ScoreClient:
        """Asks, and remembers what it was answered."""
        return ScoreClient(self)

    def __call__(self, batch: RewardBatch) -> Tensor:
        """NaN where the service has no number; raises EndpointError if it has none for any picture."""
        scores = self.client.score(batch.pictures, batch.records)
        names = list(scores) if self.metric is None else [self.metric]
        if not all(name in scores for name in names) or not names:
            raise EndpointError(f"{self.url} gave no number for {self.reward or self.metric}")
        values = torch.tensor([scores[name] for name in names]).nanmean(0)
        return ((values - self.low) / (self.high - self.low)).clamp(0, 1)
