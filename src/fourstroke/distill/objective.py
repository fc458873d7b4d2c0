"""What the student is trained by: the protocol of objectives, and distribution matching, the first of them.

An objective is a kind (`registry`, group `objectives`): a frozen dataclass of its options with a loss of one step of
the student's own trajectory. What it asks of models it asks through a `Turn`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Protocol

import torch
from torch import Tensor

from fourstroke.device import autocast
from fourstroke.distill.dmd import dmd_gradient, dmd_loss
from fourstroke.distill.rollout import clean_prediction, rollout
from fourstroke.flow import path
from fourstroke.flow.sampler import Velocity
from fourstroke.registry import Registered

Scalars = dict[str, Tensor]


@dataclass(kw_only=True)
class Turn:
    """One update of the student: noise, levels, and the models under the batch's condition.

    What needs no gradient stands in an autocast of its own: autocast keeps the weights that it converted, and those
    converted without gradient carry none.
    """

    step: int
    """Of the student's trajectory, from 0."""
    sigmas: Tensor
    """The student's grid (steps + 1,), falling from 1 to 0."""
    noise: Tensor
    """(B, N, C), where trajectories start."""
    again: Tensor
    """(B, N, C), to noise what the student drew."""
    t: Tensor
    """(B,), how much of it."""
    device: torch.device
    frozen: Velocity
    """The student without gradient."""
    bind: Callable[[str], Velocity]
    """`student` with gradient, or `fake`."""
    teacher: Callable[[], Velocity]
    """The guided teachers' mixture at this step."""

    @cached_property
    def student(self) -> Velocity:
        """The student with gradient, bound once."""
        return self.bind("student")

    @cached_property
    def x_k(self) -> Tensor:
        """What the student sees at this step of its own trajectory (B, N, C), without gradient."""
        with torch.no_grad(), autocast(self.device):
            return rollout(self.frozen, self.noise, self.sigmas, self.step)


class DistillObjective(Protocol):
    """A kind of objective in a recipe."""

    kind: ClassVar[str]
    fake_score: ClassVar[bool]
    """Whether it needs a fake score, which is then trained before each update of the student."""

    def loss(self, turn: Turn) -> Scalars:
        """`loss`, and what else is logged."""


ObjectiveOption = Annotated[DistillObjective, Registered("objectives")]
"""A recipe's key that names one: `objective: {kind: segments}`."""


@dataclass(frozen=True, kw_only=True)
class Matching:
    """Distribution matching: from where the fake score points to where the teacher's points (`dmd`)."""

    kind: ClassVar[str] = "matching"
    fake_score: ClassVar[bool] = True

    def loss(self, turn: Turn) -> Scalars:
        """At a random step of the student's trajectory; `gap` is that between both scores."""
        x_k = turn.x_k
        with autocast(turn.device):
            x = clean_prediction(turn.student, x_k, turn.sigmas[turn.step])
        with torch.no_grad(), autocast(turn.device):
            x_t = path.interpolate(x, turn.again, turn.t)
            fake = clean_prediction(turn.bind("fake"), x_t, turn.t)
            real = clean_prediction(turn.teacher(), x_t, turn.t)
        loss = dmd_loss(x, dmd_gradient(x.detach(), fake, real))
        return {"loss": loss, "gap": (fake - real).square().mean().sqrt()}
