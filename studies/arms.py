"""Arms of the studies of the autoencoder: what is trained, on what, for how long, and what is measured at the end.

Every arm of a seed sees the same pictures in the same order, takes the same number of steps and starts from the same
seed; arms differ only in their `Arm`. A finished arm leaves its result and its weights in
`runs/studies/vae-<steps>/<arm>/<seed>`, so that an interrupted study goes on where it stopped, and studies share arms.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scenes import as_pixels, batches, pixels
from torch import Tensor, nn

from fourstroke.checkpoint import read_json
from fourstroke.evaluate.reconstruction import ssim
from fourstroke.files import write_json
from fourstroke.train.optimizer import MovingAverage, OptimizerConfig, OptimizerGroup
from fourstroke.vae import Autoencoder, AutoencoderConfig
from fourstroke.vae.losses import edge, l1, psnr
from fourstroke.world import World, WorldConfig
from fourstroke.world.page import render_page

WORLD = WorldConfig(width=64, height=64, count_weights=(0.5, 0.42, 0.08), textures=0.25, lights=0.25)
F16C64 = AutoencoderConfig(
    base_dim=8, decoder_base_dim=8, num_res_blocks=1, dim_mult=(1, 2, 4, 8, 8), temperal_downsample=(False,) * 4
)
"""The smallest model in which the report's five stages are all there."""
OPTIMIZER = OptimizerConfig(kind="muon", lr=1e-3, warmup=20, cooldown=0.4, ema=0.99)
BATCH, PAGES, PAGE_SIZES = 4, 1, (8, 16)
"""Pictures of a batch, how many of them are pages of small text, and the sizes of their letters in pixels."""
STEPS, SEEDS = 400, 3
HELD_OUT_SCENES, HELD_OUT_PAGES, WATCHED = 64, 32, 32


class Objective:
    """What an arm adds to L1 + edges; this one adds nothing. `models` are trained together with the autoencoder."""

    def __init__(self) -> None:
        self.models: dict[str, nn.Module] = {}

    def latents(self, model: Autoencoder, x: Tensor, generator: torch.Generator) -> Tensor:
        """What the decoder is trained on, (b, z_dim, h, w)."""
        return model.encode_raw(x)

    def extra(self, model: Autoencoder, x: Tensor, y: Tensor, z: Tensor, loss: Tensor, step: int) -> Tensor:
        """Added to the loss of pictures x, their copies y and latents z, of which `loss` is the reconstruction's."""
        return loss.new_zeros(())

    def turn(self, x: Tensor, y: Tensor, step: int) -> None:
        """After the autoencoder's step: whatever else is trained."""

    def measure(self, model: Autoencoder, x: Tensor) -> dict[str, float]:
        """Scores of its own on held-out pictures."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to build and train the autoencoder; `objective` is called with the number of steps."""

    name: str
    label: str
    """As tables and plots call it."""
    model: AutoencoderConfig = F16C64
    build: Callable[[AutoencoderConfig], Autoencoder] = Autoencoder
    objective: Callable[[int], Objective] = lambda steps: Objective()
    note: str = ""
    """The numbers of its objective. An arm that was saved with another note or model is trained again."""


BASE = Arm(name="f16c64", label="f16c64")
"""The product's: local shortcuts, L1 + edges, nothing else."""


def study_arguments(purpose: str, name: str) -> argparse.ArgumentParser:
    """The options that all studies have."""
    parser = argparse.ArgumentParser(description=purpose)
    parser.add_argument("--steps", type=int, default=STEPS, help="of every arm")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"), help="where finished arms are kept")
    parser.add_argument("--out", type=Path, default=Path("docs/studies") / name, help="prefix of the files")
    return parser


def conditions(steps: int, seeds: int) -> str:
    """What all arms of all studies share, for their pages; docs/studies/index.md has the rest of it."""
    return (
        f"[Setting](index.md#autoencoders): {steps} steps of {BATCH} pictures, {seeds} seeds; "
        "mean (lowest to highest), differences seed by seed."
    )


def run_arms(arms: Sequence[Arm], steps: int, seeds: int, runs: Path) -> dict[str, list[dict[str, Any]]]:
    """Results of each arm, one a seed, trained where they are missing; all arms of a seed before the next seed."""
    results: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in arms}
    for seed in range(seeds):
        for arm in arms:
            results[arm.name].append(finished(arm, seed, steps, runs))
    return results


def finished(arm: Arm, seed: int, steps: int, runs: Path) -> dict[str, Any]:
    """The result of an arm: read where it was left, or made now."""
    folder = folder_of(arm, seed, steps, runs)
    setting = {"note": arm.note, "seed": seed, "steps": steps, "batch": BATCH, "model": arm.model.to_json()}
    if (folder / "result.json").exists():
        found = read_json(folder / "result.json")
        if found["setting"] == _as_read(setting):
            return found
        print(f"{folder} was made with other settings; once more", flush=True)
    model, result = train(arm, seed, steps)
    model.save_pretrained(folder / "model")
    write_json(folder / "result.json", {"setting": setting, **result})
    print(
        f"{arm.name}, seed {seed}: {result['scenes']['psnr']:.2f} dB, pages {result['pages']['psnr']:.2f} dB, "
        f"{result['seconds']:.0f} s",
        flush=True,
    )
    return read_json(folder / "result.json")


def folder_of(arm: Arm, seed: int, steps: int, runs: Path) -> Path:
    """Where the result and the weights of an arm are."""
    return runs / f"vae-{steps}" / arm.name / str(seed)


def train(arm: Arm, seed: int, steps: int) -> tuple[Autoencoder, dict[str, Any]]:
    """Train an arm; its averaged weights with latent statistics, and its result.

    `cpu_seconds` are those of the training steps alone and do not count what else the machine did.
    """
    torch.manual_seed(seed)
    model = arm.build(arm.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective = arm.objective(steps)
    learner = OptimizerGroup({"vae": model, **objective.models}, OPTIMIZER)
    average = MovingAverage(learner.models, OPTIMIZER.ema)
    watched, watched_pages = held_out_scenes(WATCHED), held_out_pages(WATCHED)
    curve: list[dict[str, float]] = []
    start, spent = time.perf_counter(), 0.0
    for step, x in zip(range(steps), pictures(seed), strict=False):
        before = time.process_time()
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        z = objective.latents(model, x, generator)
        y = model.decode_raw(z)
        loss = l1(y, x) + edge(y, x)
        loss = loss + objective.extra(model, x, y, z, loss, step)
        learner.update({"loss": loss}, step / steps)
        average.update(step)
        objective.turn(x, y.detach(), step)
        spent += time.process_time() - before
        if step + 1 in marks(steps):
            with average.applied():
                scores = {"psnr": mean_psnr(model, watched), "page_psnr": mean_psnr(model, watched_pages)}
            curve.append({"step": step + 1, **scores})
    average._write(average.weights)
    scenes, pages = held_out_scenes(HELD_OUT_SCENES), held_out_pages(HELD_OUT_PAGES)
    store_statistics(model, scenes)
    result = {
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()},
        "scenes": fidelity(model, scenes),
        "pages": fidelity(model, pages),
        "own": objective.measure(model, scenes),
        "curve": curve,
        "cpu_seconds": spent,
        "seconds": time.perf_counter() - start,
    }
    return model, result


def pictures(seed: int) -> Iterator[Tensor]:
    """Batches (BATCH, 4, 64, 64) of training scenes and pages, the same for every arm of a seed."""
    first = seed << 40
    for step, samples in enumerate(batches(WORLD, BATCH - PAGES, seed=seed)):
        pages = [page(first + step * PAGES + index, "train") for index in range(PAGES)]
        x = torch.cat([pixels(samples), as_pixels(pages)])
        yield x.to(memory_format=torch.channels_last)


def page(seed: int, split: Any, side: int = 64, size: int | tuple[int, int] = PAGE_SIZES) -> Any:
    """A page of small text, (side, side, 4) uint8."""
    return render_page(seed, side, side, size, split)


def held_out_scenes(count: int) -> Tensor:
    """The first held-out scenes, (count, 4, 64, 64)."""
    world = World(WORLD)
    return as_pixels([world.render(world.scene(index, "heldout")) for index in range(count)])


def held_out_pages(count: int) -> Tensor:
    """The first pages of held-out words, (count, 4, 64, 64)."""
    return as_pixels([page(index, "heldout") for index in range(count)])


def marks(steps: int) -> list[int]:
    """The steps at which an arm is looked at: sixths of the run, and a 24th and a 12th of it."""
    return sorted({max(1, steps * share // 24) for share in (1, 2, 4, 8, 12, 16, 20, 24)})


@torch.no_grad()
def reconstruct(model: Autoencoder, x: Tensor) -> Tensor:
    """RGB of the copies, (b, 3, H, W) in [-1, 1], rounded as a file would hold them."""
    parts = x.to(memory_format=torch.channels_last).split(16)
    y = torch.cat([model.decode_raw(model.encode_raw(part)) for part in parts])[:, :3].clamp(-1, 1)
    return ((y + 1) * 127.5).round() / 127.5 - 1


def mean_psnr(model: Autoencoder, x: Tensor) -> float:
    """Mean PSNR of RGB in dB."""
    return float(psnr(reconstruct(model, x), x[:, :3]).mean())


def fidelity(model: Autoencoder, x: Tensor) -> dict[str, float]:
    """Mean PSNR in dB and SSIM of RGB."""
    y = reconstruct(model, x)
    return {"psnr": float(psnr(y, x[:, :3]).mean()), "ssim": float(ssim(y, x[:, :3]).mean())}


@torch.no_grad()
def store_statistics(model: Autoencoder, x: Tensor) -> None:
    """Measure the latents' mean and deviation on pictures x; without them nothing is sampled."""
    z = torch.cat([model.encode_raw(part) for part in x.split(32)])
    model.set_statistics(z.mean((0, 2, 3)), z.std((0, 2, 3)))


def _as_read(value: Any) -> Any:
    """As JSON gives it back: tuples are lists."""
    if isinstance(value, dict):
        return {key: _as_read(item) for key, item in value.items()}
    return [_as_read(item) for item in value] if isinstance(value, (list, tuple)) else value
