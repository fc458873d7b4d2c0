"""Whether the texts that a request quotes can be read in the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fourstroke.enhance.rewards.reward import Reward, RewardBatch
from fourstroke.evaluate.ocr import asked_texts, likeness, script_of
from fourstroke.evaluate.reading import read_lines


@dataclass(frozen=True, kw_only=True)
class Ocr(Reward):
    """Mean over the request's quoted texts of how like (1 - normalised edit distance) the closest line or run of
    lines is that RapidOCR reads; 1 where nothing is quoted.
    """

    kind: ClassVar[str] = "ocr"

    def __call__(self, batch: RewardBatch) -> Tensor:
        """Pictures of requests that quote nothing are not drawn for this."""
        asked = [asked_texts(record) for record in batch.records]
        if not any(asked):
            return torch.ones(len(batch))
        pairs = zip(asked, batch.pictures, strict=True)
        return torch.tensor(
            [likeness(texts, read_lines(x[..., :3], script_of(texts))) if texts else 1.0 for texts, x in pairs]
        )
