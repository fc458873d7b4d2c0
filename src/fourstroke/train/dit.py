"""Training the transformer by flow matching, from nothing or from a checkpoint, on anybody's pictures and edits.

Qwen-Image-2.0 report, training: linear path, target e - x_0, prompt dropped with probability .1; text to image (T2I)
and edits (TI2I) in one run. Text and input-image tokens are modulated from t = 0, so their keys and values do not
depend on the noise level: one prefix serves `noise_samples` rows of its picture, which costs far less than as many
pictures and lowers the variance over t.

All weights are trained, or a LoRA adapter of the transformer. A small family may train its text encoder too. Several
ranks (see `parallel`) train on their rows of one batch; noise is a function of (seed, step, row).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourstroke.data.buckets import BucketConfig
from fourstroke.data.encoded import FeatureStore, LatentStore, open_cache
from fourstroke.data.filters import encodable
from fourstroke.data.loader import LoaderConfig
from fourstroke.data.sample import Batch, Data
from fourstroke.device import autocast, pick_device, products_dtype, training_precision
from fourstroke.dit import InputImages, TransformerConfig, condition, prefill
from fourstroke.evaluate.validation import CheckpointPolicy, Validators, run_validators
from fourstroke.flow import path
from fourstroke.flow.schedule import ScheduleConfig, shift_factor
from fourstroke.folder import ModelInfo, write_info
from fourstroke.lora import LoraConfig, add_lora, lora_module, save_adapter
from fourstroke.parallel.collectives import local_rows
from fourstroke.parallel.mesh import data_shard, process_group, world_size
from fourstroke.parallel.noise import batch_rows, row_noise
from fourstroke.parallel.sharding import Sharded
from fourstroke.pipeline import Pipeline
from fourstroke.ranges import Count, Finite, Fraction, Natural, NonNegative, check_ranges
from fourstroke.recipe import resolved
from fourstroke.text import TextEncoder, TextFeatures
from fourstroke.text.small import SmallTextConfig
from fourstroke.train.encode import BatchEncoder, Frozen
from fourstroke.train.loop import RunConfig, Scalars, Trainer
from fourstroke.train.optimizer import OptimizerConfig
from fourstroke.train.pictures import Pictures, draw_sheet
from fourstroke.train.repa import SemanticsConfig, SemanticsHead
from fourstroke.train.start import Start, guidance_note, settle_info

HELD_OUT_NOISE = 2
"""Noise levels of each held-out sample, the same at every look."""


@dataclass(frozen=True, kw_only=True)
class DitRecipe:
    """Every number of a transformer run."""

    data: Data
    held_out: Natural = 256
    """Samples of the held-out split that the loss is measured on; 0 for data that has none."""
    buckets: BucketConfig | None = None
    """Sizes of the pictures; None is the model's own alone."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)

    cache: Path | None = None
    """Folder of latents and features that `fourstroke data prepare` made of this recipe; None encodes every batch."""
    cache_features: bool = True
    """The cache holds features of captions; without them captions are encoded with every batch, which a small text
    encoder does in no time."""

    init: str | None = None
    """A checkpoint to start from: a folder, a hub id, or a bundled one."""
    model: TransformerConfig | None = None
    """Sizes of a new transformer; beside `init` it may be left out, and must agree with it if it is not."""
    vae: Path | None = None
    """Folder of the frozen autoencoder; None is that of `init`."""
    text_from: Path | None = None
    """Folder with a trained `text_encoder` and `processor`; None is that of `init`."""
    text: SmallTextConfig | None = None
    """Sizes of a new text encoder, or those that the trained one must have."""
    freeze_text: bool = True
    """Leave the text encoder as it is, like the reports' Qwen3-VL; a new one cannot be frozen."""
    schedule: ScheduleConfig | None = None
    """Noise levels of sampling; None is the schedule of `init`, or Qwen-Image-2.1's."""
    info: ModelInfo | None = None
    """The trained model's name, sizes, steps and guidance; None is what `init` says."""

    lora: LoraConfig | None = None
    """Train an adapter of the transformer instead of its weights."""
    semantics: SemanticsConfig | None = None
    run: RunConfig
    optimizer: OptimizerConfig
    batch_size: Count
    """Samples of a batch on each rank."""
    batch_sizes: tuple[Count, ...] = ()
    """The same for each of `buckets.areas`, where they differ."""
    noise_samples: Count = 1
    """Noised copies of each picture in a batch."""
    drop_prompt: Fraction = 0.1
    time_mean: Finite = 0.0
    """Of the normal distribution of logit t; positive values favour noise."""
    time_std: NonNegative = 1.0
    time_shift: bool = False
    """Push times towards noise by the picture's size, as `schedule` does in sampling; wanted with several areas."""
    gradient_checkpointing: Natural = 0
    """Recompute every n-th block in the backward pass instead of keeping its activations; 1 is all, 0 none."""
    compile: bool = False
    """Compile the transformer's blocks."""
    validators: Validators = ()
    sheet: Natural = 16
    """Held-out prompts that are drawn at every look."""
    keep: CheckpointPolicy | None = None
    """By which of a look's scores the exported checkpoint is chosen; None exports the last."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.model is None and self.init is None:
            raise ValueError("there is no transformer: name the sizes of a new one, model, or a checkpoint, init")
        if self.text is None and self.text_from is None and self.init is None:
            raise ValueError("there is no text encoder: name the sizes of a new one, text, or a trained one, text_from")
        if self.vae is None and self.init is None:
            raise ValueError("there is no autoencoder: name its folder, vae, or a checkpoint, init")
        if self.info is not None and self.info.factor != ModelInfo.factor:
            raise ValueError(f"info.factor={self.info.factor}: leave it out, it is the autoencoder's own")
        if self.freeze_text and self.text_from is None and self.init is None:
            raise ValueError("freeze_text=true needs a trained text encoder: name text_from or init")
        areas = 1 if self.buckets is None else len(self.buckets.areas)
        if len(self.batch_sizes) not in (0, areas):
            raise ValueError(f"batch_sizes={list(self.batch_sizes)}: give one for each of {areas} areas, or none")
        if self.lora is not None and self.lora.rank == 0:
            object.__setattr__(self, "lora", None)
        if self.lora is not None and (self.init is None or not self.freeze_text):
            raise ValueError("lora adapts the transformer of a checkpoint: name it as init, and leave freeze_text true")


class DitStage:
    """Batches, loss, samples and export of the transformer and, if it is trained, its text encoder."""

    accumulates = True

    def __init__(self, recipe: DitRecipe) -> None:
        self.recipe, self.device, self.policy = recipe, pick_device(), recipe.keep
        self.start = Start(recipe.init, recipe.vae, recipe.text_from)
        self.info = settle_info(recipe.info, self.start)
        self.schedule = recipe.schedule or self.start.schedule or ScheduleConfig()
        if note := guidance_note(self.start, self.info, recipe.drop_prompt):
            print(note, flush=True)
        with training_precision(recipe.run.precision):
            frozen = products_dtype(self.device)
        cache: tuple[LatentStore | None, FeatureStore | None] = None, None
        if recipe.cache is not None:
            text = self.start.text if recipe.freeze_text and recipe.cache_features else None
            cache = open_cache(recipe.cache, self.start.vae, text)
        self.pictures = Pictures(
            recipe.data,
            recipe.buckets,
            replace(recipe.loader, filters=encodable(recipe.loader.filters, self.start.text)),
            recipe.batch_sizes or recipe.batch_size,
            recipe.held_out,
            self.info,
            recipe.run,
            recipe.drop_prompt,
            cache,
        )
        self.reports = self.pictures.reports
        self.validators = [config.open() for config in recipe.validators]
        torch.manual_seed(recipe.run.seed)  # new weights and heads: the same on every rank
        empty = world_size() > 1 and recipe.lora is None
        dtype = frozen if recipe.lora else torch.float32
        self.transformer = self.start.transformer(recipe.model, self.device, dtype, empty)
        self.transformer.gradient_checkpointing = recipe.gradient_checkpointing
        self.autoencoder = self.start.autoencoder(self.device, frozen)
        self.text_encoder = self.start.text_encoder(
            recipe.text, self.pictures.captions, self.device, frozen, not recipe.freeze_text
        )
        self.encoder = BatchEncoder(
            self.autoencoder, self.text_encoder, self.info, self.device, self.start.tokenizer, not recipe.freeze_text
        )
        if recipe.lora is not None:
            add_lora(self.transformer, recipe.lora, seed=recipe.run.seed)
        if recipe.compile:
            for block in self.transformer.transformer_blocks:
                block.compile()
        self._transformer = Sharded(self.transformer, ("prefill", "denoise"))
        self.start.fill(self.transformer, self.device)
        trained = self.transformer if recipe.lora is None else lora_module(self.transformer)
        self.models: dict[str, nn.Module] = {"transformer": trained}
        self._text_encoder: Sharded[TextEncoder] | None = None
        if not recipe.freeze_text:  # a frozen one is whole on every rank
            self._text_encoder = Sharded(self.text_encoder())
            self.models["text_encoder"] = self._text_encoder.model
        self.semantics: SemanticsHead | None = None
        if recipe.semantics is not None:
            if not self.transformer.config.causal_condition:
                raise ValueError("semantics needs a transformer with causal_condition")
            head = SemanticsHead(recipe.semantics, self.transformer.config.width, self.transformer.config.num_layers)
            self.semantics = head.to(self.device)
            self.models["semantics"] = Sharded(self.semantics.head).model
        self.batch_size = max(recipe.batch_sizes or [recipe.batch_size]) * recipe.noise_samples

    def loss(self, step: int) -> Scalars:
        """Mean squared error of the velocity over the batch of this step, and what the head's labels cost."""
        recipe, batch = self.recipe, self.pictures.batch(step)
        self.transformer.train()
        own, shard = recipe.run.seed * 1_000_003 + step, data_shard()
        if recipe.lora is not None and recipe.lora.dropout:
            torch.manual_seed(own * shard.count + shard.index)
        t = self._times(batch, recipe.noise_samples, torch.Generator().manual_seed(own))
        rows = batch_rows(len(batch.records), recipe.noise_samples)
        noise = row_noise(recipe.run.seed, step, rows, self._shape(batch), self.device)
        error, hidden = self._error(batch, t, noise, None if self.semantics is None else self.semantics.block)
        flow = error.mean()
        if self.semantics is None:
            return {"loss": flow}
        assert hidden is not None
        hidden = hidden.detach() if step < self.semantics.alone else hidden
        dropped = [not prompt for prompt in batch.prompts]
        named = self.semantics.losses(hidden, batch.records, batch.size, dropped, recipe.noise_samples)
        return {"loss": flow + self.semantics.weight * sum(named.values()), "flow": flow, **named}

    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """A sheet of held-out prompts, the held-out losses, and the metrics of the validators."""
        scores = self.held_out_scores()
        if self.recipe.sheet or self.recipe.validators:
            pipe = self.pipeline()
            draw_sheet(pipe, self.pictures.held_out, self.recipe.sheet, folder / f"step-{step:06d}.png")
            scores |= run_validators(self.validators, pipe, folder, step)
            del pipe
        self.autoencoder.release()
        self.text_encoder.release()
        return scores

    @torch.no_grad()
    def held_out_scores(self) -> dict[str, float]:
        """Mean losses over held-out samples, the noise always the same: `heldout`, and `heldout_edit` of edits."""
        self.transformer.eval()
        errors: dict[str, list[Tensor]] = {}
        for number, batch in enumerate(self.pictures.held_out):
            t = self._times(batch, HELD_OUT_NOISE, torch.Generator().manual_seed(number), shared=False)
            noise = row_noise(0, number, range(len(t)), self._shape(batch), self.device)
            name = "heldout_edit" if batch.input_sizes else "heldout"
            errors.setdefault(name, []).append(self._error(batch, t, noise)[0])
        return {name: torch.cat(found).mean().item() for name, found in errors.items()}

    def export(self, folder: Path) -> None:
        """Write the whole checkpoint, or that of an adapter; parts that were not trained are copied."""
        self.schedule.save_pretrained(folder / "scheduler")
        if self.recipe.lora is not None:
            assert self.recipe.init is not None
            save_adapter(folder, self.recipe.init, self.info, self.transformer)
            return
        self.transformer.save_pretrained(folder / "transformer")
        self.start.copy_frozen(folder, text=self.recipe.freeze_text)
        if not self.recipe.freeze_text:
            self.text_encoder().save_pretrained(folder / "text_encoder", folder / "processor")
        write_info(folder, self.info)

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Within the block the first rank's transformer and text encoder are plain and complete."""
        parts = self.transformer, self.text_encoder, self.encoder.text_encoder
        with contextlib.ExitStack() as stack:
            self.transformer = stack.enter_context(self._transformer.gathered())
            if self._text_encoder is not None:
                whole = stack.enter_context(self._text_encoder.gathered())
                self.text_encoder = self.encoder.text_encoder = Frozen(lambda: whole, whole)
            try:
                yield
            finally:
                self.transformer, self.text_encoder, self.encoder.text_encoder = parts

    def pipeline(self) -> Pipeline:
        """The parts as they are now, as a pipeline."""
        autoencoder, text_encoder = self.autoencoder(keep=False), self.text_encoder(keep=False)
        return Pipeline(self.transformer, autoencoder, text_encoder, self.schedule, self.info)

    def _times(self, batch: Batch, repeats: int, generator: torch.Generator, shared: bool = True) -> Tensor:
        """Times of this rank's rows (samples * repeats,), stratified over those of all ranks if they are `shared`."""
        mean = self.recipe.time_mean
        if self.recipe.time_shift:  # t -> f t / (1 + (f - 1) t) adds log f to logit t
            mean += math.log(shift_factor(math.prod(self.info.grid(*batch.size)), self.schedule))
        rows = len(batch.records) * repeats * (data_shard().count if shared else 1)
        t = path.sample_times(rows, mean=mean, std=self.recipe.time_std, generator=generator)
        return (local_rows(t, repeats) if shared else t).to(self.device)

    def _shape(self, batch: Batch) -> tuple[int, int]:
        """Tokens and channels of a picture of the batch."""
        return math.prod(self.info.grid(*batch.size)), self.transformer.config.in_channels

    def _error(self, batch: Batch, t: Tensor, noise: Tensor, hidden: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Squared error of the velocity at times t with some noise, averaged over tokens and channels, (rows,).

        The rows of a sample stand side by side. With `hidden` comes the state after so many blocks.
        """
        repeats, grid = len(t) // len(batch.records), self.info.grid(*batch.size)
        with autocast(self.device):
            images, text = self.encoder.images(batch), self.encoder.text(batch)
            x_0 = self.encoder.latents(batch).repeat_interleave(repeats, dim=0)
            v, state = self._velocity(path.interpolate(x_0, noise, t), t, text, grid, images, repeats, hidden)
        return F.mse_loss(v.float(), path.velocity(x_0, noise), reduction="none").mean((1, 2)), state

    def _velocity(
        self,
        x_t: Tensor,
        t: Tensor,
        text: TextFeatures,
        grid: tuple[int, int],
        images: InputImages | None,
        repeats: int,
        hidden: int | None,
    ) -> tuple[Tensor, Tensor | None]:
        model = self.transformer
        if hidden is None:
            return condition(model, text, grid, images, repeats)(x_t, t), None
        cache = prefill(model, text, grid, images).repeat(repeats)
        return model.denoise(x_t.to(model.dtype), t, cache, return_hidden=hidden)


def train_dit(recipe: DitRecipe, resume: bool = False) -> Path:
    """Train by a recipe; returns the folder of the finished checkpoint."""
    with process_group():
        return Trainer(DitStage(recipe), recipe.run, recipe.optimizer, resolved(recipe)).run(resume)
