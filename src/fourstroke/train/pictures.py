"""What a run of the transformer sees: batches to train on, held-out ones, and the sheet drawn of their words."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from fourstroke import progress
from fourstroke.data.buckets import BucketConfig, Buckets
from fourstroke.data.encoded import FeatureStore, LatentStore
from fourstroke.data.encoding import own_size
from fourstroke.data.frames import Bucketed
from fourstroke.data.loader import Loader, LoaderConfig
from fourstroke.data.sample import Batch, Data
from fourstroke.data.sheet import contact_sheet
from fourstroke.files import save_image
from fourstroke.folder import ModelInfo
from fourstroke.parallel.mesh import data_shard, rank, world_size
from fourstroke.pipeline import Pipeline
from fourstroke.sizes import multiple
from fourstroke.train.encode import pictures
from fourstroke.train.loop import RunConfig

TOKENIZER_SAMPLES = 20_000
"""Samples whose captions a new tokenizer is made from."""
SHEET_STEPS = 20


class Pictures:
    """Batches by step of a dataset's training split, and some of its held-out split.

    Args:
        data: the dataset.
        buckets: the sizes; None is the size of `info` alone.
        loader: how it is read.
        batch_size: samples of a batch on each rank, or one number for each area.
        held_out: how many held-out samples there are to be; they are read on the first rank alone.
        info: the model's sizes.
        run: its seed and micro-batches.
        drop_prompt: share of the prompts that are left out.
        cache: latents and features that take the place of pixels and words where they are there.

    Raises:
        ValueError: in one line, if there is nothing to train on, or nothing held out.
    """

    def __init__(
        self,
        data: Data,
        buckets: BucketConfig | None,
        loader: LoaderConfig,
        batch_size: int | Sequence[int],
        held_out: int,
        info: ModelInfo,
        run: RunConfig,
        drop_prompt: float,
        cache: tuple[LatentStore | None, FeatureStore | None] = (None, None),
    ) -> None:
        self.dataset = data.open("train")
        frames = Bucketed(Buckets(buckets or own_size(info), multiple(info)))
        self.loader = Loader(
            self.dataset,
            frames,
            batch_size,
            config=loader,
            seed=run.seed,
            rank=rank(),
            ranks=world_size(),
            drop=drop_prompt,
            accumulate=run.accumulate,
            latents=cache[0],
            features=cache[1],
        )
        self._batches: Iterator[Batch] = iter(())
        self._next = -1, 0
        self.reports = {"train": self.loader.report}
        """By split, what was read and skipped."""
        self.held_out: list[Batch] = []
        if held_out and rank() == 0:
            size = min(held_out, batch_size if isinstance(batch_size, int) else min(batch_size))
            try:
                split = data.open("heldout")
                reader = Loader(split, frames, size, config=loader, latents=cache[0], features=cache[1])
                self.held_out = list(itertools.islice(reader.batches(), math.ceil(held_out / size)))
            except ValueError as error:
                raise ValueError(f"held-out samples: {error}; or train without any, held_out=0") from None
            self.reports["heldout"] = reader.report

    def batch(self, step: int) -> Batch:
        """This rank's batch of a step, or within `micro_batch` that one; quick where it follows the one before."""
        micro, count = data_shard().index // world_size(), self.loader.accumulate
        if (step, micro) != self._next:
            self._batches = itertools.islice(self.loader.batches(step), micro, None)
        self._next = divmod(step * count + micro + 1, count)
        return next(self._batches)

    def captions(self) -> list[str]:
        """Captions of the first samples."""
        records = (self.dataset.record(index) for index in range(min(len(self.dataset), TOKENIZER_SAMPLES)))
        return [caption.text for record in records for caption in record.captions]


def draw_sheet(pipe: Pipeline, batches: Sequence[Batch], count: int, file: Path) -> None:
    """Draw the prompts of the first `count` samples of some batches, edits after their input images, into one sheet."""
    wanted = []
    for batch in batches:
        inputs = pictures(batch) or [[] for _ in batch.prompts]
        if batch.input_sizes and not inputs[0]:
            continue  # their latents alone are there
        wanted += [(prompt, own, batch.size) for prompt, own in zip(batch.prompts, inputs, strict=True) if prompt]
    wanted = wanted[:count]
    images, captions = [], []
    tell, steps = progress.pictures("drawing held-out prompts"), min(SHEET_STEPS, pipe.info.num_inference_steps)
    for number, (prompt, own, (width, height)) in enumerate(wanted, start=1):
        seed = count - number
        drawn = pipe(prompt, images=own or None, width=width, height=height, num_inference_steps=steps, seed=seed)
        images += [*own, *drawn.images]
        captions += [*("before" for _ in own), prompt]
        tell(number, len(wanted))
    if images:
        upscale = max(1, 192 // max(image.width for image in images))
        save_image(contact_sheet(images, captions, columns=8, upscale=upscale), file)
