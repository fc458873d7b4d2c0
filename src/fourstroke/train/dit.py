"""Training the transformer (and, for the small families, its text encoder) by flow matching on cached latents.

Qwen-Image-2.0 report, training: linear path, target e - x_0, prompt dropped with probability .1. Text and input-image
tokens are modulated from t = 0, so their keys and values do not depend on the noise level: one prefix serves `draws`
noise draws of its picture, which costs far less than as many pictures and lowers the variance over t.

Several ranks (see `parallel`) draw their rows of one batch.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourstroke.data.cache import LatentCache, build_cache
from fourstroke.data.sheet import contact_sheet
from fourstroke.device import autocast, pick_device
from fourstroke.dit import Layout, Transformer, TransformerConfig
from fourstroke.files import save_image
from fourstroke.flow import path
from fourstroke.flow.schedule import ScheduleConfig
from fourstroke.folder import ModelInfo
from fourstroke.parallel.collectives import local_rows, on_rank0, rank0_first
from fourstroke.parallel.mesh import data_shard, process_group, world_size
from fourstroke.parallel.sharding import Sharded
from fourstroke.pipeline import Pipeline
from fourstroke.ranges import Count, Finite, Fraction, Natural, NonNegative, check_ranges
from fourstroke.recipe import agree, resolved
from fourstroke.text import TextEncoder
from fourstroke.text.small import SmallTextConfig, build_text_encoder, sizes, train_tokenizer
from fourstroke.train.loop import RunConfig, Trainer
from fourstroke.train.naming import CellNaming, Labels
from fourstroke.train.optimizer import OptimizerConfig
from fourstroke.vae import Autoencoder
from fourstroke.world import World, WorldConfig
from fourstroke.world.cells import UNKNOWN
from fourstroke.world.graph import Split
from fourstroke.world.judging.composition import CHOOSING, draw, held_out_prompts, judge_pictures, summarise
from fourstroke.world.judging.judge import Judge


@dataclass(frozen=True, kw_only=True)
class SemanticsConfig:
    """Hidden states after `block` blocks must tell what the clean picture shows at their place, times `weight`.

    REPA (arXiv 2410.06940) aligns them with features of a frozen network; in the world the scene graph's own labels
    are at hand. Where the noise is high the text alone can tell, so this teaches the way from words to places.
    """

    block: Count
    weight: NonNegative = 0.5
    letters: str = ""
    """Letters to be named where they stand on signs; none where it is empty."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class DitRecipe:
    """Every number of a transformer run.

    `samples` scenes are rendered and encoded once into `cache`; `draws` noise draws share each prompt's prefix;
    `time_mean` and `time_std` set the logit-normal distribution of t; `init` names a checkpoint to start from, and
    `text_from` the folder of a trained `text_encoder` and `processor`, which go before those of `init`. `model` and
    `text` are the sizes of new ones; beside a checkpoint they may be left out, and must agree with it if they are not.
    """

    world: WorldConfig
    vae: Path
    cache: Path
    samples: Count
    held_out: Count = 256
    model: TransformerConfig | None = None
    text: SmallTextConfig | None = None
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    info: ModelInfo
    run: RunConfig
    optimizer: OptimizerConfig
    batch_size: Count
    draws: Count = 1
    drop_prompt: Fraction = 0.1
    time_mean: Finite = 0.0
    time_std: NonNegative = 1.0
    workers: Natural = 0
    compile: bool = False
    init: Path | None = None
    text_from: Path | None = None
    freeze_text: bool = False
    """Leave the text encoder as it is, like the reports' Qwen3-VL, and spare its backward pass."""
    semantics: SemanticsConfig | None = None
    judged: Natural = 0
    """Held-out prompts whose pictures are judged at every sample, so that the log holds the learning curve."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.model is None and self.init is None:
            raise ValueError("there is no transformer: name the sizes of a new one, model, or a checkpoint, init")
        if self.text is None and self.text_from is None and self.init is None:
            raise ValueError("there is no text encoder: name the sizes of a new one, text, or a trained one, text_from")
        if self.info.factor != ModelInfo.factor:
            raise ValueError(f"info.factor={self.info.factor}: leave it out, it is the autoencoder's own")
        if self.freeze_text and self.text_from is None and self.init is None:
            raise ValueError("freeze_text=true needs a trained text encoder: name text_from or init")
        if self.semantics is not None and self.compile:
            raise ValueError("semantics reads hidden states, which compile=true hides; leave one out")
        if self.compile and world_size() > 1:
            raise ValueError("compile=true is for one process; under torchrun set compile=false")


class DitStage:
    """Batches, loss, samples and export of the transformer and its text encoder."""

    accumulates = True

    def __init__(self, recipe: DitRecipe) -> None:
        self.recipe, self.device = recipe, pick_device()
        self.autoencoder = Autoencoder.from_pretrained(recipe.vae, device=str(self.device)).eval()
        self.autoencoder.requires_grad_(False)
        with rank0_first():
            self.cache = self._encoded("train", recipe.samples)
            self.held_out = self._encoded("heldout", recipe.held_out)
        if len(self.cache) < recipe.batch_size * recipe.run.accumulate * world_size():
            raise ValueError(f"samples={recipe.samples} are fewer than one batch on {world_size()} ranks")
        torch.manual_seed(recipe.run.seed)  # after the caches: building one draws from the global generator
        if recipe.init is not None:
            self.transformer = Transformer.from_pretrained(recipe.init / "transformer", device=str(self.device))
            agree("model", recipe.model, self.transformer.config, recipe.init)
        else:
            assert recipe.model is not None
            self.transformer = Transformer(recipe.model).to(self.device)
        if (text := recipe.text_from or recipe.init) is not None:
            self.text_encoder = TextEncoder.from_pretrained(
                text / "text_encoder", text / "processor", device=str(self.device)
            )
            agree("text", recipe.text and sizes(recipe.text), self.text_encoder.model.config.to_dict(), text)
        else:
            new = recipe.text
            assert new is not None
            captions = [c for kind in (self.cache.short, self.cache.rich) for c in kind[:20_000]]
            tokenizer = on_rank0(lambda: train_tokenizer(captions, new.vocab_size))
            self.text_encoder = build_text_encoder(new, tokenizer).to(self.device)
        self.text_encoder.trainable(not recipe.freeze_text)
        self.models: dict[str, nn.Module] = {"transformer": self.transformer}
        self._transformer = Sharded(self.transformer, ("prefill", "denoise"))
        self._text_encoder: Sharded[TextEncoder] | None = None
        if not recipe.freeze_text:  # a frozen one is whole on every rank
            self._text_encoder = Sharded(self.text_encoder)
            self.models["text_encoder"] = self.text_encoder
        self.semantics = None if recipe.semantics is None else _Semantics(recipe, self.transformer).to(self.device)
        if self.semantics is not None:
            self.models["semantics"] = Sharded(self.semantics.head).model
        self.batch_size = recipe.batch_size * recipe.draws
        self._flow = torch.compile(self._velocity) if recipe.compile else self._velocity

    def loss(self, step: int) -> dict[str, Tensor]:
        """Mean squared error of the velocity over the batch of this step."""
        recipe = self.recipe
        generator = torch.Generator().manual_seed(recipe.run.seed * 1_000_003 + step)
        shards = data_shard().count
        indices = local_rows(torch.tensor(self._indices(step)))
        dropped = local_rows(torch.rand(len(indices) * shards, generator=generator) < recipe.drop_prompt)
        captions = self.cache.short if step % 2 else self.cache.rich
        prompts = ["" if drop else captions[i] for i, drop in zip(indices.tolist(), dropped.tolist(), strict=True)]
        x_0 = self.cache.latents[indices].float()
        flow = self._error(prompts, x_0, recipe.draws, generator, shards).mean()
        if self.semantics is None or recipe.semantics is None:
            return {"loss": flow}
        named = self.semantics.losses(indices.tolist(), dropped, recipe.draws)
        return {"loss": flow + recipe.semantics.weight * sum(named.values()), "flow": flow, **named}

    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """A sheet of held-out prompts, and the loss on held-out latents with fixed noise."""
        generator = torch.Generator().manual_seed(0)
        errors = []
        for start in range(0, len(self.held_out), 32):
            prompts = self.held_out.rich[start : start + 32]
            x_0 = self.held_out.latents[start : start + 32].float()
            errors.append(self._error(prompts, x_0, 2, generator))
        pipe = self.pipeline()
        world = World(self.recipe.world)
        prompts = [world.sample(index, "heldout").short for index in range(16)]
        images = [pipe(p, seed=index, num_inference_steps=20).images[0] for index, p in enumerate(prompts)]
        save_image(contact_sheet(images, prompts, columns=8, upscale=2), folder / f"step-{step:06d}.png")
        scores = {"heldout": torch.cat(errors).mean().item()}  # the last batch may be short
        if self.recipe.judged:
            chosen = held_out_prompts(world, self.recipe.judged, first=CHOOSING)
            verdicts = judge_pictures(Judge(self.recipe.world), chosen, draw(pipe, chosen, steps=20, batch=16))
            scores |= {name: share.value for name, share in summarise(chosen, verdicts).items() if share is not None}
        return scores

    def export(self, folder: Path) -> None:
        """Write the whole checkpoint."""
        self.pipeline().save_pretrained(folder)

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Within the block the first rank's transformer and text encoder are plain and complete."""
        parts = self.transformer, self.text_encoder
        with contextlib.ExitStack() as stack:
            self.transformer = stack.enter_context(self._transformer.gathered())
            if self._text_encoder is not None:
                self.text_encoder = stack.enter_context(self._text_encoder.gathered())
            try:
                yield
            finally:
                self.transformer, self.text_encoder = parts

    def pipeline(self) -> Pipeline:
        """The parts as they are now, as a pipeline."""
        return Pipeline(self.transformer, self.autoencoder, self.text_encoder, self.recipe.schedule, self.recipe.info)

    def _encoded(self, split: Split, count: int) -> LatentCache:
        recipe = self.recipe
        return build_cache(
            recipe.cache / split, self.autoencoder, recipe.world, count, split=split, workers=recipe.workers
        )

    def _error(
        self, prompts: list[str], x_0: Tensor, draws: int, generator: torch.Generator, shards: int = 1
    ) -> Tensor:
        """Squared error of the velocity, averaged over tokens and channels: (len(prompts) * draws,).

        With `shards` the generator draws for all of them, and the prompts are those of one (see `parallel.mesh`).
        """
        x_0 = x_0.repeat_interleave(draws, dim=0)
        noise = torch.randn((len(x_0) * shards, *x_0.shape[1:]), generator=generator)
        mean, std = self.recipe.time_mean, self.recipe.time_std
        t = path.sample_times(len(noise), mean=mean, std=std, generator=generator)
        if shards > 1:
            noise, t = local_rows(noise, draws), local_rows(t, draws)
        x_0, noise, t = x_0.to(self.device), noise.to(self.device), t.to(self.device)
        with autocast(self.device):
            text = self.text_encoder(self.text_encoder.tokenize(prompts))
            layout = Layout.build(text.lengths, self.cache.grid)
            v = self._flow(text.features, layout, path.interpolate(x_0, noise, t), t, draws)
        return F.mse_loss(v.float(), path.velocity(x_0, noise), reduction="none").mean((1, 2))

    def _velocity(self, features: Tensor, layout: Layout, x_t: Tensor, t: Tensor, draws: int) -> Tensor:
        return self.transformer.denoise(x_t, t, self.transformer.prefill(features, layout).repeat(draws))

    def _indices(self, step: int) -> list[int]:
        """The samples of this step, of all ranks: every epoch is a permutation of its own."""
        size, count = self.recipe.batch_size * data_shard().count, len(self.cache)
        per_epoch = math.floor(count / size)
        epoch, place = divmod(step, per_epoch)
        if getattr(self, "_epoch", None) != epoch:
            generator = torch.Generator().manual_seed(self.recipe.run.seed * 7919 + epoch)
            self._order, self._epoch = torch.randperm(count, generator=generator), epoch
        return self._order[place * size : (place + 1) * size].tolist()


class _Semantics(nn.Module):
    """Names what each target token shows from a hidden state of the transformer; thrown away after training."""

    def __init__(self, recipe: DitRecipe, transformer: Transformer) -> None:
        super().__init__()
        assert recipe.semantics is not None
        block = recipe.semantics.block
        if block > len(transformer.transformer_blocks):
            raise ValueError(f"semantics.block={block}, but there are {len(transformer.transformer_blocks)} blocks")
        self.world = World(recipe.world)
        self.naming = CellNaming(self.world, recipe.semantics.letters)
        self.head = nn.Linear(transformer.config.width, self.naming.outputs)
        self._hidden: Tensor | None = None
        self._known: dict[int, Labels] = {}
        transformer.transformer_blocks[block - 1].register_forward_hook(self._keep)

    def losses(self, indices: list[int], dropped: Tensor, draws: int) -> dict[str, Tensor]:
        """Cross entropy of what the samples' scenes show; where the prompt was dropped, nothing is asked."""
        assert self._hidden is not None
        rows = list(map(self._labels, indices))
        asked = {}
        for name in self.naming.widths:
            labels = torch.cat([row[name] for row in rows])
            labels[dropped] = UNKNOWN
            asked[name] = labels.repeat_interleave(draws, dim=0)
        return self.naming.losses(self.head(self._hidden.float()).mT, asked)

    def _labels(self, index: int) -> Labels:
        """The labels of a sample, made when first asked for."""
        if index not in self._known:
            labels = self.naming.labels([self.world.scene(index)])
            self._known[index] = {name: part.to(torch.int16) for name, part in labels.items()}
        return self._known[index]

    def _keep(self, module: nn.Module, inputs: tuple[Any, ...], output: tuple[Tensor, Any]) -> None:
        self._hidden = output[0]  # of the last call, which is that of the target's tokens


def train_dit(recipe: DitRecipe, resume: bool = False) -> Path:
    """Train by a recipe; returns the folder of the finished checkpoint."""
    with process_group():
        return Trainer(DitStage(recipe), recipe.run, recipe.optimizer, resolved(recipe)).run(resume)
