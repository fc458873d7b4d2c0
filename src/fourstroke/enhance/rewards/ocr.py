"""Whether the texts that a request quotes can be read in the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fourstroke.enhance.checks import quoted
from fourstroke.enhance.rewards.reward import Reward, RewardBatch
from fourstroke.evaluate.reading import compare, read_lines


@dataclass(frozen=True, kw_only=True)
class Ocr(Reward):
    """Mean over the request's quoted texts of how like (1 - normalised edit distance) the closest line is that
    RapidOCR reads, or all lines together; 1 where nothing is quoted.
    """

    kind: ClassVar[str] = "ocr"

    def __call__(self, batch: RewardBatch) -> Tensor:
        """Pictures of requests that quote nothing are not drawn for this."""
        asked = [quoted(request) for request in batch.requests]
        if not any(asked):
            return torch.ones(len(batch))
        pairs = zip(asked, batch.pictures, strict=True)
        return torch.tensor([likeness(texts, read_lines(picture)) if texts else 1.0 for texts, picture in pairs])


def likeness(texts: list[str], lines: list[str]) -> float:
    """How like the texts (one or more) are to what was read, in [0, 1]."""
    read = [*lines, " ".join(lines)]
    return sum(max(compare(line, text).ned for line in read) for text in texts) / len(texts)
