"""What a step of the distillation draws: prompts alone, or edits with their input images, in a set ratio.

Qwen-Image-Flash (arXiv 2606.03746): half the steps on edits make the best student, of words alone too. A batch is of
one kind, since all its rows share one layout. Everything about it is a function of (seed, step). Where several ranks
train, each takes its rows of one that is drawn for all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from fourstroke.data.datasets.mixture import stretches
from fourstroke.data.prompts import input_images
from fourstroke.data.sample import Dataset, Record, SampleError, Size, hints
from fourstroke.device import autocast
from fourstroke.distill.teachers import EDIT, prompt_category
from fourstroke.dit import InputImages
from fourstroke.dit.layout import Grid
from fourstroke.flow.sampler import check_finite
from fourstroke.parallel.collectives import local_rows
from fourstroke.parallel.mesh import data_shard
from fourstroke.pipeline import Pipeline
from fourstroke.sizes import fit, fit_size, tokens_per_slot
from fourstroke.text import TextFeatures
from fourstroke.vae import Autoencoder

T = TypeVar("T")

TRIES = 1000
"""Samples in a row that may be unusable before a dataset is given up."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """P prompts, encoded once for all models, and what they are about; `grid` is the target's."""

    prompts: list[str]
    text: TextFeatures
    grid: Grid
    latents: Tensor | None = None
    """The pictures of the prompts (P, N, C), where they were asked for."""
    pictures: list[list[Image.Image]] | None = None
    """The input images of each prompt, where they are edits."""
    inputs: InputImages | None = None
    """The same as latents."""

    @property
    def categories(self) -> list[str]:
        """What each prompt is to the teachers."""
        return [EDIT if self.pictures else prompt_category(prompt) for prompt in self.prompts]


@dataclass(frozen=True)
class Group:
    """Samples of which a batch can be made, and how often it is."""

    weight: float
    indices: Sequence[int]


class Batches:
    """Makes the batch of a step: `count` prompts, or, in a share of the steps, as many edits.

    Prompts are drawn at one of `sizes` (width, height), another in each batch, and edits at the first one's area. Of
    several captions of a sample one is taken, each in turn. With `latents` prompts come with their pictures, scaled and
    cropped to the size.
    The parts of a mixture are drawn from by their weights, one in each batch. A sample that cannot be used is named,
    and the next one stands in for it.

    Raises:
        ValueError: if `data` holds edits, or `edits` none that can be used, or a size is not of whole latents.
    """

    def __init__(
        self,
        pipe: Pipeline,
        data: Dataset,
        sizes: Sequence[Size],
        count: int,
        edits: Dataset | None = None,
        share: float = 0.0,
        latents: bool = False,
    ) -> None:
        self.pipe, self.data, self.edits, self.count = pipe, data, edits, count
        factor = pipe.info.factor
        if odd := [side for size in sizes for side in size if side % factor]:
            raise ValueError(f"{odd[0]} is no side of a picture here: make it a multiple of {factor} pixels")
        (width, height), self.sizes, self.latents = sizes[0], sizes, latents
        self.info = dataclasses.replace(pipe.info, width=width, height=height)
        self._named: set[str] = set()
        self._records: dict[int, Record] = {}
        self.parts = _parts(data)
        self.groups = [] if edits is None else self._by_shape(edits)
        self.share = share if self.groups else 0.0

    def make(self, step: int, generator: torch.Generator) -> Batch:
        """The batch of a step; `generator` is the step's own, the same on all ranks."""
        if is_edit(step, self.share):
            return self._edits(step, generator)
        return self._words(step - math.floor(step * self.share), generator)

    def _words(self, turn: int, generator: torch.Generator) -> Batch:
        """Prompts alone; `turn` counts such batches, in which the captions of a sample take turns."""
        size = self.sizes[int(torch.randint(len(self.sizes), (), generator=generator))]

        def read(index: int) -> tuple[str, Image.Image | None]:
            prompt = self._caption(self.data.record(index), turn)
            return prompt, self._picture(index, size) if self.latents else None

        found = self._read(self.data, _chosen(self.parts, generator), generator, read)
        prompts, pictures = [prompt for prompt, _ in found], [picture for _, picture in found if picture is not None]
        latents = encode_images(self.pipe.autoencoder, pictures).float() if self.latents else None
        return Batch(prompts=prompts, text=self._encode(prompts), grid=self.info.grid(*size), latents=latents)

    def _edits(self, turn: int, generator: torch.Generator) -> Batch:
        """Edits of one shape; the target has their last image's size."""
        assert self.edits is not None
        edits = self.edits

        def read(index: int) -> tuple[str, list[Image.Image]]:
            images = [fit(Image.fromarray(pixels), self.info) for pixels in input_images(edits, index)]
            return self._caption(self._records.get(index) or edits.record(index), turn), images

        found = self._read(edits, _chosen(self.groups, generator), generator, read)
        prompts, pictures = [prompt for prompt, _ in found], [images for _, images in found]
        grids = tuple(self.info.grid(*image.size) for image in pictures[0])
        columns = [encode_images(self.pipe.autoencoder, column) for column in zip(*pictures, strict=True)]
        return Batch(
            prompts=prompts,
            text=self._encode(prompts, pictures),
            grid=grids[-1],
            pictures=pictures,
            inputs=InputImages(
                tokens=torch.cat(columns, dim=1), grids=grids, tokens_per_slot=tokens_per_slot(self.info)
            ),
        )

    def _read(
        self, dataset: Dataset, among: Sequence[int], generator: torch.Generator, read: Callable[[int], T]
    ) -> list[T]:
        """`read` of this rank's `count` random samples; one that cannot be read is named, and the next stands in."""
        chosen = local_rows(torch.randint(len(among), (self.count * data_shard().count,), generator=generator))
        found = []
        for first in chosen.tolist():
            for place in range(first, first + min(TRIES, len(among))):
                index = among[place % len(among)]
                try:
                    found.append(read(index))
                    break
                except ValueError as error:
                    self._name(dataset, index, error)
            else:
                raise ValueError(f"{dataset.name}: {TRIES} samples in a row cannot be used; the reasons are above")
        return found

    def _by_shape(self, edits: Dataset) -> list[Group]:
        """The edits in groups that fit into one batch: of one part, with input images of the same sizes in order.

        Parts whose shapes are known are not looked at.
        """
        found: list[Group] = []
        for stretch in stretches(edits):
            known, groups = hints(stretch.dataset).shapes, dict[tuple[Size, ...], list[int]]()
            for place, index in enumerate(range(stretch.first, stretch.first + len(stretch.dataset))):
                try:
                    inputs = known[place % len(known)][1] if known else self._looked_at(edits, index).inputs
                    if not inputs:
                        raise ValueError("an edit needs an input image, and this one has none")
                    sizes = tuple(fit_size(*size, self.info) for size in inputs)
                except ValueError as error:
                    self._name(edits, index, error)
                    continue
                groups.setdefault(sizes, []).append(index)
            usable = sum(map(len, groups.values()))
            found += [Group(stretch.weight * len(each) / usable, each) for each in groups.values()]
        if not any(group.weight for group in found):
            raise ValueError(f"{edits.name} holds no edit that can be used; the reasons are above")
        return found

    def _looked_at(self, edits: Dataset, index: int) -> Record:
        """The record, which is kept; raises ValueError if it has no caption that can be used."""
        record = edits.record(index)
        self._caption(record, 0)
        self._records[index] = record
        return record

    def _caption(self, record: Record, turn: int) -> str:
        """The caption of this turn; raises ValueError if there is none or the text encoder refuses it."""
        if not record.captions:
            raise ValueError("it has no caption")
        text = record.captions[turn % len(record.captions)].text
        self.pipe.text_encoder.tokenize([text])
        return text

    def _picture(self, index: int, size: Size) -> Image.Image:
        """The picture at a size, RGBA; what does not fit its shape is cut off on both sides alike."""
        return ImageOps.fit(Image.fromarray(self.data.sample(index).image), size, Image.Resampling.LANCZOS)

    def _name(self, dataset: Dataset, index: int, error: ValueError) -> None:
        said = f"{dataset.name}, sample {index}: {error}"
        if said not in self._named:
            self._named.add(said)
            print(f"skipped {said}", flush=True)

    def _encode(self, prompts: list[str], pictures: list[list[Image.Image]] | None = None) -> TextFeatures:
        with autocast(self.pipe.device):
            return self.pipe.text_encoder.encode(prompts, pictures)


def _parts(data: Dataset) -> list[Group]:
    """The parts of a dataset, with their weights; raises ValueError if one of them holds edits."""
    found = []
    for stretch in stretches(data):
        with contextlib.suppress(SampleError):
            if stretch.dataset.record(0).inputs:
                raise ValueError(f"data holds edits ({stretch.dataset.name}): give them as `edits`")
        found.append(Group(stretch.weight, range(stretch.first, stretch.first + len(stretch.dataset))))
    return found


def _chosen(groups: Sequence[Group], generator: torch.Generator) -> Sequence[int]:
    """The samples of a group by weight; of a single one without a draw."""
    if len(groups) == 1:
        return groups[0].indices
    weights = torch.tensor([group.weight for group in groups], dtype=torch.float64)
    return groups[int(torch.multinomial(weights, 1, generator=generator))].indices


def is_edit(step: int, share: float) -> bool:
    """Whether a step draws edits: of any n steps in a row n * share do, give or take one."""
    return math.floor((step + 1) * share) > math.floor(step * share)


@torch.no_grad()
def encode_images(autoencoder: Autoencoder, pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size as clean latent tokens (B, h * w, C), row by row."""
    parameter = next(autoencoder.parameters())
    pixels = torch.from_numpy(np.stack([np.array(image.convert("RGBA")) for image in pictures]))
    x = pixels.permute(0, 3, 1, 2).to(parameter.device, parameter.dtype) / 127.5 - 1
    return check_finite(autoencoder.encode(x), "encoding the input images").flatten(2).mT
