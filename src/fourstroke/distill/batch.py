"""What a step of the distillation draws: prompts alone, or edits with their input images, in a set ratio.

Qwen-Image-Flash (arXiv 2606.03746): half the steps on edits make the best student, of words alone too. A batch is of
one kind, since all its rows share one layout. Everything about it is a function of (seed, step). Where several
ranks train, each takes its rows of one that is drawn for all.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fourstroke.device import autocast
from fourstroke.distill.edits import by_shape, open_input, read_edits
from fourstroke.distill.prompts import PromptSet
from fourstroke.distill.rollout import Inputs
from fourstroke.distill.teachers import EDIT, prompt_category
from fourstroke.dit.layout import Grid
from fourstroke.flow.sampler import check_finite
from fourstroke.parallel.collectives import local_rows
from fourstroke.parallel.mesh import data_shard
from fourstroke.pipeline import Pipeline
from fourstroke.sizes import tokens_per_slot
from fourstroke.text import TextFeatures
from fourstroke.vae import Autoencoder


@dataclass(frozen=True, kw_only=True)
class Batch:
    """P prompts, encoded once for all models, and what they are about; `grid` is the target's."""

    prompts: list[str]
    text: TextFeatures
    grid: Grid
    latents: Tensor | None = None
    """The cached pictures of the prompts, (P, N, C), where there are any."""
    pictures: list[list[Image.Image]] | None = None
    """The input images of each prompt, where they are edits."""
    inputs: Inputs | None = None
    """The same as latents."""

    @property
    def categories(self) -> list[str]:
        """What each prompt is to the teachers."""
        return [EDIT if self.pictures else prompt_category(prompt) for prompt in self.prompts]


class Batches:
    """Makes the batch of a step: `size` prompts, or, in a share of the steps, as many edits."""

    def __init__(self, pipe: Pipeline, prompts: PromptSet, size: int, edits: Path | None = None, share: float = 0.0):
        self.pipe, self.prompts, self.size = pipe, prompts, size
        height, width = (pipe.info.factor * side for side in prompts.grid)
        self.info = dataclasses.replace(pipe.info, width=width, height=height)
        found = [] if edits is None else read_edits(edits, self.info, pipe.text_encoder)
        self.groups, self.share = by_shape(found), share if found else 0.0

    def make(self, step: int, generator: torch.Generator) -> Batch:
        """The batch of a step; `generator` is the step's own."""
        if is_edit(step, self.share):
            return self._edits(generator)
        return self._words(step - math.floor(step * self.share), generator)

    def _words(self, turn: int, generator: torch.Generator) -> Batch:
        """Prompts alone; `turn` counts such batches, in which short and rich captions take turns."""
        indices = self._choose(len(self.prompts), generator)
        captions = self.prompts.short if turn % 2 else self.prompts.rich
        prompts = [captions[i] for i in indices.tolist()]
        latents = self.prompts.latents
        return Batch(
            prompts=prompts,
            text=self._encode(prompts),
            grid=self.prompts.grid,
            latents=None if latents is None else latents[indices].float().to(self.pipe.device),
        )

    def _edits(self, generator: torch.Generator) -> Batch:
        """Edits of one shape, every edit of the file as likely as another; the target has their last image's size."""
        sizes = torch.tensor([len(group) for group in self.groups], dtype=torch.float64)
        group = self.groups[int(torch.multinomial(sizes, 1, generator=generator))]
        chosen = [group[i] for i in self._choose(len(group), generator).tolist()]
        pictures = [[open_input(path, self.info) for path in edit.images] for edit in chosen]
        prompts = [edit.prompt for edit in chosen]
        grids = group[0].grids
        tokens = input_tokens(self.pipe.autoencoder, pictures)
        return Batch(
            prompts=prompts,
            text=self._encode(prompts, pictures),
            grid=grids[-1],
            pictures=pictures,
            inputs=Inputs(tokens=tokens, grids=grids, tokens_per_slot=tokens_per_slot(self.info)),
        )

    def _choose(self, among: int, generator: torch.Generator) -> Tensor:
        size = self.size * data_shard().count
        return local_rows(torch.randint(among, (size,), generator=generator))

    def _encode(self, prompts: list[str], pictures: list[list[Image.Image]] | None = None) -> TextFeatures:
        with autocast(self.pipe.device):
            return self.pipe.text_encoder.encode(prompts, pictures)


def is_edit(step: int, share: float) -> bool:
    """Whether a step draws edits: of any n steps in a row n * share do, give or take one."""
    return math.floor((step + 1) * share) > math.floor(step * share)


@torch.no_grad()
def input_tokens(autoencoder: Autoencoder, pictures: Sequence[Sequence[Image.Image]]) -> Tensor:
    """The input images of each prompt, sizes alike, as clean latent tokens (P, tokens of all images, C)."""
    parameter = next(autoencoder.parameters())
    parts = []
    for column in zip(*pictures, strict=True):
        pixels = torch.from_numpy(np.stack([np.array(image.convert("RGBA")) for image in column]))
        x = pixels.permute(0, 3, 1, 2).to(parameter.device, parameter.dtype) / 127.5 - 1
        parts.append(check_finite(autoencoder.encode(x), "encoding the input images").flatten(2).mT)
    return torch.cat(parts, dim=1)
