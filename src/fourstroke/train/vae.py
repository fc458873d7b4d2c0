"""Training the autoencoder on the world and on pictures of one's own, without a discriminator and without a KL term.

Qwen-Image-2.0 report, autoencoder, and VAE-2.0 report, Objective: L1 + perceptual + alignment. Where no network for
the last two can be had, the multi-scale edge loss takes their place. `latent_noise` jitters the latents that the
decoder sees (in units of their own deviation), so that it forgives the small errors of a sampler.

VAE-2.0 report, Curriculum: resolution and aspect ratio, content, and alignment change together as training goes on.
The first two are `phases` of the recipe, the third opens its own margins; all go by the share of the run that is done.

Several ranks (see `parallel`) each hold the whole model, take their rows of one batch, and average gradients.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourstroke.data.images import Images, image_batches
from fourstroke.data.sheet import contact_sheet
from fourstroke.data.stream import as_pixels, batches, pixels
from fourstroke.device import autocast, pick_device
from fourstroke.files import save_image, write_json
from fourstroke.parallel.collectives import local_rows
from fourstroke.parallel.mesh import process_group, rank, world_size
from fourstroke.ranges import Count, Fraction, Natural, NonNegative, PositiveFraction, check_ranges
from fourstroke.recipe import agree, resolved
from fourstroke.train.loop import RunConfig, Trainer
from fourstroke.train.optimizer import OptimizerConfig
from fourstroke.vae import Autoencoder, AutoencoderConfig
from fourstroke.vae.losses import edge, l1, psnr
from fourstroke.vae.objective import Alignment, AlignmentConfig, Perceptual, PerceptualConfig
from fourstroke.world import Sample, World, WorldConfig
from fourstroke.world.page import render_page

__all__ = ["AlignmentConfig", "PerceptualConfig", "Phase", "VaeRecipe", "VaeStage", "train_vae"]


WIDE = 64
"""Channels from which on a CPU's bfloat16 pays."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of the curriculum; what it leaves out is as the recipe says."""

    until: PositiveFraction
    """Share of the run at which it ends; the last one ends at 1."""
    sizes: tuple[tuple[Count, Count], ...] | None = None
    """Widths and heights of pictures, taken in turns from step to step; None: the world's own."""
    crop: Count | None = None
    batch_size: int | None = None
    image_share: Fraction | None = None
    page_share: Fraction | None = None
    page_sizes: tuple[Count, Count] | None = None

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """What the batches of a phase are made of, every number filled in."""

    until: float
    sizes: tuple[tuple[int, int], ...]
    crop: int | None
    batch_size: int
    image_share: float
    page_share: float
    page_sizes: tuple[int, int]

    def __post_init__(self) -> None:
        if self.batch_size < 1 or not self.sizes:
            raise ValueError("a batch needs a batch_size of 1 or more, and sizes at least one entry")
        if not 0 < self.image_share < 1:
            raise ValueError(f"image_share={self.image_share}: choose between 0 and 1; held-out scenes are the world's")
        least = min(min(size) for size in self.sizes)
        if self.crop is not None and not 1 <= self.crop <= least:
            raise ValueError(f"crop={self.crop}: the smallest picture has a side of {least} pixels")
        if self.page_share and not 4 <= self.page_sizes[0] <= self.page_sizes[1] <= min(h for _, h in self.sizes):
            raise ValueError(f"page_sizes={self.page_sizes}: choose from 4 to the pictures' height, the smallest first")

    @property
    def images(self) -> int:
        """How many pictures of a batch are one's own, where there are such."""
        return min(self.batch_size - 1, max(1, round(self.image_share * self.batch_size)))


@dataclass(frozen=True, kw_only=True)
class AnchorConfig:
    """Keep the latents of scenes near those of an earlier autoencoder, so that what draws them need not start again.

    The squared distance, in that one's own deviations, times `weight`. Our choice; pages are free, for they are new.
    """

    folder: Path
    weight: NonNegative = 0.05

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class VaeRecipe:
    """Every number of a VAE run."""

    world: WorldConfig
    model: AutoencoderConfig | None = None
    """Sizes of a new autoencoder; beside `init` it may be left out, and must agree with it if it is not."""
    run: RunConfig
    optimizer: OptimizerConfig
    batch_size: Count
    edge: NonNegative = 1.0
    squared: NonNegative = 0.0
    """Weight of the mean squared error, which few large errors fill, as they do what PSNR measures; 0 leaves it out."""
    balanced: bool = False
    """Weigh pictures by the reciprocal of their errors: what is nearly right counts as much as what is far off.

    The gradient is that of the mean logarithm of the error, hence of decibels, not that of the mean error."""
    latent_noise: NonNegative = 0.0
    crop: Count | None = None
    """Side of the square cut at random from every picture, in pixels; None takes the whole picture."""
    images: Path | None = None
    """Folder or webdataset shards to train on beside the world."""
    image_share: Fraction = 0.5
    """Share of each batch that they fill, where they are given; at least one picture, and one of the world."""
    page_share: Fraction = 0.0
    """Share of the world's part of a batch that shows pages of small text instead of scenes."""
    page_sizes: tuple[Count, Count] = (8, 20)
    """Smallest and largest letters on them, in pixels."""
    phases: tuple[Phase, ...] = ()
    """The curriculum; none: the same from beginning to end."""
    alignment: AlignmentConfig | None = None
    perceptual: PerceptualConfig | None = None
    anchor: AnchorConfig | None = None
    init: Path | None = None
    """Folder of an autoencoder to start from."""
    freeze_encoder: bool = False
    """Train the decoder of `init` alone: latents and their statistics stay what transformers have learnt."""
    workers: Natural = 0
    compile: bool = False
    statistics: Count = 1024

    def __post_init__(self) -> None:
        check_ranges(self)
        ends = [phase.until for phase in self.phases]
        if ends and (ends != sorted(set(ends)) or ends[0] <= 0 or ends[-1] != 1):
            raise ValueError(f"phases end at {ends}: each later than the one before, the last at 1")
        if self.model is None and self.init is None:
            raise ValueError("there is no autoencoder: name the sizes of a new one, model, or a trained one, init")
        schedule = self.schedule  # whatever a phase says wrong is said now, not hours later
        if self.images is not None and any(mixture.batch_size < 2 for mixture in schedule):
            raise ValueError("batch_size=1: images beside the world need 2 or more")
        if self.freeze_encoder and (self.init is None or self.alignment is not None or self.anchor is not None):
            raise ValueError("freeze_encoder=true: it needs init, and leaves nothing to alignment and anchor")
        if self.compile and self.alignment is not None and self.alignment.adaptive:
            raise ValueError(
                "alignment.adaptive goes through the graph twice, which compile=true cannot; set one false"
            )

    @property
    def schedule(self) -> tuple[Mixture, ...]:
        """The phases with what they leave out filled in; a single one where the recipe names none."""
        names = [field.name for field in fields(Mixture) if field.name not in ("until", "sizes")]
        own = {name: getattr(self, name) for name in names} | {"sizes": ((self.world.width, self.world.height),)}
        filled = []
        for phase in self.phases or (Phase(until=1.0),):
            said = {field.name: getattr(phase, field.name) for field in fields(Phase)}
            filled.append(Mixture(**own | {name: value for name, value in said.items() if value is not None}))
        return tuple(filled)

    @property
    def images_in_batch(self) -> int:
        """How many pictures of the last phase's batches are not the world's."""
        return 0 if self.images is None else self.schedule[-1].images


class VaeStage:
    """Batches, loss, samples and export of the autoencoder."""

    def __init__(self, recipe: VaeRecipe) -> None:
        self.recipe, self.device = recipe, pick_device()
        torch.manual_seed(recipe.run.seed)
        if recipe.init is None:
            assert recipe.model is not None
            self.model = Autoencoder(recipe.model).to(self.device)
        else:
            self.model = Autoencoder.from_pretrained(recipe.init, device=str(self.device)).train()
            unmeasured = replace(self.model.config, latents_mean=None, latents_std=None)
            agree("model", recipe.model, unmeasured, recipe.init)
        if recipe.freeze_encoder:
            self.model.encoder.requires_grad_(False)
            self.model.quant_conv.requires_grad_(False)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.models: dict[str, nn.Module] = {"vae": self.model}
        config = self.model.config
        self.schedule = recipe.schedule
        trained = [(m.crop, m.crop) if m.crop else size for m in self.schedule for size in m.sizes]
        for width, height in ((recipe.world.width, recipe.world.height), *trained):  # held-out scenes are the world's
            if width % config.factor or height % config.factor:
                raise ValueError(f"pictures of {width} x {height}: sides must be divisible by {config.factor}")
        self.images = None if recipe.images is None else Images(recipe.images)
        self.aligned = None if recipe.alignment is None else Alignment(recipe.alignment, config, self.device)
        if self.aligned is not None:
            self.models["alignment"] = self.aligned.map
        self.perceptual = None if recipe.perceptual is None else Perceptual(recipe.perceptual, self.device)
        self.anchor = None if recipe.anchor is None else _anchor(recipe.anchor, config, self.device)
        self.batch_size = self.schedule[0].batch_size
        self.progress: Callable[[int], float] = lambda step: step / recipe.run.steps
        """The share of the run that is done before a step; minutes count too where a trainer says so."""
        self._step, self._phase = -1, -1
        self._streams: dict[int, tuple[Iterator[list[Sample]], Iterator[Tensor]]] = {}
        self._forward = torch.compile(self._autoencode) if recipe.compile else self._autoencode
        world = World(recipe.world)
        held_out = [world.sample(index, "heldout") for index in range(32)]
        self.held_out = pixels(held_out)
        sizes = [mixture.page_sizes for mixture in self.schedule if mixture.page_share]
        size = recipe.world.width, recipe.world.height
        self.pages = as_pixels([render_page(i, *size, sizes[-1], "heldout") for i in range(16 if sizes else 0)])

    def loss(self, step: int) -> dict[str, Tensor]:
        """L1 + edges between pictures and reconstructions, and where asked perceptual distance and alignment."""
        generator = torch.Generator().manual_seed(self.recipe.run.seed * 1_000_003 + step)
        progress = self.progress(step)
        pictures, pages = self._pictures(step, progress, generator)
        x = pictures.to(self.device, memory_format=torch.channels_last)
        with autocast(self.device, wide=min(self.model.config.base_dim, self.model.config.decoder_base_dim) >= WIDE):
            y, z = self._forward(x, self._jitter(x, generator))
        y = y.float()
        seen = balance(y, x) if self.recipe.balanced else y
        parts = {"l1": l1(seen, x), "edge": edge(seen, x)}
        loss = parts["l1"] + self.recipe.edge * parts["edge"]
        if self.recipe.squared:
            parts["squared"] = F.mse_loss(seen, x)
            loss = loss + self.recipe.squared * parts["squared"]
        if self.perceptual is not None:
            extra, more = self.perceptual.loss(x, y)
            loss, parts = loss + extra, parts | more
        if self.aligned is not None:
            margins = self.aligned.config.margins(step, progress)
            extra, more = self.aligned.loss(x, y, z.float(), loss, self.model.quant_conv.weight, margins)
            loss, parts = loss + extra, parts | more
        if self.recipe.anchor is not None:
            parts["anchor"] = self._drift(x[pages:], z[pages:])
            loss = loss + self.recipe.anchor.weight * parts["anchor"]
        return {"loss": loss, **parts}

    def gathered(self) -> contextlib.AbstractContextManager[None]:
        """Nothing to gather: every rank holds all of the model."""
        return contextlib.nullcontext()

    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """A sheet of held-out scenes and pages beside their reconstructions, and the RGB PSNR over all of them."""
        sheet, captions, scores = [], [], {}
        for name, originals in (("psnr", self.held_out), ("page_psnr", self.pages)):
            if not len(originals):
                continue
            copies = self._reconstruct(originals)
            each = psnr(copies[:, :3], originals[:, :3])
            scores[name] = float(each.mean())
            for before, after, decibels in zip(originals[:8], copies[:8], each.tolist(), strict=False):
                sheet += [_picture(before), _picture(after)]
                captions += ["original", f"{decibels:.1f} dB"]
        save_image(contact_sheet(sheet, captions, columns=8), folder / f"step-{step:06d}.png")
        return scores

    def export(self, folder: Path) -> None:
        """Measure the latents' mean and deviation, save the model with them, and say what became of the images."""
        if not self.recipe.freeze_encoder:
            self._measure()
        self.model.save_pretrained(folder)
        if self.images is not None:
            print(f"images: {self.images.report}", flush=True)
            write_json(self.recipe.run.out / "images.json", {"skipped": self.images.report.skipped})

    def _measure(self) -> None:
        """Set the statistics of the latents, by fresh scenes and one's own pictures in the share of the last phase."""
        recipe, count = self.recipe, self.recipe.statistics
        stream = batches(recipe.world, 32, seed=recipe.run.seed + 1, workers=recipe.workers)
        own: Iterator[Tensor] = iter(())
        if self.images is not None:
            share = max(1, round(32 * recipe.images_in_batch / self.schedule[-1].batch_size))
            size = recipe.world.height, recipe.world.width
            own = image_batches(self.images, share, *size, seed=recipe.run.seed + 1, workers=recipe.workers)
        latents = []
        with torch.no_grad():
            for samples, _ in zip(stream, range(-(-count // 32)), strict=False):
                x = pixels(samples)
                if self.images is not None:
                    windows = next(own)
                    x = torch.cat([x[: max(1, len(x) - len(windows))], windows])
                x = x.to(self.device, memory_format=torch.channels_last)
                latents.append(self.model.encode_raw(x).float().cpu())
        z = torch.cat(latents)
        self.model.set_statistics(z.mean((0, 2, 3)), z.std((0, 2, 3)))

    def _autoencode(self, x: Tensor, jitter: Tensor) -> tuple[Tensor, Tensor]:
        z = self.model.encode_raw(x)
        return self.model.decode_raw(z + jitter * z.detach().std((0, 2, 3), keepdim=True)), z

    def _drift(self, x: Tensor, z: Tensor) -> Tensor:
        """Mean squared distance of latents of pictures from those of the anchor, in its deviations; 0 of none."""
        if self.anchor is None or not len(x):
            return z.sum()
        with torch.no_grad():
            wanted = self.anchor.encode(x)
        return (self.anchor.normalise(z.float()) - wanted).square().mean()

    def _jitter(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Noise whose strength differs between pictures, from none to `latent_noise` deviations."""
        config = self.model.config
        count = len(x) * world_size()
        shape = (count, config.z_dim, x.shape[2] // config.factor, x.shape[3] // config.factor)
        strength = self.recipe.latent_noise * torch.rand(count, 1, 1, 1, generator=generator)
        return local_rows(strength * torch.randn(shape, generator=generator)).to(x.device)

    def _reconstruct(self, x: Tensor) -> Tensor:
        parts = x.to(self.device, memory_format=torch.channels_last).split(16)
        return torch.cat(
            [self.model.decode_raw(self.model.encode_raw(part)).float().clamp(-1, 1).cpu() for part in parts]
        )

    def _pictures(self, step: int, progress: float, generator: torch.Generator) -> tuple[Tensor, int]:
        """The batch of a step, (b, 4, H, W): pages, scenes, then pictures of one's own; and how many are pages."""
        phase = next((i for i, mixture in enumerate(self.schedule) if progress < mixture.until), -1) % len(
            self.schedule
        )
        mixture = self.schedule[phase]
        turn, place = divmod(step, len(mixture.sizes))
        if step == 0 or (step, phase) != (self._step + 1, self._phase):
            self._streams = {}
        self._step, self._phase, self.batch_size = step, phase, mixture.batch_size
        if place not in self._streams:
            self._streams[place] = self._open(phase, place, turn)
        scenes, windows = self._streams[place]
        x = pixels(next(scenes))
        if (pages := round(mixture.page_share * len(x))) > 0:
            ranks = world_size()
            first = (self.recipe.run.seed << 48) + (phase << 40) + step * len(x) * ranks + rank()
            indices = range(first, first + pages * ranks, ranks)
            drawn = [render_page(i, *mixture.sizes[place], mixture.page_sizes, "train") for i in indices]
            x[:pages] = as_pixels(drawn)
        if mixture.crop is not None:
            x = random_crops(x, mixture.crop, generator)
        return x if self.images is None else torch.cat([x, next(windows)]), pages

    def _open(self, phase: int, place: int, turn: int) -> tuple[Iterator[list[Sample]], Iterator[Tensor]]:
        """The world's batches and one's own from the `turn`-th of a size of a phase on, each of a seed of its own."""
        recipe, mixture = self.recipe, self.schedule[phase]
        seed, (width, height) = recipe.run.seed + (phase << 20) + (place << 10), mixture.sizes[place]
        world = replace(recipe.world, width=width, height=height)
        own = 0 if self.images is None else mixture.images
        shard = {"rank": rank(), "ranks": world_size()}
        common: dict[str, Any] = {"start": turn, "seed": seed, "workers": recipe.workers, **shard}
        scenes = batches(world, mixture.batch_size - own, **common)
        if self.images is None:
            return scenes, iter(())
        size = (mixture.crop or height, mixture.crop or width)
        return scenes, image_batches(self.images, own, *size, **common)


def train_vae(recipe: VaeRecipe, resume: bool = False) -> Path:
    """Train by a recipe; returns the folder of the finished autoencoder."""
    with process_group():
        stage = VaeStage(recipe)
        trainer = Trainer(stage, recipe.run, recipe.optimizer, resolved(recipe))
        stage.progress = lambda step: trainer.progress
        return trainer.run(resume)


def _anchor(config: AnchorConfig, new: AutoencoderConfig, device: torch.device) -> Autoencoder:
    """The frozen autoencoder whose latents are kept; raises ValueError where the new one's have another shape."""
    old = Autoencoder.from_pretrained(config.folder, device=str(device)).requires_grad_(False)
    if (old.config.z_dim, old.config.factor, old.config.channels) != (new.z_dim, new.factor, new.channels):
        raise ValueError(
            f"anchor.folder={config.folder}: its latents are {old.config.z_dim} channels at 1/{old.config.factor} of "
            f"{old.config.channels}-channel pictures, those of the new model {new.z_dim} at 1/{new.factor} of "
            f"{new.channels}"
        )
    return old


def balance(y: Tensor, x: Tensor) -> Tensor:
    """Copies y of pictures x, (b, c, H, W), with every picture's error scaled to the geometric mean of all.

    L1 and edges are of first degree in the error, so that dividing by it gives the gradient of its logarithm.
    """
    error = (y - x).detach().abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-4)
    return x + (y - x) * (error.log().mean().exp() / error)


def random_crops(x: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """One square of `side` pixels from every picture (B, C, H, W), each at its own place."""
    count = len(x) * world_size()
    rows = local_rows(torch.randint(x.shape[2] - side + 1, (count,), generator=generator)).tolist()
    columns = local_rows(torch.randint(x.shape[3] - side + 1, (count,), generator=generator)).tolist()
    parts = [p[:, r : r + side, c : c + side] for p, r, c in zip(x, rows, columns, strict=True)]
    return torch.stack(parts)


def _picture(x: Tensor) -> np.ndarray:
    """(4, H, W) in [-1, 1] -> (H, W, 4) uint8."""
    return ((x.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
