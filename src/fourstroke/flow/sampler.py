"""Euler sampling of the flow from noise to picture, with classifier-free guidance and noise from per-image seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fourstroke.flow.path import predict_x0

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, N, C), t (B,)) -> velocity (B, N, C)."""

OnStep = Callable[[int, int, Tensor], None]
"""(step just done from 1, number of steps, predicted clean latent (B, N, C)); may raise to stop."""


class NonFiniteError(RuntimeError):
    """A latent or a picture held NaN or infinity; the message names the stage."""


def check_finite(x: Tensor, stage: str) -> Tensor:
    """Return `x`, or raise `NonFiniteError` naming the stage if it holds NaN or infinity."""
    if not torch.isfinite(x).all():
        raise NonFiniteError(
            f"{stage} produced NaN or infinite values; try dtype=float32 or bfloat16 instead of float16, "
            "or check that the weights are undamaged"
        )
    return x


def step(x: Tensor, v: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """One Euler step along the flow, in the type of `x`.

    Args:
        x: latents (B, N, C) at `t`.
        v: their velocity (B, N, C), of any type.
        t, t_next: times from and to, (B,), or () where all rows have the same.

    Returns:
        (B, N, C): the latents at `t_next`.
    """
    return x + (t_next - t).to(x).view(-1, *[1] * (x.ndim - 1)) * v.to(x.dtype)


def euler(velocity: Velocity, x: Tensor, sigmas: Tensor, on_step: OnStep | None = None) -> Tensor:
    """Follow the flow along `sigmas`, one evaluation of `velocity` for each interval.

    Args:
        velocity: the model with its condition bound.
        x: (B, N, C), noise at t = sigmas[0].
        sigmas: (steps + 1,), falling, ending at 0.
        on_step: called after every step with the clean latent that the step predicted.

    Returns:
        (B, N, C): the latent at t = 0.
    """
    steps = len(sigmas) - 1
    times = sigmas.to(x.device)[:, None].expand(-1, len(x))
    for index in range(steps):
        v = velocity(x, times[index])
        if on_step is not None:
            on_step(index + 1, steps, predict_x0(x, v.to(x.dtype), times[index]))
        x = step(x, v, times[index], times[index + 1])
    return check_finite(x, "denoising")


def guide(conditional: Tensor, unconditional: Tensor, scale: float | Tensor) -> Tensor:
    """Classifier-free guidance v_u + scale (v_c - v_u) of velocities (B, N, C), in float32 whatever their type.

    The scale enlarges their difference, and with it what half precision would round away. It may be (B, 1, 1).
    """
    v_c, v_u = conditional.float(), unconditional.float()
    return v_u + scale * (v_c - v_u)


def guided(conditional: Velocity, unconditional: Velocity, scale: float) -> Velocity:
    """A velocity under guidance (`guide`); scale 1 needs no second evaluation."""
    if scale == 1.0:
        return conditional

    def velocity(x_t: Tensor, t: Tensor) -> Tensor:
        return guide(conditional(x_t, t), unconditional(x_t, t), scale)

    return velocity


def seeded_noise(seeds: Sequence[int], tokens: int, channels: int) -> Tensor:
    """Noise (len(seeds), tokens, channels) in float32 on the CPU, each row drawn from its own seed alone."""
    return torch.stack([torch.randn(tokens, channels, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
