"""The student's trajectory, so that it trains on what inference gives it (backward simulation, arXiv 2405.14867)."""

from __future__ import annotations

import torch
from torch import Tensor

from fourstroke.dit import Layout, Transformer
from fourstroke.dit.layout import Grid
from fourstroke.flow.path import clean
from fourstroke.flow.sampler import Velocity, euler
from fourstroke.pipeline import repeat
from fourstroke.text import TextFeatures


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


def clean_prediction(velocity: Velocity, x_t: Tensor, t: Tensor) -> Tensor:
    """The clean latent (B, N, C), in float32, that a model sees in x_t at times t (B,), or at the one time t ()."""
    t = t.to(x_t.device).expand(len(x_t))
    return clean(x_t, velocity(x_t, t).float(), t)


def bind(model: Transformer, text: TextFeatures, grid: Grid, repeats: int) -> Velocity:
    """The velocity of a model under prompts of its own, each serving `repeats` rows side by side.

    Where the prefix does not depend on t it is computed here, once, with a gradient if the model is being trained.
    """
    dtype = model.proj_out.weight.dtype
    if model.config.causal_condition:
        cache = model.prefill(text.features.to(dtype), Layout.build(text.lengths, grid)).repeat(repeats)
        return lambda x, t: model.denoise(x.to(dtype), t, cache)
    rows = repeat(text, repeats)
    layout = Layout.build(rows.lengths, grid)
    return lambda x, t: model(x.to(dtype), t, rows.features.to(dtype), layout)
