"""The linear path between picture and noise: the one place where the time convention is stated.

Time `t` runs from 0 (a clean latent `x_0`) to 1 (pure noise `e`), x_t = (1 - t) x_0 + t e, and a model predicts the
velocity v = dx_t/dt = e - x_0 (Qwen-Image-2.0 report, training objective). Sampling therefore goes from t = 1 to t = 0.
The words `t` and `sigma` name the same number: `t` on the path, `sigma` in a schedule.

Shapes: latents are (B, N, C); times are (B,), one for each sample.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def interpolate(x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The point x_t = (1 - t) x_0 + t e on the path."""
    t = _expand(t, x_0)
    return (1 - t) * x_0 + t * noise


def velocity(x_0: Tensor, noise: Tensor) -> Tensor:
    """The target e - x_0, the same at every t of one path."""
    return noise - x_0


def predict_x0(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """The clean latent that a velocity (B, N, C) at x_t implies: x_0 = x_t - t v."""
    return x_t - _expand(t, x_t) * v


def sample_times(n: int, *, mean: float = 0.0, std: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """Draw n training times from a logit-normal distribution, stratified: one from each n-th of its mass.

    Args:
        n: how many times.
        mean: of the normal variable; positive values favour noise.
        std: of the normal variable; larger values favour both ends.
        generator: the random source (CPU).

    Returns:
        (n,) float32 in (0, 1), in random order.
    """
    strata = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
    normal = math.sqrt(2) * torch.erfinv((2 * strata - 1).clamp(-0.9999, 0.9999))
    return torch.sigmoid(mean + std * normal)


def _expand(t: Tensor, like: Tensor) -> Tensor:
    return t.to(like.dtype).view(-1, *([1] * (like.ndim - 1)))
