"""Scorers elsewhere, each in an environment of its own, behind `POST /score` (the form of UniRL's reward service)."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from fourstroke.enhance.endpoint import EndpointError, Service
from fourstroke.enhance.rewards.reward import Reward, RewardBatch
from fourstroke.ranges import Finite, Natural, Positive


@dataclass(frozen=True, kw_only=True)
class Http(Reward):
    """The scorer `reward` (clip, hpsv3, imagereward …) of a service; what it says is mapped from `low` … `high` to
    [0, 1] and cut there. `metric` is one of its readings; without one their mean counts.
    """

    kind: ClassVar[str] = "http"

    url: str
    """Before `/score`."""
    reward: str
    metric: str | None = None
    low: Finite = 0.0
    high: Finite = 1.0
    timeout: Positive = 120.0
    retries: Natural = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low >= self.high:
            raise ValueError(f"low={self.low}, high={self.high}: choose low to be less than high")

    def __call__(self, batch: RewardBatch) -> Tensor:
        """One call for the batch. Raises EndpointError if there is no score for each picture."""
        pairs = zip(batch.requests, batch.pictures, strict=True)
        asked = [
            {
                "history": [{"text": request, "image_b64": _png(Image.fromarray(picture))}],
                "required_rewards": [self.reward],
            }
            for request, picture in pairs
        ]
        service = Service(url=self.url, timeout=self.timeout, retries=self.retries)
        answer = service.post("score", {"requests": asked})
        results = answer.get("results") if isinstance(answer, dict) else None
        if not isinstance(results, list) or len(results) != len(batch):
            raise EndpointError(f"{self.url} gave no result for each of {len(batch)} pictures")
        values = torch.tensor([self._value(result) for result in results])
        return ((values - self.low) / (self.high - self.low)).clamp(0, 1)

    def _value(self, result: Any) -> float:
        found = result.get(self.reward) if isinstance(result, dict) else None
        readings = found if isinstance(found, dict) else {self.metric: found}
        chosen = [readings.get(self.metric)] if self.metric is not None else list(readings.values())
        numbers = [float(value) for value in chosen if isinstance(value, (int, float)) and not isinstance(value, bool)]
        if not numbers or len(numbers) != len(chosen):
            raise EndpointError(f"{self.url} gave no number for {self.reward}: {str(result)[:200]}")
        return sum(numbers) / len(numbers)


def _png(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
