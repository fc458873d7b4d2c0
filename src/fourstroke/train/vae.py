"""Training the autoencoder on the world and on pictures of one's own, without a discriminator and without a KL term.

Qwen-Image-2.0 report, autoencoder, and VAE-2.0 report, Objective: L1 + perceptual + alignment. Where no network for
the last two can be had, the multi-scale edge loss takes their place. `latent_noise` jitters the latents that the
decoder sees (in units of their own deviation), so that it forgives the small errors of a sampler.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fourstroke.checkpoint import write_json
from fourstroke.data.images import Images, image_batches
from fourstroke.data.sheet import contact_sheet
from fourstroke.data.stream import as_pixels, batches, pixels
from fourstroke.data.world import Sample, World, WorldConfig
from fourstroke.data.world.graph import Split
from fourstroke.data.world.page import render_page
from fourstroke.train.device import autocast, pick_device
from fourstroke.train.loop import RunConfig, Trainer
from fourstroke.train.optimizer import OptimizerConfig
from fourstroke.train.recipe import resolved
from fourstroke.vae import Autoencoder, AutoencoderConfig
from fourstroke.vae.features import SemanticNetwork, linear_map
from fourstroke.vae.losses import alignment, edge, gradient_ratio, l1, perceptual, psnr


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """How latents follow frozen features: L_align = L_mcos + L_mdms, with margins that open as training goes on."""

    features: Path
    """Folder of the network, as `train features` leaves it."""
    weight: float = 0.5
    adaptive: bool = False
    """Multiply the weight by the ratio of the gradients of reconstruction and alignment (as VA-VAE)."""
    cosine_margins: tuple[float, float] = (0.0, 0.5)
    """Strict to loose."""
    distance_margins: tuple[float, float] = (0.0, 0.25)
    steps: int = 10_000
    """Over which the margins open."""
    perceptual: float = 0.0
    """Weight of the distance of pictures in the same features."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: the margins need at least one step to open")

    def margins(self, step: int) -> tuple[float, float]:
        """Cosine and distance margin of a step: linear from strict to loose, then constant."""
        share = min(1.0, step / self.steps)
        cosine, distance = ((1 - share) * a + share * b for a, b in (self.cosine_margins, self.distance_margins))
        return cosine, distance


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
    images: Path | None = None
    """Folder or webdataset shards to train on beside the world."""
    image_share: float = 0.5
    """Share of each batch that they fill, where they are given; at least one picture, and one of the world."""
    page_share: float = 0.0
    """Share of the world's part of a batch that shows pages of small text instead of scenes."""
    page_sizes: tuple[int, int] = (8, 20)
    """Smallest and largest letters on them, in pixels."""
    alignment: AlignmentConfig | None = None
    init: Path | None = None
    """Folder of an autoencoder to start from; its sizes take the place of `model`."""
    workers: int = 0
    compile: bool = False
    statistics: int = 1024

    def __post_init__(self) -> None:
        if self.images is not None and not 0 < self.image_share < 1:
            raise ValueError(f"image_share={self.image_share}: choose between 0 and 1; held-out scenes are the world's")
        if not 0 <= self.page_share <= 1:
            raise ValueError(f"page_share={self.page_share}: it is a share, choose between 0 and 1")
        if self.images is not None and self.batch_size < 2:
            raise ValueError("batch_size=1: images beside the world need 2 or more")
        if self.compile and self.alignment is not None and self.alignment.adaptive:
            raise ValueError(
                "alignment.adaptive goes through the graph twice, which compile=true cannot; set one false"
            )

    @property
    def images_in_batch(self) -> int:
        """How many pictures of each batch are not the world's."""
        if self.images is None:
            return 0
        return min(self.batch_size - 1, max(1, round(self.image_share * self.batch_size)))


class VaeStage:
    """Batches, loss, samples and export of the autoencoder."""

    def __init__(self, recipe: VaeRecipe) -> None:
        self.recipe, self.device = recipe, pick_device()
        torch.manual_seed(recipe.run.seed)
        if recipe.init is None:
            self.model = Autoencoder(recipe.model).to(self.device)
        else:
            self.model = Autoencoder.from_pretrained(recipe.init, device=str(self.device)).train()
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.models: dict[str, nn.Module] = {"vae": self.model}
        self.images = None if recipe.images is None else Images(recipe.images)
        self.aligned = None if recipe.alignment is None else _Aligned(recipe.alignment, recipe.model, self.device)
        if self.aligned is not None:
            self.models["alignment"] = self.aligned.map
        self.batch_size = recipe.batch_size
        self._step = -1
        self._stream: Iterator[list[Sample]] = iter(())
        self._windows: Iterator[Tensor] = iter(())
        self._forward = torch.compile(self._autoencode) if recipe.compile else self._autoencode
        world = World(recipe.world)
        held_out = [world.sample(index, "heldout") for index in range(32)]
        self.held_out = pixels(held_out)
        self.pages = as_pixels([self._page(index, "heldout") for index in range(16 if recipe.page_share else 0)])

    def loss(self, step: int) -> dict[str, Tensor]:
        """L1 + edges between pictures and reconstructions, and where asked alignment and perceptual distance."""
        generator = torch.Generator().manual_seed(self.recipe.run.seed * 1_000_003 + step)
        x = pixels(self._batch(step))
        if (pages := round(self.recipe.page_share * len(x))) > 0:
            first = step * len(x)
            x[:pages] = as_pixels([self._page(first + index, "train") for index in range(pages)])
        if self.recipe.crop is not None:
            x = random_crops(x, self.recipe.crop, generator)
        if self.images is not None:
            x = torch.cat([x, next(self._windows)])
        x = x.to(self.device, memory_format=torch.channels_last)
        with autocast(self.device):
            y, z = self._forward(x, self._jitter(x, generator))
        y = y.float()
        parts = {"l1": l1(y, x), "edge": edge(y, x)}
        loss = parts["l1"] + self.recipe.edge * parts["edge"]
        if self.aligned is not None:
            extra, more = self.aligned.loss(x, y, z.float(), loss, self.model.quant_conv.weight, step)
            loss, parts = loss + extra, parts | more
        return {"loss": loss, **parts}

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
        contact_sheet(sheet, captions, columns=8).save(folder / f"step-{step:06d}.png")
        return scores

    def export(self, folder: Path) -> None:
        """Measure the latents' mean and deviation, save the model with them, and say what became of the images."""
        recipe, count = self.recipe, self.recipe.statistics
        stream = batches(recipe.world, 32, seed=recipe.run.seed + 1, workers=recipe.workers)
        own: Iterator[Tensor] = iter(())
        if self.images is not None:
            share = max(1, round(32 * recipe.images_in_batch / recipe.batch_size))
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
        self.model.save_pretrained(folder)
        if self.images is not None:
            print(f"images: {self.images.report}", flush=True)
            write_json(recipe.run.out / "images.json", {"skipped": self.images.report.skipped})

    def _autoencode(self, x: Tensor, jitter: Tensor) -> tuple[Tensor, Tensor]:
        z = self.model.encode_raw(x)
        return self.model.decode_raw(z + jitter * z.detach().std((0, 2, 3), keepdim=True)), z

    def _jitter(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Noise whose strength differs between pictures, from none to `latent_noise` deviations."""
        shape = (len(x), self.recipe.model.z_dim, x.shape[2] // 16, x.shape[3] // 16)
        strength = self.recipe.latent_noise * torch.rand(len(x), 1, 1, 1, generator=generator)
        return (strength * torch.randn(shape, generator=generator)).to(x.device)

    def _page(self, index: int, split: Split) -> np.ndarray:
        world = self.recipe.world
        return render_page(index, world.width, world.height, self.recipe.page_sizes, split)

    def _reconstruct(self, x: Tensor) -> Tensor:
        parts = x.to(self.device, memory_format=torch.channels_last).split(16)
        return torch.cat(
            [self.model.decode_raw(self.model.encode_raw(part)).float().clamp(-1, 1).cpu() for part in parts]
        )

    def _batch(self, step: int) -> list[Sample]:
        if step != self._step + 1 or step == 0:
            recipe, seed = self.recipe, self.recipe.run.seed
            own = recipe.images_in_batch
            self._stream = batches(recipe.world, recipe.batch_size - own, start=step, seed=seed, workers=recipe.workers)
            if self.images is not None:
                height, width = (recipe.crop or side for side in (recipe.world.height, recipe.world.width))
                self._windows = image_batches(
                    self.images, own, height, width, start=step, seed=seed, workers=recipe.workers
                )
        self._step = step
        return next(self._stream)


class _Aligned:
    """The frozen network, the learned map from latents to its features, and their losses."""

    def __init__(self, config: AlignmentConfig, model: AutoencoderConfig, device: torch.device) -> None:
        self.config = config
        self.network = SemanticNetwork.from_pretrained(config.features, device)
        if self.network.config.factor != model.factor:
            raise ValueError(f"{config.features} has features at 1/{self.network.config.factor}, not 1/{model.factor}")
        self.map = linear_map(model.z_dim, self.network.config.widths).to(device)

    def loss(
        self, x: Tensor, y: Tensor, z: Tensor, reconstruction: Tensor, weight: Tensor, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What is added to the reconstruction loss of pictures x, their copies y and latents z; and its parts."""
        with torch.no_grad():
            wanted = self.network.features(x)
        align = alignment(self.map(z), wanted[-1], *self.config.margins(step))
        factor = gradient_ratio(reconstruction, align, weight) if self.config.adaptive else torch.ones(())
        total, parts = self.config.weight * factor.to(align) * align, {"align": align}
        if self.config.perceptual:
            parts["perceptual"] = perceptual(self.network.features(y), wanted)
            total = total + self.config.perceptual * parts["perceptual"]
        return total, parts


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
