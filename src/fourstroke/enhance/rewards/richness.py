"""How lively the frame of a picture is: a cheap stand-in for a judgement of its finish."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fourstroke.enhance.rewards.reward import Reward, RewardBatch

LIVELY = 24.0
"""Mean deviation from the median colour (of 255) in the frame of a picture at which richness is complete."""


@dataclass(frozen=True, kw_only=True)
class Richness(Reward):
    """How much the outer frame of the picture varies (`richness`); NaN of one that is to have nothing there."""

    kind: ClassVar[str] = "richness"

    def __call__(self, batch: RewardBatch) -> Tensor:
        """From the pixels alone."""
        return torch.tensor([math.nan if x.shape[2] == 4 else richness(x) for x in batch.pictures])


def richness(picture: np.ndarray) -> float:
    """How much the outer frame of a picture, (H, W, 3 or 4) uint8, varies: texture, light, a second colour.

    The frame is the outermost eighth on each side, where objects seldom reach, so it is the scene that counts.
    """
    pixels = picture[..., :3].astype(np.float32)
    height, width = pixels.shape[:2]
    edge = max(1, min(height, width) // 8)
    frame = np.ones((height, width), bool)
    frame[edge:-edge, edge:-edge] = False
    spread = float(np.abs(pixels[frame] - np.median(pixels[frame], axis=0)).mean())
    return min(1.0, spread / LIVELY)
