"""Training the autoencoder on any dataset's pictures, without a discriminator and without a KL term.

Qwen-Image-2.0 report, autoencoder, and VAE-2.0 report, Objective: L1 + perceptual + alignment, the terms of
`vae.objective` that the recipe lists. Where no network for the last two can be had, the multi-scale edge loss takes
their place. `latent_noise` jitters the latents that the
decoder sees (in units of their own deviation), so that it forgives the small errors of a sampler.

VAE-2.0 report, Curriculum: resolution and aspect ratio, content, and alignment change together as training goes on.
The first two are `phases` of the recipe, the third opens its own margins; all go by the share of the run that is done.

Several ranks (see `parallel`) each hold the whole model, take their rows of one batch, and average gradients.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fourstroke.data.loader import LoaderConfig
from fourstroke.data.report import Report
from fourstroke.data.sample import Data
from fourstroke.data.sheet import contact_sheet
from fourstroke.device import autocast, pick_device
from fourstroke.files import save_image, write_json
from fourstroke.parallel.collectives import local_rows
from fourstroke.parallel.mesh import process_group, world_size
from fourstroke.ranges import Count, NonNegative, check_ranges
from fourstroke.recipe import agree, resolved
from fourstroke.train.curriculum import Curriculum, Phase, PhasePlan, Sizes, plans
from fourstroke.train.loop import RunConfig, Trainer
from fourstroke.train.optimizer import OptimizerConfig
from fourstroke.vae import Autoencoder, AutoencoderConfig
from fourstroke.vae.autoencoder import to_pixels
from fourstroke.vae.losses import psnr
from fourstroke.vae.objective import DEFAULT_LOSSES, Losses, Objective, Reconstruction, check_losses

WIDE = 64
"""Channels from which on a CPU's bfloat16 pays."""


@dataclass(frozen=True, kw_only=True)
class VaeRecipe:
    """Every number of a VAE run."""

    data: Data
    """What to train on; a mixture `by: sample` fills each batch from all of its parts."""
    sizes: Sizes = ()
    """Widths and heights of the windows that are seen, in turns; a phase may say others."""
    model: AutoencoderConfig | None = None
    """Sizes of a new autoencoder; beside `init` it may be left out, and must agree with it if it is not."""
    run: RunConfig
    optimizer: OptimizerConfig
    batch_size: Count
    losses: Losses = DEFAULT_LOSSES
    """The terms of the objective, in the order in which they are summed, by kind: a weight, or a group of options."""
    balanced: bool = False
    """Weigh pictures by the reciprocal of their errors: what is nearly right counts as much as what is far off.

    The gradient is that of the mean logarithm of the error, hence of decibels, not that of the mean error."""
    latent_noise: NonNegative = 0.0
    phases: tuple[Phase, ...] = ()
    """The curriculum; none: the same from beginning to end."""
    init: Path | None = None
    """Folder of an autoencoder to start from."""
    freeze_encoder: bool = False
    """Train the decoder of `init` alone: latents and their statistics stay what transformers have learnt."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    compile: bool = False
    statistics: Count = 1024

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.model is None and self.init is None:
            raise ValueError("there is no autoencoder: name the sizes of a new one, model, or a trained one, init")
        _ = self.schedule  # whatever a phase says wrong is said now, not hours later
        check_losses(self.losses)
        latents = [term.kind for term in self.losses if term.of_latents and term.weight]
        if self.freeze_encoder and (self.init is None or latents):
            raise ValueError(
                f"freeze_encoder=true: it needs init, and leaves nothing to losses of latents ({', '.join(latents)})"
                if latents
                else "freeze_encoder=true: it needs init"
            )
        if self.compile and (double := next((term.kind for term in self.losses if term.differentiates), None)):
            raise ValueError(f"{double} goes through the graph twice, which compile=true cannot; set one to false")

    @property
    def schedule(self) -> tuple[PhasePlan, ...]:
        """The phases with what they leave out filled in; a single one where the recipe names none."""
        return plans(self.phases, self.sizes, self.batch_size, self.data)


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
        for width, height in (size for plan in self.schedule for size in plan.sizes):
            if width % config.factor or height % config.factor:
                raise ValueError(f"sizes: {width} x {height} pixels; sides must be divisible by {config.factor}")
        self.curriculum = Curriculum(recipe.data, self.schedule, recipe.loader, recipe.run.seed)
        self.objective = Objective(recipe.losses, config, self.device)
        self.models |= self.objective.learned
        self.batch_size = self.schedule[0].batch_size
        self.progress: Callable[[int], float] = lambda step: step / recipe.run.steps
        """The share of the run that is done before a step; minutes count too where a trainer says so."""
        self._forward = torch.compile(self._autoencode) if recipe.compile else self._autoencode
        self.held_out = [pixels(part) for part in self.curriculum.held_out()]

    @property
    def reports(self) -> dict[str, Report]:
        """What was read and skipped in this phase."""
        return {"train": self.curriculum.report}

    def loss(self, step: int) -> dict[str, Tensor]:
        """The objective of a batch: pictures through the autoencoder and back, and the terms that compare them."""
        generator = torch.Generator().manual_seed(self.recipe.run.seed * 1_000_003 + step)
        progress = self.progress(step)
        batch = self.curriculum.batch(step, progress)
        self.batch_size = len(batch.records)
        assert batch.images is not None
        x = pixels(batch.images.to(self.device, non_blocking=True)).to(memory_format=torch.channels_last)
        with autocast(self.device, wide=min(self.model.config.base_dim, self.model.config.decoder_base_dim) >= WIDE):
            y, z = self._forward(x, self._jitter(x, generator))
        y = y.float()
        seen = Reconstruction(
            x=x,
            y=y,
            weighed=balance(y, x) if self.recipe.balanced else y,
            z=z.float(),
            parts=batch.parts,
            step=step,
            progress=progress,
            last_layer=self.model.quant_conv.weight,
        )
        return self.objective(seen)

    def gathered(self) -> contextlib.AbstractContextManager[None]:
        """Nothing to gather: every rank holds all of the model."""
        return contextlib.nullcontext()

    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """A sheet of held-out pictures beside their reconstructions, and the RGB PSNR over all, and by part."""
        sheet, captions, parts = [], [], []
        for originals in self.held_out:
            copies = self._reconstruct(originals)
            parts.append(each := psnr(copies[:, :3], originals[:, :3]))
            for before, after, decibels in zip(originals[:8], copies[:8], each.tolist(), strict=False):
                sheet += [to_pixels(before), to_pixels(after)]
                captions += ["original", f"{decibels:.1f} dB"]
        save_image(contact_sheet(sheet, captions, columns=8), folder / f"step-{step:06d}.png")
        return _decibels(parts)

    def held_out_scores(self) -> dict[str, float]:
        """RGB PSNR of held-out pictures, over all and by part."""
        return _decibels([psnr(self._reconstruct(x)[:, :3], x[:, :3]) for x in self.held_out])

    def export(self, folder: Path) -> None:
        """Measure the latents' mean and deviation, save the model with them, and say what became of the data."""
        if not self.recipe.freeze_encoder:
            self._measure()
        self.model.save_pretrained(folder)
        print(f"data: {self.curriculum.report}", flush=True)
        write_json(self.recipe.run.out / "data.json", self.curriculum.report.plain())

    def _measure(self) -> None:
        """Set the statistics of the latents, by fresh pictures of the last phase."""
        latents = []
        with torch.no_grad():
            for images in self.curriculum.fresh(self.recipe.statistics):
                x = pixels(images.to(self.device)).to(memory_format=torch.channels_last)
                latents.append(self.model.encode_raw(x).float().cpu().movedim(1, 0).flatten(1))
        z = torch.cat(latents, 1)
        self.model.set_statistics(z.mean(1), z.std(1))

    def _autoencode(self, x: Tensor, jitter: Tensor) -> tuple[Tensor, Tensor]:
        z = self.model.encode_raw(x)
        return self.model.decode_raw(z + jitter * z.detach().std((0, 2, 3), keepdim=True)), z

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


def _decibels(parts: Sequence[Tensor]) -> dict[str, float]:
    """Means over all pictures and, where there are several parts, over those of each."""
    each = {f"psnr_{number}": float(part.mean()) for number, part in enumerate(parts)}
    return {"psnr": float(torch.cat(list(parts)).mean())} | (each if len(parts) > 1 else {})


def train_vae(recipe: VaeRecipe, resume: bool = False) -> Path:
    """Train by a recipe; returns the folder of the finished autoencoder."""
    with process_group():
        stage = VaeStage(recipe)
        trainer = Trainer(stage, recipe.run, recipe.optimizer, resolved(recipe))
        stage.progress = lambda step: trainer.progress
        return trainer.run(resume)


def balance(y: Tensor, x: Tensor) -> Tensor:
    """Copies y of pictures x, (b, c, H, W), with every picture's error scaled to the geometric mean of all.

    L1 and edges are of first degree in the error, so that dividing by it gives the gradient of its logarithm.
    """
    error = (y - x).detach().abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-4)
    return x + (y - x) * (error.log().mean().exp() / error)


def pixels(images: Tensor) -> Tensor:
    """Pictures (b, 4, H, W) uint8 as float32 in [-1, 1]."""
    return images.float() / 127.5 - 1
