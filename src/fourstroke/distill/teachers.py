"""Frozen teachers with guidance, and which of them leads at which step of the student.

Qwen-Image-Flash (arXiv 2606.03746), step-wise multi-teacher: at the student's step k the score is
s_real = sum_m lambda[k, m](c) s_m with weights that sum to 1. The base teacher anchors the early, noisy steps and
specialists come in late, each for its own categories c of prompts. Its paper gives no numbers for lambda; here every
specialist states its share at each step and the base teacher has what is left.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from fourstroke.dit import InputImages, PrefixCache, condition, prefill
from fourstroke.dit.layout import Grid
from fourstroke.flow.sampler import Velocity, guided
from fourstroke.lora import active_lora
from fourstroke.pipeline import Pipeline
from fourstroke.ranges import Fraction, NonNegative, check_ranges
from fourstroke.text import TextFeatures
from fourstroke.vae import Autoencoder

QUOTED = re.compile(r'"[^"]+"|“[^”]+”')
EDIT = "Edit"
"""The category of prompts with input images; those without are told apart by `prompt_category`."""


@dataclass(frozen=True, kw_only=True)
class SpecialistConfig:
    """A checkpoint that teaches some categories: `shares` holds its lambda at each step of the student.

    It draws in the latents of the base teacher's autoencoder. No categories means all of them.
    """

    model: Path
    shares: tuple[Fraction, ...]
    categories: tuple[str, ...] = ()
    guidance: NonNegative = 1.0

    def __post_init__(self) -> None:
        check_ranges(self)


def teacher_mix(specialists: Sequence[SpecialistConfig], step: int, categories: Sequence[str]) -> Tensor:
    """lambda[k, m](c) at the student's step k for prompts of the categories c: (prompts, 1 + specialists).

    The first column is the base teacher's; every row sums to 1.

    Raises:
        ValueError: if the specialists of a category claim more than 1 together.
    """
    rows = []
    for category in categories:
        shares = [s.shares[step] if not s.categories or category in s.categories else 0.0 for s in specialists]
        if sum(shares) > 1 + 1e-6:
            raise ValueError(f"the specialists' shares of '{category}' at step {step} add up to {sum(shares):g}")
        rows.append([max(0.0, 1.0 - sum(shares)), *shares])
    return torch.tensor(rows)


def prompt_category(prompt: str) -> str:
    """`Text` for a prompt that quotes words to be drawn, else `General`."""
    return "Text" if QUOTED.search(prompt) else "General"


class Teacher:
    """A frozen checkpoint with its guidance scale, and one of its own for edits, if there is one."""

    def __init__(self, pipe: Pipeline, guidance: float, edit_guidance: float | None = None) -> None:
        self.pipe, self.guidance = pipe, guidance
        self.edit_guidance = guidance if edit_guidance is None else edit_guidance
        for part in (pipe.transformer, pipe.autoencoder, pipe.text_encoder):
            part.requires_grad_(False).eval()
        self._nothing = pipe.text_encoder.encode([""])
        self._unconditional: dict[Grid, PrefixCache] = {}

    @torch.no_grad()
    def velocity(
        self,
        prompts: list[str],
        grid: Grid,
        repeats: int,
        text: TextFeatures | None = None,
        pictures: Sequence[Sequence[Image.Image]] | None = None,
        inputs: InputImages | None = None,
    ) -> Velocity:
        """The guided velocity under `prompts`, each serving `repeats` rows; `text` spares encoding them again.

        `pictures` are the input images of each prompt, and `inputs` the same as latents: the branch without words sees
        them too, as it does in the pipeline.
        """
        model, encoder = self.pipe.transformer, self.pipe.text_encoder
        text = encoder.encode(prompts, pictures) if text is None else text
        with active_lora(model, None):  # a student may live in it as an adapter
            velocity: Velocity = condition(model, text, grid, inputs, repeats)
            guidance = self.guidance if pictures is None else self.edit_guidance
            if guidance != 1.0:
                if pictures is None:
                    nothing = self._blind(grid, repeats * len(prompts))
                else:
                    nothing = condition(model, encoder.encode([""] * len(prompts), pictures), grid, inputs, repeats)
                velocity = guided(velocity, nothing, guidance)

        def plain(x: Tensor, t: Tensor) -> Tensor:
            with active_lora(model, None):
                return velocity(x, t)

        return plain

    def _blind(self, grid: Grid, rows: int) -> Velocity:
        """The velocity under the empty prompt; its prefix is the same at every step, and computed once for a grid."""
        model = self.pipe.transformer
        if not model.config.causal_condition:
            return condition(model, self._nothing, grid, repeats=rows)
        if grid not in self._unconditional:
            self._unconditional[grid] = prefill(model, self._nothing, grid)
        cache, dtype = self._unconditional[grid].repeat(rows), model.dtype
        return lambda x, t: model.denoise(x.to(dtype), t, cache)


def load_specialists(configs: Sequence[SpecialistConfig], base: Pipeline, steps: int) -> list[Teacher]:
    """The specialists of a student of `steps` steps, on the base teacher's device.

    Raises:
        ValueError: if one has shares for another number of steps, or draws in other latents than the base teacher.
    """
    teachers = []
    for config in configs:
        if len(config.shares) != steps:
            raise ValueError(f"{config.model} has {len(config.shares)} shares; the student has {steps} steps")
        dtype = next(base.autoencoder.parameters()).dtype
        pipe = Pipeline.from_pretrained(config.model, dtype=dtype, device=str(base.device))
        if not _same_latents(pipe.autoencoder, base.autoencoder):
            raise ValueError(f"{config.model} has another autoencoder than the base teacher; their latents differ")
        teachers.append(Teacher(pipe, config.guidance))
    return teachers


def _same_latents(first: Autoencoder, second: Autoencoder) -> bool:
    """Whether two autoencoders agree in configuration, latent statistics included, and in every weight."""
    weights = second.state_dict()
    return first.config == second.config and all(torch.equal(v, weights[k]) for k, v in first.state_dict().items())
