"""A small transformer on the latents of an arm, and how well it draws: whether a latent space is easy to generate in.

It learns a smaller world than the autoencoders do (one thing, flat backgrounds, short captions) so that in minutes its
pictures can be judged at all. Words are a learned table instead of a text encoder, the same for every latent space.
Results are kept in `runs/studies/flow-<steps>/<arm>/<seed>`.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from arms import reconstruct
from scenes import as_pixels
from torch import Tensor, nn

from fourstroke.checkpoint import read_json
from fourstroke.dit import Layout, Transformer, TransformerConfig
from fourstroke.files import write_json
from fourstroke.flow import path
from fourstroke.flow.sampler import euler, guided, seeded_noise
from fourstroke.flow.schedule import ScheduleConfig, sigmas
from fourstroke.train.optimizer import MovingAverage, OptimizerConfig, OptimizerGroup
from fourstroke.vae import Autoencoder
from fourstroke.world import World, WorldConfig
from fourstroke.world.judging.composition import Prompt, held_out_prompts, judge_pictures
from fourstroke.world.judging.judge import Judge

WORLD = WorldConfig(
    width=64, height=64, sprites=4, shape_share=0.5, count_weights=(1.0,), backgrounds=(1.0, 0.0, 0.0), textures=0.0,
    lights=0.0,
)  # fmt: skip
GRID = (4, 4)
MODEL = TransformerConfig(
    num_layers=4, num_attention_heads=4, attention_head_dim=32, axes_dims_rope=(8, 12, 12), context_in_dim=64
)
OPTIMIZER = OptimizerConfig(kind="muon", lr=2e-3, warmup=20, cooldown=0.5, ema=0.98)
SCENES, HELD_OUT, PROMPTS = 2048, 256, 96
BATCH, DRAWS, DROP = 16, 2, 0.1
STEPS, SAMPLING_STEPS, GUIDANCE = 300, 20, 3.0


class Words(nn.Module):
    """Captions to rows of learned vectors, one a word; unknown words share one, an empty caption is the start alone."""

    def __init__(self, captions: Sequence[str], width: int) -> None:
        super().__init__()
        known = sorted({word for caption in captions for word in split(caption)})
        self.index = {word: place for place, word in enumerate(known, 3)}  # 0 padding, 1 start, 2 unknown
        self.embedding = nn.Embedding(3 + len(known), width)

    def forward(self, captions: Sequence[str]) -> tuple[Tensor, list[int]]:
        """(b, length, width) padded on the right, and the lengths."""
        rows = [[1, *(self.index.get(word, 2) for word in split(caption))] for caption in captions]
        lengths = [len(row) for row in rows]
        padded = [row + [0] * (max(lengths) - len(row)) for row in rows]
        return self.embedding(torch.tensor(padded)), lengths


def split(caption: str) -> list[str]:
    """Its words in small letters, without marks."""
    return re.findall(r"[a-z]+", caption.lower())


@dataclass(frozen=True)
class Space:
    """The latents of an autoencoder, one mean and deviation per channel taken from the small world's own."""

    model: Autoencoder
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, model: Autoencoder, x: Tensor) -> tuple[Space, Tensor]:
        """The space, and the latents of pictures x in it, (b, tokens, channels)."""
        z = encode_raw(model, x)
        space = cls(model, z.mean((0, 1)), z.std((0, 1)).clamp_min(1e-6))
        return space, (z - space.mean) / space.std

    def encode(self, x: Tensor) -> Tensor:
        """(b, 4, H, W) -> (b, tokens, channels)."""
        return (encode_raw(self.model, x) - self.mean) / self.std

    @torch.no_grad()
    def decode(self, z: Tensor) -> np.ndarray:
        """(b, tokens, channels) -> (b, H, W, 3) uint8."""
        raw = (z * self.std + self.mean).mT.unflatten(2, GRID)
        y = torch.cat([self.model.decode_raw(part) for part in raw.split(16)])[:, :3].clamp(-1, 1)
        return _bytes(y)


@torch.no_grad()
def encode_raw(model: Autoencoder, x: Tensor) -> Tensor:
    """(b, 4, H, W) -> (b, tokens, channels), as the encoder gives them."""
    return torch.cat([model.encode_raw(part).flatten(2).mT for part in x.split(32)])


def drawn_with(folder: Path, kept: Path, seed: int, steps: int) -> dict[str, Any]:
    """Scores of the transformer trained on the latents of the autoencoder in `folder`; read from `kept` if there."""
    weights = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.safetensors")))).hexdigest()
    setting = {"seed": seed, "steps": steps, "scenes": SCENES, "batch": BATCH * DRAWS, "autoencoder": weights}
    file = kept / "result.json"
    if file.exists() and read_json(file)["setting"] == setting:
        return read_json(file)
    start = time.perf_counter()
    model = Autoencoder.from_pretrained(folder)
    world = World(WORLD)
    samples = [world.sample(index) for index in range(SCENES)]
    space, latents = Space.of(model, as_pixels([sample.image for sample in samples]))
    flow = Flow([sample.short for sample in samples], seed)
    flow.train(latents, seed, steps)
    result = {"setting": setting, **flow.scores(space, world), "seconds": time.perf_counter() - start}
    kept.mkdir(parents=True, exist_ok=True)
    write_json(file, result)
    print(f"transformer on {folder}: {result['composition']:.3f}, {result['seconds']:.0f} s", flush=True)
    return read_json(file)


class Flow:
    """Transformer and words, trained by flow matching."""

    def __init__(self, captions: Sequence[str], seed: int) -> None:
        torch.manual_seed(seed)
        self.captions = captions
        self.transformer, self.words = Transformer(MODEL), Words(captions, MODEL.context_in_dim)

    def train(self, latents: Tensor, seed: int, steps: int) -> None:
        """`steps` steps on latents (n, tokens, channels); the weights are their moving average at the end."""
        learner = OptimizerGroup({"transformer": self.transformer, "words": self.words}, OPTIMIZER)
        average = MovingAverage(learner.models, OPTIMIZER.ema)
        for step in range(steps):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
            chosen = torch.randint(len(latents), (BATCH,), generator=generator)
            dropped = (torch.rand(BATCH, generator=generator) < DROP).tolist()
            captions = ["" if drop else self.captions[i] for i, drop in zip(chosen.tolist(), dropped, strict=True)]
            loss = self.error(captions, latents[chosen], generator)
            learner.update({"loss": loss}, step / steps)
            average.update(step)
        average._write(average.weights)

    def error(self, captions: Sequence[str], x_0: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared error of the velocity, DRAWS noises each."""
        x_0 = x_0.repeat_interleave(DRAWS, dim=0)
        noise = torch.randn(x_0.shape, generator=generator)
        t = path.sample_times(len(x_0), generator=generator)
        v = self.velocity(captions, DRAWS)(path.interpolate(x_0, noise, t), t)
        return F.mse_loss(v, path.velocity(x_0, noise))

    def velocity(self, captions: Sequence[str], draws: int = 1) -> Any:
        """The model with its captions bound."""
        text, lengths = self.words(captions)
        cache = self.transformer.prefill(text, Layout.build(lengths, GRID)).repeat(draws)
        return lambda x_t, t: self.transformer.denoise(x_t, t, cache)

    @torch.no_grad()
    def scores(self, space: Space, world: World) -> dict[str, Any]:
        """Held-out loss, the same as a share of the best linear guess, and the judge on drawings and on copies."""
        held_out = [world.sample(index, "heldout") for index in range(HELD_OUT)]
        latents = space.encode(as_pixels([sample.image for sample in held_out]))
        generator, errors = torch.Generator().manual_seed(0), []
        for start in range(0, HELD_OUT, 32):
            part = slice(start, start + 32)
            error = self.error([s.short for s in held_out[part]], latents[part], generator)
            errors.append(float(error) * len(latents[part]))  # the last part may be short
        loss, linear = sum(errors) / HELD_OUT, gaussian_loss(latents)
        prompts, judge = held_out_prompts(world, PROMPTS, "short"), Judge(world.config)
        originals = as_pixels([world.render(prompt.scene) for prompt in prompts])
        copies = _bytes(reconstruct(space.model, originals))
        return {
            "loss": loss,
            "linear_loss": linear,
            "normalised_loss": loss / linear,
            **judged(judge, prompts, self.draw(space, prompts)),
            "ceiling": judged(judge, prompts, copies),
        }

    @torch.no_grad()
    def draw(self, space: Space, prompts: Sequence[Prompt]) -> np.ndarray:
        """A picture for each prompt, (n, H, W, 3) uint8, from the prompt's own noise."""
        noise = seeded_noise([prompt.seed for prompt in prompts], GRID[0] * GRID[1], MODEL.in_channels)
        velocity = guided(self.velocity([p.caption for p in prompts]), self.velocity([""] * len(prompts)), GUIDANCE)
        return space.decode(euler(velocity, noise, sigmas(SAMPLING_STEPS, GRID[0] * GRID[1], ScheduleConfig())))


def judged(judge: Judge, prompts: Sequence[Prompt], pictures: np.ndarray) -> dict[str, float]:
    """Shares of right objects, colours of shapes and backgrounds, and the mean of the first two as `composition`."""
    verdicts = judge_pictures(judge, prompts, list(pictures))
    shares = {}
    for kind in ("objects", "colours", "backgrounds"):
        marks = [mark for verdict in verdicts for mark in getattr(verdict, kind)]
        shares[kind] = sum(marks) / len(marks)
    return {"composition": (shares["objects"] + shares["colours"]) / 2, **shares}


def gaussian_loss(latents: Tensor, times: int = 512) -> float:
    """The loss of the best guess that knows the channels' covariance and nothing else, over the same times as training.

    For an eigenvalue L: of v = e - x_0, what x_t = (1 - t) x_0 + t e does not tell is
    1 + L - (t - (1 - t) L)^2 / ((1 - t)^2 L + t^2). It differs between latent spaces, and so do losses.
    """
    flat = latents.flatten(0, 1).double()
    eigenvalues = torch.linalg.eigvalsh(flat.T.cov()).clamp_min(1e-9)
    t = path.sample_times(times, generator=torch.Generator().manual_seed(0)).double()[:, None]
    known = (t - (1 - t) * eigenvalues).square() / ((1 - t).square() * eigenvalues + t.square())
    return float((1 + eigenvalues - known).mean())


def _bytes(x: Tensor) -> np.ndarray:
    """(b, 3, H, W) in [-1, 1] -> (b, H, W, 3) uint8."""
    return ((x + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
