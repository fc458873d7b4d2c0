"""Binds a transformer to what it draws from: prompt features, input images and the target's grid.

Pipeline, training, distillation and server all come through here. Where the prefix does not depend on the time it is
computed once, with gradients if the model is being trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fourstroke.dit.cache import PrefixCache
from fourstroke.dit.layout import TOKENS_PER_SLOT, Grid, Layout
from fourstroke.dit.step_cache import FirstBlockCache
from fourstroke.dit.transformer import Transformer


class PromptFeatures(Protocol):
    """Encoded prompts: `features` (P, L, C) padded on the right, `lengths` (P,) on the CPU, so that nobody waits.

    `slots` (P, L) are true where input images belong; None of prompts without.
    """

    @property
    def features(self) -> Tensor: ...  # noqa: D102

    @property
    def lengths(self) -> Tensor: ...  # noqa: D102

    @property
    def slots(self) -> Tensor | None: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class InputImages:
    """Input images of P prompts as clean latents; every prompt has as many, of the same grids.

    `tokens` is (P or 1, tokens of all images, C), image by image, row by row. `tokens_per_slot` of them take the place
    of one vision slot (`sizes.tokens_per_slot`).
    """

    tokens: Tensor
    grids: tuple[Grid, ...]
    tokens_per_slot: int = TOKENS_PER_SLOT


@dataclass
class Conditioned:
    """The velocity of rows over their prefixes, which are there, or come with the `first` velocity."""

    model: Transformer
    cache: PrefixCache | None = None
    first: Callable[[Tensor, Tensor], tuple[Tensor, PrefixCache]] | None = None

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """`(x_t, t) -> velocity`, each (rows, N, C)."""
        if self.cache is not None:
            return self.model.denoise(x.to(self.model.dtype), t, self.cache)
        assert self.first is not None, "neither a prefix nor a way to it"
        found, self.cache = self.first(x.to(self.model.dtype), t)
        return found


Pair = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""As a velocity, of which there are two."""
TOGETHER = 2**15
"""Latents of both sides of guidance up to which they are evaluated in one pass: activations are those of so many."""


def together(first: Callable[[Tensor, Tensor], Tensor], second: Callable[[Tensor, Tensor], Tensor]) -> Pair:
    """The velocities of the same rows under two conditions, `(x_t, t) -> (velocity, velocity)`.

    Where both prefixes are there, and `TOGETHER` latents are not exceeded, it is one pass over the weights; results
    are the same up to rounding.
    """

    def pair(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        caches = [side.cache for side in (first, second) if isinstance(side, Conditioned) and side.cache is not None]
        if len(caches) < 2 or 2 * x.shape[0] * x.shape[1] > TOGETHER:
            return first(x, t), second(x, t)
        times = t[:1].expand(2 * len(t)) if t.stride() == (0,) else torch.cat((t, t))  # one time stays one
        both = dataclasses.replace(first, cache=PrefixCache.join(caches))  # type: ignore[type-var]
        return both(torch.cat((x, x)), times).tensor_split(2)  # type: ignore[return-value]

    return pair


def prefill(model: Transformer, text: PromptFeatures, grid: Grid, images: InputImages | None = None) -> PrefixCache:
    """Keys and values of P prompts and their input images, for targets of a grid (rows, columns).

    Raises:
        ValueError: vision slots that do not fit the images, or a transformer without `causal_condition`.
    """
    tokens, layout = _prefix(model, text, grid, images, 1)
    return model.prefill(text.features.to(model.dtype), layout, tokens)


def condition(
    model: Transformer,
    text: PromptFeatures,
    grid: Grid,
    images: InputImages | None = None,
    repeats: int = 1,
    step_cache: float = 0.0,
    one_pass: bool = False,
) -> Callable[[Tensor, Tensor], Tensor]:
    """The velocity under P prompts, `(x_t (P * repeats, N, C), t (P * repeats,)) -> (P * repeats, N, C)`.

    Every prompt serves `repeats` rows side by side. `x_t` may have any type; the velocity has the model's. With a
    `step_cache` above 0, the threshold of a `FirstBlockCache`, the velocity is for one walk through all steps, and each
    row is evaluated alone: which of its steps are whole is its own matter. With `one_pass` a prefix that serves one row
    is computed together with the first velocity (`Transformer.first_step`), not before it.

    Raises:
        ValueError: vision slots that do not fit the images, or a `step_cache` of a transformer without
            `causal_condition`.
    """
    dtype = model.dtype
    if model.config.causal_condition:
        if one_pass and repeats == 1 and not step_cache:
            return _in_one_pass(model, text, grid, images)
        cache = prefill(model, text, grid, images).repeat(repeats)
        if step_cache:
            return _skipping(model, cache, step_cache)
        return Conditioned(model, cache)
    if step_cache:
        raise ValueError("step_cache is for transformers with causal_condition; leave it out")
    tokens, layout = _prefix(model, text, grid, images, repeats)
    features = text.features.repeat_interleave(repeats, dim=0).to(dtype)
    return lambda x, t: model(x.to(dtype), t, features, layout, tokens)


def _in_one_pass(model: Transformer, text: PromptFeatures, grid: Grid, images: InputImages | None) -> Conditioned:
    tokens, layout = _prefix(model, text, grid, images, 1)
    features = text.features.to(model.dtype)
    return Conditioned(model, first=lambda x, t: model.first_step(x, t, features, layout, tokens))


def _skipping(model: Transformer, cache: PrefixCache, threshold: float) -> Callable[[Tensor, Tensor], Tensor]:
    rows = [(cache.row(index), FirstBlockCache(threshold)) for index in range(cache.rows)]

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        each = zip(x.to(model.dtype).split(1), t.split(1), rows, strict=True)
        return torch.cat([model.denoise(x, t, cache, steps=steps) for x, t, (cache, steps) in each])

    return velocity


def _prefix(
    model: Transformer, text: PromptFeatures, grid: Grid, images: InputImages | None, repeats: int
) -> tuple[Tensor | None, Layout]:
    """The input images' tokens, and the layout, of P * repeats rows."""
    layout = Layout.build(
        text.lengths.repeat_interleave(repeats),
        grid,
        text.slots,
        () if images is None else images.grids,
        text_tokens=text.features.shape[1],
        tokens_per_slot=TOKENS_PER_SLOT if images is None else images.tokens_per_slot,
        device=text.features.device,
    )
    if images is None:
        return None, layout
    tokens = images.tokens.to(model.dtype).expand(len(text.lengths), -1, -1)
    return tokens.repeat_interleave(repeats, dim=0), layout
