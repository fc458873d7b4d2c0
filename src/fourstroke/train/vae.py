"""Training the autoencoder on the world, without a discriminator and without a KL term.

Qwen-Image-2.0 report, autoencoder: L1 + perceptual + alignment. Where no perceptual network can be had, the multi-scale
edge loss takes its place. `latent_noise` jitters the latents that the decoder sees (in units of their own deviation),
so that it forgives the small errors of a sampler.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fourstroke.data.sheet import contact_sheet
from fourstroke.data.stream import batches, pixels
from fourstroke.data.world import Sample, World, WorldConfig
from fourstroke.train.device import autocast, pick_device
from fourstroke.train.loop import RunConfig, Trainer
from fourstroke.train.optimizer import OptimizerConfig
from fourstroke.train.recipe import resolved
from fourstroke.vae import Autoencoder, AutoencoderConfig
from fourstroke.vae.losses import edge, l1, psnr


@dataclass(frozen=True, kw_only=True)
class VaeRecipe:
    """Every number of a VAE run."""

    world: WorldConfig
    model: AutoencoderConfig
    run: RunConfig
    optimizer: OptimizerConfig
    batch_size: int
    edge: float = 1.0
    latent_noise: float = 0.0
    crop: int | None = None
    """Side of the square cut at random from every picture, in pixels; None takes the whole picture."""
    workers: int = 0
    compile: bool = False
    statistics: int = 1024


class VaeStage:
    """Batches, loss, samples and export of the autoencoder."""

    def __init__(self, recipe: VaeRecipe) -> None:
        self.recipe, self.device = recipe, pick_device()
        torch.manual_seed(recipe.run.seed)
        self.model = Autoencoder(recipe.model).to(self.device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.models: dict[str, nn.Module] = {"vae": self.model}
        self.batch_size = recipe.batch_size
        self._step = -1
        self._stream: Iterator[list[Sample]] = iter(())
        self._forward = torch.compile(self._autoencode) if recipe.compile else self._autoencode
        world = World(recipe.world)
        held_out = [world.sample(index, "heldout") for index in range(32)]
        self.held_out = pixels(held_out)

    def loss(self, step: int) -> dict[str, Tensor]:
        """L1 + edges between pictures and reconstructions."""
        generator = torch.Generator().manual_seed(self.recipe.run.seed * 1_000_003 + step)
        x = pixels(self._batch(step))
        if self.recipe.crop is not None:
            x = random_crops(x, self.recipe.crop, generator)
        x = x.to(self.device, memory_format=torch.channels_last)
        with autocast(self.device):
            y = self._forward(x, self._jitter(x, generator)).float()
        parts = {"l1": l1(y, x), "edge": edge(y, x)}
        return {"loss": parts["l1"] + self.recipe.edge * parts["edge"], **parts}

    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """A sheet of held-out scenes over their reconstructions, and the RGB PSNR over all of them."""
        y = self._reconstruct(self.held_out)
        sheet = [_picture(x) for pair in zip(self.held_out[:8], y[:8], strict=True) for x in pair]
        captions = [
            f"{psnr(b[None, :3], a[None, :3]).item():.1f} dB" if i else "original"
            for a, b in zip(self.held_out[:8], y[:8], strict=True)
            for i in (0, 1)
        ]
        contact_sheet(sheet, captions, columns=8).save(folder / f"step-{step:06d}.png")
        return {"psnr": float(psnr(y[:, :3], self.held_out[:, :3]).mean())}

    def export(self, folder: Path) -> None:
        """Measure the latents' mean and deviation, and save the model with them."""
        count = self.recipe.statistics
        stream = batches(self.recipe.world, 32, seed=self.recipe.run.seed + 1, workers=self.recipe.workers)
        latents = []
        with torch.no_grad():
            for samples, _ in zip(stream, range(-(-count // 32)), strict=False):
                x = pixels(samples).to(self.device, memory_format=torch.channels_last)
                latents.append(self.model.encode_raw(x).float().cpu())
        z = torch.cat(latents)
        self.model.set_statistics(z.mean((0, 2, 3)), z.std((0, 2, 3)))
        self.model.save_pretrained(folder)

    def _autoencode(self, x: Tensor, jitter: Tensor) -> Tensor:
        z = self.model.encode_raw(x)
        return self.model.decode_raw(z + jitter * z.detach().std((0, 2, 3), keepdim=True))

    def _jitter(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Noise whose strength differs between pictures, from none to `latent_noise` deviations."""
        shape = (len(x), self.recipe.model.z_dim, x.shape[2] // 16, x.shape[3] // 16)
        strength = self.recipe.latent_noise * torch.rand(len(x), 1, 1, 1, generator=generator)
        return (strength * torch.randn(shape, generator=generator)).to(x.device)

    def _reconstruct(self, x: Tensor) -> Tensor:
        parts = x.to(self.device, memory_format=torch.channels_last).split(16)
        return torch.cat(
            [self.model.decode_raw(self.model.encode_raw(part)).float().clamp(-1, 1).cpu() for part in parts]
        )

    def _batch(self, step: int) -> list[Sample]:
        if step != self._step + 1 or step == 0:
            recipe = self.recipe
            self._stream = batches(
                recipe.world, recipe.batch_size, start=step, seed=recipe.run.seed, workers=recipe.workers
            )
        self._step = step
        return next(self._stream)


def train_vae(recipe: VaeRecipe, resume: bool = False) -> Path:
    """Train by a recipe; returns the folder of the finished autoencoder."""
    return Trainer(VaeStage(recipe), recipe.run, recipe.optimizer, resolved(recipe)).run(resume)


def random_crops(x: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """One square of `side` pixels from every picture (B, C, H, W), each at its own place."""
    rows = torch.randint(x.shape[2] - side + 1, (len(x),), generator=generator).tolist()
    columns = torch.randint(x.shape[3] - side + 1, (len(x),), generator=generator).tolist()
    parts = [p[:, r : r + side, c : c + side] for p, r, c in zip(x, rows, columns, strict=True)]
    return torch.stack(parts)


def _picture(x: Tensor) -> np.ndarray:
    """(4, H, W) in [-1, 1] -> (H, W, 4) uint8."""
    return ((x.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
