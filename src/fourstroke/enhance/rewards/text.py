"""Rewards of the words alone: rules over a request and its rewrite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fourstroke.enhance.checks import language_kept, lost_words, quoted
from fourstroke.enhance.rewards.reward import Reward, RewardBatch
from fourstroke.ranges import Count, Natural


@dataclass(frozen=True, kw_only=True)
class Valid(Reward):
    """1 for every turn that holds the protocol's JSON."""

    kind: ClassVar[str] = "valid"

    def __call__(self, batch: RewardBatch) -> Tensor:
        """Only such turns are asked about."""
        return torch.ones(len(batch))


@dataclass(frozen=True, kw_only=True)
class Words(Reward):
    """Share of the request's quoted texts that the rewrite quotes verbatim; 1 where there are none."""

    kind: ClassVar[str] = "words"

    def __call__(self, batch: RewardBatch) -> Tensor:
        """By the checks that an enhancer's answers go through."""
        pairs = zip(batch.requests, batch.rewrites, strict=True)
        return torch.tensor([1 - len(lost_words(r, text)) / max(1, len(quoted(r))) for r, text in pairs])


@dataclass(frozen=True, kw_only=True)
class Language(Reward):
    """Whether the rewrite is in the request's language."""

    kind: ClassVar[str] = "language"

    def __call__(self, batch: RewardBatch) -> Tensor:
        """By script and function words."""
        pairs = zip(batch.requests, batch.rewrites, strict=True)
        return torch.tensor([float(language_kept(r, text)) for r, text in pairs])


@dataclass(frozen=True, kw_only=True)
class Length(Reward):
    """1 between `low` and `high` words, falling to 0 at half of `low` and at twice `high`."""

    kind: ClassVar[str] = "length"

    low: Natural = 25
    high: Natural = 80

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise ValueError(f"low={self.low}, high={self.high}: choose low to be at most high")

    def __call__(self, batch: RewardBatch) -> Tensor:
        """By words between spaces."""
        count = _words(batch)
        return torch.minimum(2 * count / max(1, self.low) - 1, 2 - count / max(1, self.high)).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Longer(Reward):
    """Words of a rewrite over `full`: a reward that is easy to hack, to show that the held-out judge catches it."""

    kind: ClassVar[str] = "longer"

    full: Count = 200

    def __call__(self, batch: RewardBatch) -> Tensor:
        """By words between spaces."""
        return (_words(batch) / self.full).clamp(max=1)


def _words(batch: RewardBatch) -> Tensor:
    return torch.tensor([float(len(text.split())) for text in batch.rewrites])
