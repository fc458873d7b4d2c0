"""SwiGLU with modulation that only scales, against GELU with modulation that scales and shifts: which stays calm?

    python studies/stability.py

Qwen-Image-2.0 report, Transformer: with a plain GELU, joint training on text and images drives single activations to
extreme magnitudes; SwiGLU and scale-only modulation keep them tame. Both are trained here at equal parameters, data and
steps, in today's shape and in a deep, narrow one, in float32 and in bfloat16: the largest activation of each layer
over training, loss, norms of gradients, spikes, and what four steps keep of twenty. A finished run is kept, in the
study's own JSON too: `--seeds 1` or `--precisions fp32` first and the others later costs nothing twice. A run's curve
grows while it goes on. The optimizer is AdamW, which large models are trained by; Muon, whose steps are of one spectral
norm, is one option away. The 24 runs of the default size take some three hours of one core (.4 to .9 seconds of the
processor a step in float32, .6 to 1.5 in bfloat16 where that is emulated). Writes docs/studies/stability.{json,md,png}.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import small_flow
import torch
from affine import AffineTransformer
from pages import COLOURS, axes_of, paragraphs, save, spread, table, write
from scenes import as_pixels
from small_flow import Flow, Space, Words, judged
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fourstroke.checkpoint import read_json
from fourstroke.device import emulates_bf16
from fourstroke.dit import Transformer, TransformerConfig
from fourstroke.files import write_json
from fourstroke.flow.sampler import euler, guided, seeded_noise
from fourstroke.flow.schedule import ScheduleConfig, sigmas
from fourstroke.train.optimizer import MovingAverage, OptimizerConfig, OptimizerGroup
from fourstroke.vae import Autoencoder
from fourstroke.world import World
from fourstroke.world.judging.composition import Prompt, held_out_prompts
from fourstroke.world.judging.judge import Judge

SHAPES = {
    "today's": TransformerConfig(
        num_layers=6, num_attention_heads=4, attention_head_dim=64, axes_dims_rope=(8, 28, 28), context_in_dim=64
    ),
    "deep, narrow": TransformerConfig(
        num_layers=24, num_attention_heads=2, attention_head_dim=64, axes_dims_rope=(8, 28, 28), context_in_dim=64
    ),
}
KINDS = {"scale": "SwiGLU, scale", "affine": "GELU, scale and shift"}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
OPTIMIZERS = {
    "muon": small_flow.OPTIMIZER,
    "adamw": OptimizerConfig(kind="adamw", lr=1e-3, warmup=100, cooldown=0.5, ema=0.98),
}
STEPS, SEEDS, MARKS = 600, 3, 24
BATCH = 8
"""Captions of a step, each with as many noises as in `small_flow`: growth takes steps more than pictures."""
FEW, MANY = 4, 20
SPIKE, WINDOW = 3.0, 100
"""A step whose loss, or norm of the gradient, is so many times the median of as many steps before is a spike."""
MASSIVE = 1000.0
"""Times the median magnitude of its layer from which an activation is called massive (arXiv 2402.17762)."""
FINDINGS = (
    """Reproduced in direction, in the stream between layers: with GELU and shifts its largest activation ends 1.2 to
    3.5 times as large as with SwiGLU and scales alone, larger in each of the 12 pairs of a shape, a precision and a
    seed, and the loss is higher in each: .52 to .56 against .45 to .48. Within the feed-forward it is the other way in
    today's shape: SwiGLU's products reach 2.3 to 6.6, GELU's 1.5 to 2.9. Deep and narrow makes none of them larger.""",
    """Not shown at this scale: massive activations. The largest is 67 times its layer's median, where a thousand times
    is called massive; no loss and no gradient is a spike, and bfloat16 loses nothing against float32. Whether the gap
    grows into the report's extremes with size and steps cannot be told from 5 M parameters and 600 steps.""",
    """What four steps keep of twenty does not separate, and composition is that of barely trained models, though
    SwiGLU has more of it in most pairs. Gate and shifts were changed together, as in the report: which of them counts
    for more was not asked.""",
)
"""What we read from the table of the default steps and seeds, by AdamW."""


class SummedInFloat32(TorchDispatchMode):
    """Multiplies bfloat16 matrices in float32 and rounds the sums, as processors do that multiply in bfloat16.

    Products of two bfloat16 numbers are exact in float32. PyTorch's own way takes six times as long on the others.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation, backward ones too."""
        products = torch.ops.aten.mm.default, torch.ops.aten.bmm.default
        if func in products and args[0].dtype == torch.bfloat16:
            return func(args[0].float(), args[1].float()).bfloat16()
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to build, and in what to multiply."""

    shape: str
    kind: str
    precision: str

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.shape.replace(', ', '-').replace(chr(39), '')}-{self.kind}-{self.precision}"


ARMS = tuple(Arm(shape=s, kind=k, precision=p) for s, p, k in itertools.product(SHAPES, PRECISIONS, KINDS))


class Trained(Flow):
    """A transformer of an arm with its words, and what is watched of it."""

    def __init__(self, arm: Arm, captions: Sequence[str], seed: int) -> None:
        torch.manual_seed(seed)
        self.captions, self.arm = captions, arm
        config = SHAPES[arm.shape]
        self.transformer = (Transformer if arm.kind == "scale" else AffineTransformer)(config)
        self.words = Words(captions, config.context_in_dim)

    def error(self, captions: Sequence[str], x_0: Tensor, generator: torch.Generator) -> Tensor:
        """The loss, in the precision of the arm."""
        half = self.arm.precision == "bf16"
        with torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext():
            return super().error(captions, x_0, generator).float()

    @torch.no_grad()
    def activations(self, latents: Tensor) -> dict[str, list[float]]:
        """By layer, on one batch: the largest magnitude in the stream and within the feed-forward, and the median."""
        found: dict[str, list[list[float]]] = {
            name: [[] for _ in self.transformer_blocks] for name in ("stream", "hidden", "median")
        }
        with self._hooked(found), self._products():
            self.error(self.captions[:8], latents[:8], torch.Generator().manual_seed(0))
        return {name: [max(layer) for layer in layers] for name, layers in found.items()}

    def _products(self) -> contextlib.AbstractContextManager[Any]:
        """How matrices are multiplied within: as the arm says, whatever the processor has."""
        emulated = self.arm.precision == "bf16" and emulates_bf16()
        return SummedInFloat32() if emulated else contextlib.nullcontext()

    @property
    def transformer_blocks(self) -> Sequence[Any]:
        """Of the transformer."""
        return list(self.transformer.transformer_blocks)

    @contextlib.contextmanager
    def _hooked(self, found: dict[str, list[list[float]]]) -> Iterator[None]:
        handles = []
        for place, block in enumerate(self.transformer_blocks):

            def stream(module: nn.Module, inputs: Any, out: Any, place: int = place) -> None:
                size = out[0].float().abs()
                found["stream"][place].append(float(size.max()))
                found["median"][place].append(float(size.median()))

            def hidden(module: nn.Module, inputs: Any, place: int = place) -> None:
                found["hidden"][place].append(float(inputs[0].float().abs().max()))

            handles += [block.register_forward_hook(stream), block.img_mlp.out.register_forward_pre_hook(hidden)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def train_watched(self, latents: Tensor, seed: int, steps: int, optimizer: OptimizerConfig, file: Path) -> Any:
        """Train; the curve goes into a file as it grows. Returns it with every step's loss and gradient norm."""
        learner = OptimizerGroup({"transformer": self.transformer, "words": self.words}, optimizer)
        average = MovingAverage(learner.models, optimizer.ema)
        losses, norms, curve = [], [], []
        marks = {max(1, round(steps * share / MARKS)) for share in range(MARKS + 1)}
        for step in range(steps):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
            chosen = torch.randint(len(latents), (BATCH,), generator=generator)
            dropped = (torch.rand(len(chosen), generator=generator) < small_flow.DROP).tolist()
            captions = ["" if drop else self.captions[i] for i, drop in zip(chosen.tolist(), dropped, strict=True)]
            with self._products():
                found = learner.update({"loss": self.error(captions, latents[chosen], generator)}, step / steps)
            average.update(step)
            losses.append(float(found["loss"]))
            norms.append(float(found["grad_norm"]))
            if step + 1 in marks:
                recent = slice(max(0, len(losses) - WINDOW), None)
                curve.append(
                    {
                        "step": step + 1,
                        "loss": statistics.fmean(losses[recent]),
                        "grad_norm": statistics.median(norms[recent]),
                        **self.activations(latents),
                    }
                )
                write_json(file, curve)
        average._write(average.weights)
        return curve, losses, norms

    @torch.no_grad()
    def few_and_many(self, space: Space, prompts: Sequence[Prompt], judge: Judge) -> dict[str, float]:
        """Composition in many steps and in few, and the PSNR of the latter against the former, in dB."""
        drawn = {steps: self.drawn(space, prompts, steps) for steps in (MANY, FEW)}
        difference = (drawn[FEW].astype(float) - drawn[MANY].astype(float)) / 255
        error = (difference**2).mean((1, 2, 3)).clip(1e-6)
        scores = {f"composition_{steps}": judged(judge, prompts, p)["composition"] for steps, p in drawn.items()}
        return scores | {"kept": float((-10 * np.log10(error)).mean())}

    def drawn(self, space: Space, prompts: Sequence[Prompt], steps: int) -> np.ndarray:
        """(n, H, W, 3) uint8, guided, from the prompts' own noise."""
        tokens = small_flow.GRID[0] * small_flow.GRID[1]
        noise = seeded_noise([prompt.seed for prompt in prompts], tokens, self.transformer.config.in_channels)
        velocity = guided(
            self.velocity([p.caption for p in prompts]), self.velocity([""] * len(prompts)), small_flow.GUIDANCE
        )
        return space.decode(euler(velocity, noise, sigmas(steps, tokens, ScheduleConfig())))


def spikes(values: Sequence[float]) -> int:
    """Steps whose value is far above the median of those before; a value that is not finite is one too."""
    found = 0
    for place in range(WINDOW, len(values)):
        before = [value for value in values[place - WINDOW : place] if math.isfinite(value)]
        found += not (before and values[place] <= SPIKE * statistics.median(before))
    return found


def setting_of(arm: Arm, steps: int, optimizer: str) -> dict[str, Any]:
    """What a result depends on, as JSON tells it."""
    setting = {
        "steps": steps, "optimizer": dataclasses.asdict(OPTIMIZERS[optimizer]), "scenes": small_flow.SCENES,
        "batch": BATCH * small_flow.DRAWS,
        "shape": dataclasses.asdict(SHAPES[arm.shape]),
    }  # fmt: skip
    return json.loads(json.dumps(setting))


def finished(
    arm: Arm, seed: int, steps: int, optimizer: str, folder: Path, autoencoder: Path, written: dict[str, Any]
) -> dict[str, Any]:
    """The result of a run: read where it was left, be it the study that is `written`, or made now."""
    place, setting = folder / arm.name / str(seed), setting_of(arm, steps, optimizer)
    left = [read_json(place / "result.json")] if (place / "result.json").exists() else []
    for found in [*left, *written.get(arm.name, [])[seed : seed + 1]]:
        if found["setting"] == setting:
            return found
    start = time.process_time()
    world = World(small_flow.WORLD)
    samples = [world.sample(index) for index in range(small_flow.SCENES)]
    model = Autoencoder.from_pretrained(autoencoder)
    space, latents = Space.of(model, as_pixels([sample.image for sample in samples]))
    run = Trained(arm, [sample.short for sample in samples], seed)
    curve, losses, norms = run.train_watched(latents, seed, steps, OPTIMIZERS[optimizer], place / "curve.json")
    prompts = held_out_prompts(world, small_flow.PROMPTS, "short")
    write_json(
        place / "result.json",
        {
            "setting": setting,
            "parameters": sum(p.numel() for p in run.transformer.parameters()),
            "curve": curve,
            "spikes": {"loss": spikes(losses), "grad_norm": spikes(norms)},
            **run.few_and_many(space, prompts, Judge(world.config)),
            "cpu_seconds": time.process_time() - start,
        },
    )
    found = read_json(place / "result.json")
    print(f"{arm.name}, seed {seed}: {found['cpu_seconds']:.0f} s", flush=True)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, and write after each run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=STEPS, help="of every run")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS), help="of the runs")
    parser.add_argument("--autoencoder", type=Path, default=Path("models/micro/vae"), help="whose latents are learnt")
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"), help="where finished runs are kept")
    parser.add_argument("--out", type=Path, default=Path("docs/studies/stability"), help="prefix of the files")
    arguments = parser.parse_args(argv)
    folder = arguments.runs / f"stability-{arguments.optimizer}-{arguments.steps}"
    file = arguments.out.with_suffix(".json")
    written = read_json(file) if file.exists() else {}
    chosen = [arm for arm in ARMS if arm.precision in arguments.precisions]
    results: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in ARMS}
    for arm in set(ARMS) - set(chosen):
        setting = setting_of(arm, arguments.steps, arguments.optimizer)
        results[arm.name] = [found for found in written.get(arm.name, []) if found["setting"] == setting]
    for seed in range(arguments.seeds):
        for arm in chosen:
            found = finished(arm, seed, arguments.steps, arguments.optimizer, folder, arguments.autoencoder, written)
            results[arm.name].append(found)
            write(arguments.out, results, page(results, arguments))
    plot(results, arguments.out)
    print(arguments.out.with_suffix(".md").read_text(encoding="utf-8"))


def page(results: dict[str, list[dict[str, Any]]], a: argparse.Namespace) -> str:
    """The page of docs."""
    rows = []
    for arm in ARMS:
        if not (found := results[arm.name]):
            continue
        last = [r["curve"][-1] for r in found]
        rows.append(
            [
                f"{arm.shape}, {arm.precision}: {KINDS[arm.kind]}",
                f"{found[0]['parameters'] / 1e6:.2f}",
                spread([max(p["stream"]) for p in last], 1),
                spread([max(p["hidden"]) for p in last], 1),
                spread([massive(p) for p in last], 0),
                spread([p["loss"] for p in last], 4),
                spread([p["grad_norm"] for p in last], 3),
                spread([r["spikes"]["loss"] + r["spikes"]["grad_norm"] for r in found], 0),
                spread([r[f"composition_{MANY}"] for r in found], 3),
                spread([r[f"composition_{FEW}"] for r in found], 3),
                spread([r["kept"] for r in found], 1),
            ]
        )
    heads = [
        "", "parameters, M", "largest in the stream", "within the feed-forward", "times its median", "loss",
        "gradient norm", "spikes", f"composition, {MANY} steps", f"{FEW} steps", f"{FEW} of {MANY}, dB",
    ]  # fmt: skip
    about = (
        f"Transformers on 64 x 64 scenes of one thing, in the latents of `{a.autoencoder}`; {a.steps} steps of "
        f"{BATCH} captions by {a.optimizer}, {a.seeds} seeds, mean (lowest to highest). Activations are the "
        "largest magnitudes of any layer at the end, on one batch; those of a thousand times their layer's median are "
        f"called massive elsewhere (arXiv 2402.17762). A spike is a step whose loss or gradient is {SPIKE:g} times the "
        f"median of the {WINDOW} before."
    )
    command = f"    python studies/stability.py --steps {a.steps} --optimizer {a.optimizer} --seeds {a.seeds}"
    whole = (a.steps, a.optimizer) == (STEPS, "adamw") and all(len(found) == SEEDS for found in results.values())
    said = f"\n## What it says\n\n{paragraphs(*FINDINGS)}\n" if whole else ""
    return (
        f"# SwiGLU and scale-only modulation\n\n{command}\n\n{paragraphs(about)}\n\n{table(heads, rows)}\n\n"
        f"![largest activations over training and by layer]({a.out.name}.png)\n{said}"
    )


def massive(point: dict[str, Any]) -> float:
    """The largest ratio of an activation to the median of its layer."""
    return max(most / max(median, 1e-9) for most, median in zip(point["stream"], point["median"], strict=True))


def plot(results: dict[str, list[dict[str, Any]]], out: Path) -> None:
    """For each shape: the largest activation over training, and by layer at the end."""
    figure, axes = axes_of(2 * len(SHAPES))
    for place, shape in enumerate(SHAPES):
        over, layers = axes[2 * place], axes[2 * place + 1]
        arms = [arm for arm in ARMS if arm.shape == shape and results[arm.name]]
        for arm, colour in zip(arms, COLOURS, strict=False):
            found, label = results[arm.name], f"{KINDS[arm.kind]}, {arm.precision}"
            steps = [point["step"] for point in found[0]["curve"]]
            most = [[max(point["stream"]) for point in r["curve"]] for r in found]
            over.plot(steps, [statistics.fmean(each) for each in zip(*most, strict=True)], color=colour, label=label)
            ends = [r["curve"][-1]["stream"] for r in found]
            means = [statistics.fmean(each) for each in zip(*ends, strict=True)]
            layers.plot(range(1, len(means) + 1), means, color=colour, marker=".", label=label)
        over.set(yscale="log", xlabel="steps", ylabel="largest activation", title=f"{shape} shape")
        layers.set(yscale="log", xlabel="layer", title=f"{shape} shape, at the end")
        over.legend(fontsize=7)
        for each in (over, layers):
            each.grid(alpha=0.3)
    save(figure, out)


if __name__ == "__main__":
    main()
