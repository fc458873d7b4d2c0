"""A model that sees, behind an OpenAI-compatible endpoint, as a reward."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from fourstroke.enhance.rewards.reward import Reward, RewardBatch
from fourstroke.evaluate.vision import VisionClient, VisionOptions


@dataclass(frozen=True, kw_only=True)
class Vision(VisionOptions, Reward):
    """The mean of the model's scores of a picture against its request; NaN where it gave none."""

    kind: ClassVar[str] = "vision"

    def __post_init__(self) -> None:
        Reward.__post_init__(self)
        VisionOptions.__post_init__(self)

    @cached_property
    def client(self) -> VisionClient:
        """Asks, and remembers what it was answered."""
        return VisionClient(self)

    def __call__(self, batch: RewardBatch) -> Tensor:
        """Several pictures are asked about at a time; raises EndpointError if none of them has an answer."""
        scores = self.client.score(batch.pictures, batch.records)
        return torch.tensor(list(scores.values())).mean(0)
