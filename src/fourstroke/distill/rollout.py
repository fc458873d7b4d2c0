"""Trajectories: the student's own, so that it trains on what inference gives it (backward simulation, arXiv
2405.14867), and the teacher's in finer steps, from which the student first learns where each of its steps should lead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fourstroke.flow.path import predict_x0
from fourstroke.flow.sampler import Velocity, euler


@torch.no_grad()
def rollout(velocity: Velocity, noise: Tensor, sigmas: Tensor, step: int) -> Tensor:
    """What the student sees at a step of its trajectory: the steps before it are those of `flow.sampler.euler`.

    Args:
        velocity: the student with its condition bound.
        noise: (B, N, C), where the trajectory starts.
        sigmas: the student's grid (steps + 1,), falling from 1 to 0.
        step: which of its steps, from 0.

    Returns:
        The input of the step (B, N, C), without gradient.
    """
    if not 0 <= step < len(sigmas) - 1:
        raise ValueError(f"step {step} is not one of the {len(sigmas) - 1} steps of the student")
    return euler(velocity, noise, sigmas[: step + 1])


@torch.no_grad()
def trajectory(velocities: Sequence[Velocity], noise: Tensor, sigmas: Tensor, substeps: int) -> Tensor:
    """Where finer steps lead from noise: the states at the levels of a coarse grid, (B, steps + 1, N, C).

    Args:
        velocities: what is followed between each level and the next, one for every step of the grid.
        noise: (B, N, C), the first state.
        sigmas: the coarse grid (steps + 1,), falling from 1 to 0.
        substeps: equal Euler steps between two levels.
    """
    states = [noise]
    for velocity, start, end in zip(velocities, sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        states.append(euler(velocity, states[-1], torch.linspace(start, end, substeps + 1)))
    return torch.stack(states, dim=1)


def trajectory_loss(velocity: Velocity, states: Tensor, sigmas: Tensor) -> Tensor:
    """Mean squared error of single steps between the states (B, steps + 1, N, C) of a trajectory.

    The velocity at each level should lead straight to the next state. Every row of `velocity`'s condition serves its
    steps side by side: it is called once, with (B * steps, N, C).
    """
    steps = len(sigmas) - 1
    t = sigmas[:-1].to(states).repeat(len(states))
    target = (states[:, :-1] - states[:, 1:]) / (sigmas[:-1] - sigmas[1:]).to(states).view(steps, 1, 1)
    return F.mse_loss(velocity(states[:, :-1].flatten(0, 1), t).float(), target.flatten(0, 1))


def clean_prediction(velocity: Velocity, x_t: Tensor, t: Tensor) -> Tensor:
    """The clean latent (B, N, C), in float32, that a model sees in x_t at times t (B,), or at the one time t ()."""
    t = t.to(x_t.device).expand(len(x_t))
    return predict_x0(x_t, velocity(x_t, t).float(), t)
