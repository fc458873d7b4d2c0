"""On-policy segments: the student learns to go where the guided teacher would from the student's own states.

SMD (arXiv 2610.18472): the student runs its own few-step trajectory and its velocity at one step of it is regressed
onto the frozen teacher's. There is no fake score and no discriminator, so that one model is trained instead of two.
Unlike the warm-up (`rollout.trajectory_loss`), whose states are the teacher's, errors of earlier steps are seen here
and can be mended by later ones. What the teacher does within a step is ours: it takes `substeps` of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from fourstroke.device import autocast
from fourstroke.distill.objective import Scalars, Turn
from fourstroke.flow.sampler import euler
from fourstroke.ranges import Count, check_ranges


@dataclass(frozen=True, kw_only=True)
class Segments:
    """One segment of the student's own trajectory against `substeps` guided Euler steps of the teacher over it."""

    kind: ClassVar[str] = "segments"
    fake_score: ClassVar[bool] = False
    substeps: Count = 4

    def __post_init__(self) -> None:
        check_ranges(self)

    def loss(self, turn: Turn) -> Scalars:
        """Mean squared error of the velocity; `gap` is its root."""
        x_k, (start, end) = turn.x_k, turn.sigmas[turn.step : turn.step + 2].tolist()
        with torch.no_grad(), autocast(turn.device):
            reached = euler(turn.teacher(), x_k, torch.linspace(start, end, self.substeps + 1))
            target = (x_k - reached).float() / (start - end)
        t = turn.sigmas[turn.step].to(x_k).expand(len(x_k))
        with autocast(turn.device):
            velocity = turn.student(x_k, t)
        loss = F.mse_loss(velocity.float(), target)
        return {"loss": loss, "gap": loss.detach().sqrt()}
