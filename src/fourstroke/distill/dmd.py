"""Distribution matching: move the student's samples from where their own score points to where the teacher's points.

Qwen-Image-2.0 report, few-step distillation, and Qwen-Image-Flash (arXiv 2606.03746): a sample x of the student is
noised again, x_t = (1 - t) x + t xi, and the gradient on x is (s_fake - s_real)(x_t, t, c). Both scores come from
velocity models, so their difference is, up to a factor of t, one of clean predictions; it is divided by the mean
absolute residual of the teacher, as DMD2 does (arXiv 2405.14867), which takes the place of that factor and of every
other weight over t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fourstroke.flow import path
from fourstroke.flow.sampler import Velocity
from fourstroke.ranges import Finite, NonNegative, PositiveFraction, check_ranges


@dataclass(frozen=True, kw_only=True)
class RenoiseConfig:
    """The distribution of the time t at which samples are noised again; draws stay within [low, high].

    `mean` and `std` are those of the logit-normal distribution. The reports name it without its numbers.
    """

    kind: Literal["logit-normal", "uniform"] = "logit-normal"
    mean: Finite = 0.0
    std: NonNegative = 1.0
    low: PositiveFraction = 0.02
    high: PositiveFraction = 0.98

    def __post_init__(self) -> None:
        check_ranges(self)
        if not 0 < self.low < self.high <= 1:
            raise ValueError(f"low and high are {self.low} and {self.high}; choose 0 < low < high <= 1")

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n times (n,), stratified, in random order."""
        if self.kind == "logit-normal":
            return path.sample_times(n, mean=self.mean, std=self.std, generator=generator).clamp(self.low, self.high)
        strata = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
        return self.low + (self.high - self.low) * strata


def dmd_gradient(x: Tensor, fake: Tensor, real: Tensor) -> Tensor:
    """The gradient of the matching objective with respect to the student's samples.

    Args:
        x: samples of the student (B, N, C).
        fake: the clean latent that the fake score sees in the noised samples (B, N, C).
        real: the one that the guided teacher sees (B, N, C).

    Returns:
        (B, N, C): (fake - real) / mean |x - real|, the mean taken within each sample.
    """
    residual = (x - real).abs().flatten(1).mean(1).clamp_min(1e-6)
    return (fake - real) / residual.view(-1, *([1] * (x.ndim - 1)))


def dmd_loss(x: Tensor, gradient: Tensor) -> Tensor:
    """A scalar whose gradient on `x` is `gradient / x.numel()`; its value is half the mean square of `gradient`."""
    return 0.5 * F.mse_loss(x.float(), (x - gradient).detach().float())


def flow_matching_loss(velocity: Velocity, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Mean squared error of the velocity on the path from `x_0` to `noise` (both (B, N, C)) at times t (B,)."""
    v = velocity(path.interpolate(x_0, noise, t), t)
    return F.mse_loss(v.float(), path.velocity(x_0, noise))
