"""Pictures in the making: a request, its sequence of steps, and the batch whose sequences take their steps together.

A sequence under a mask keeps its picture where nothing is to change (`InpaintState`): after every step those latents
are put back on the straight path between the picture and the sequence's own noise, so that what is drawn anew grows
into what stays.
"""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from fourstroke.dit import FirstBlockCache, PrefixCache
from fourstroke.flow.path import interpolate, predict_x0
from fourstroke.flow.sampler import Velocity, guide, step
from fourstroke.pipeline import Pipeline
from fourstroke.text.templates import transparent

Condition = PrefixCache | Velocity
Strengths = tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class GenerationRequest:
    """One picture to draw; sizes are pixels, `inputs` are already fitted to the model (`sizes.fit`).

    `mask` (mode L, the picture's size) is 255 where the first input is drawn anew and 0 where it stays.
    `original_prompt` is what the user wrote, where `prompt` is a rewrite of it.
    """

    prompt: str
    width: int
    height: int
    seed: int
    num_inference_steps: int | None = None
    guidance_scale: float = 1.0
    negative_prompt: str = ""
    transparent: bool = False
    inputs: tuple[Image.Image, ...] = ()
    mask: Image.Image | None = None
    original_prompt: str | None = None
    factor: int = 16
    """Pixels of a latent along each side, the autoencoder's own."""
    lora: Strengths = ()
    """The adapters in use, by name, with strengths other than 0."""
    step_cache: float = 0.0
    """As of `Pipeline`; above 0 the picture is evaluated by itself."""

    @property
    def asked(self) -> str:
        """The prompt as the model reads it."""
        return transparent(self.prompt) if self.transparent else self.prompt

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width) in latents."""
        return self.height // self.factor, self.width // self.factor

    @property
    def tokens(self) -> int:
        """Latents of the picture."""
        return self.grid[0] * self.grid[1]

    @property
    def image_tokens(self) -> int:
        """Latents of the input images."""
        return sum(image.width * image.height for image in self.inputs) // self.factor**2

    @property
    def evaluations(self) -> int:
        """Rows that a step of this picture takes: two under guidance."""
        return 1 if self.guidance_scale == 1 else 2

    @property
    def source(self) -> tuple[object, ...]:
        """What pictures of one request have in common, their conditions; images are told apart by identity alone."""
        negative = self.negative_prompt if self.evaluations == 2 else None
        return self.asked, negative, self.grid, self.lora, *map(id, self.inputs)


class BatchKey(NamedTuple):
    """What sequences of one batch share: with much longer prefixes, the short ones would pay for the long ones.

    All are evaluated by the same weights, so they have the same adapters at the same strengths.
    """

    grid: tuple[int, int]
    image_tokens: int
    lora: Strengths


class InpaintState(NamedTuple):
    """What a mask keeps: the picture's own latents and the noise, (1, T, C), and where to draw, (1, T, 1)."""

    known: Tensor
    noise: Tensor
    free: Tensor


@dataclass(eq=False)
class Conditions:
    """What the pictures of one request are drawn from: computed with the first, let go with the last of them."""

    positive: Condition | None = None
    negative: Condition | None = None  # under guidance

    def clear(self) -> None:
        """Free their memory."""
        self.positive = self.negative = None


@dataclass(eq=False)
class Sequence:
    """A picture in the making."""

    request: GenerationRequest
    latent: Tensor  # (1, T, C), float32
    levels: list[float]
    conditions: Conditions
    inpaint: InpaintState | None = None
    step: int = 0
    caches: tuple[FirstBlockCache, FirstBlockCache] | None = None
    """Of its own side and of what guidance leads away from, where it may skip blocks."""

    @property
    def condition(self) -> Condition:
        """What it is drawn from."""
        assert self.conditions.positive is not None, "its conditions were let go"
        return self.conditions.positive

    @property
    def negative(self) -> Condition | None:
        """What guidance leads away from."""
        return self.conditions.negative

    @property
    def steps(self) -> int:
        """How many there will be."""
        return len(self.levels) - 1

    @property
    def key(self) -> BatchKey:
        """The batch it belongs to."""
        return BatchKey(self.request.grid, self.request.image_tokens, self.request.lora)


class Batch:
    """Sequences of one key that take their steps together; each at its own noise level."""

    def __init__(self, pipe: Pipeline) -> None:
        self.pipe = pipe
        self.sequences: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        """Let a sequence join; it starts at its own first level."""
        self.sequences.append(sequence)

    def discard(self, sequence: Sequence) -> None:
        """Let a sequence go, finished or not."""
        self.sequences.remove(sequence)

    def step(self) -> list[Tensor]:
        """Advance every sequence by one step; returns the clean latent that each predicts, (1, T, C).

        On a sequence's last step that is its picture.
        """
        sequences = self.sequences
        x = torch.cat([sequence.latent for sequence in sequences])
        now = torch.tensor([sequence.levels[sequence.step] for sequence in sequences], device=x.device)
        then = torch.tensor([sequence.levels[sequence.step + 1] for sequence in sequences], device=x.device)
        v = self._velocity(x, now)
        predicted = predict_x0(x, v, now)
        x = step(x, v, now, then)
        out = []
        for sequence, latent, guess, t in zip(sequences, x.split(1), predicted.split(1), then.split(1)):
            if sequence.inpaint is not None:
                known, noise, free = sequence.inpaint
                latent = torch.where(free, latent, interpolate(known, noise, t))
                guess = torch.where(free, guess, known)
            sequence.latent, sequence.step = latent, sequence.step + 1
            out.append(guess if sequence.step < sequence.steps else latent)
        return out

    def _velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """Under guidance a sequence is evaluated twice, in the same pass as all others."""
        guided = [index for index, sequence in enumerate(self.sequences) if sequence.negative is not None]
        sides = [(sequence.condition, sequence.caches and sequence.caches[0]) for sequence in self.sequences]
        for sequence in self.sequences:
            if sequence.negative is not None:
                sides.append((sequence.negative, sequence.caches and sequence.caches[1]))
        v = self._evaluate(torch.cat((x, x[guided])), torch.cat((t, t[guided])), sides)
        out, away = v[: len(self.sequences)].clone(), v[len(self.sequences) :]
        if guided:
            scales = torch.tensor([self.sequences[i].request.guidance_scale for i in guided], device=x.device)
            out[guided] = guide(out[guided], away, scales[:, None, None])
        return out

    def _evaluate(self, x: Tensor, t: Tensor, sides: abc.Sequence[tuple[Condition, FirstBlockCache | None]]) -> Tensor:
        """One pass for all rows whose prefix is there; those that may skip blocks, or have no prefix, one by one."""
        transformer = self.pipe.transformer
        inputs, out = x.to(next(transformer.parameters()).dtype), torch.empty_like(x)
        shared: list[tuple[int, PrefixCache]] = []
        for row, (condition, steps) in enumerate(sides):
            here = slice(row, row + 1)
            if not isinstance(condition, PrefixCache):
                out[here] = condition(inputs[here], t[here]).to(x.dtype)
            elif steps is not None:
                out[here] = transformer.denoise(inputs[here], t[here], condition, steps=steps).to(x.dtype)
            else:
                shared.append((row, condition))
        if shared:
            rows = [row for row, _ in shared]
            joined = PrefixCache.join([cache for _, cache in shared])
            out[rows] = transformer.denoise(inputs[rows], t[rows], joined).to(x.dtype)
        return out
