"""Sixteen-fold compression against eight-fold at an equal bottleneck: f16c64 beside its f8c16 twin.

    python studies/compression.py                # short runs of small models, and the cost of a token
    python studies/compression.py --minutes 78 --width 1 --width 0.5 --seeds 1   # by the bundled recipe (`twins`)

Qwen-Image-2.0 report, VAE, table 1: f16c64 loses nothing against f8c16, at a quarter of the tokens. The twin has one
stage less and widths that bring it to the same number of parameters. Writes docs/studies/compression.{json,md,png}.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import twins
from arms import (
    BASE,
    F16C64,
    HELD_OUT_PAGES,
    HELD_OUT_SCENES,
    Arm,
    conditions,
    folder_of,
    held_out_pages,
    held_out_scenes,
    page,
    pictures,
    reconstruct,
    run_arms,
    study_arguments,
)
from pages import Results, axes_of, difference, draw_curves, findings, paragraphs, save, spread, table, write
from scenes import as_pixels
from torch.utils.flop_counter import FlopCounterMode

from fourstroke.dit import Layout, Transformer, TransformerConfig
from fourstroke.evaluate.reading import levenshtein
from fourstroke.evaluate.reconstruction import read_all
from fourstroke.files import write_text
from fourstroke.vae import Autoencoder, AutoencoderConfig
from fourstroke.vae.losses import psnr

F8C16 = replace(
    F16C64, base_dim=10, decoder_base_dim=10, z_dim=16, dim_mult=(1, 2, 4, 8), temperal_downsample=(False,) * 3
)
ARMS = (BASE, Arm(name="f8c16", label="f8c16", model=F8C16))
READ_PAGES, READ_SIDE, LETTERS = 16, 128, (12, 16)
"""Pages that are read, their side and the heights of their letters in pixels."""
FINDINGS = (
    """Not reproduced: f16c64 ends 3.2 dB behind on scenes (2.9 to 3.6) and 1.3 dB on pages (1.1 to 1.4).""",
    """The bottleneck is not the reason: f16c64's best linear map is the better one, by .6 dB. f8c16 comes within .7
    dB of its own map, f16c64 stays 4.5 dB below: it is far from trained. f8c16 also takes a quarter more CPU time a
    step, worth about half a dB. Both curves still rise, so whether steps or width close the gap is open; the
    report's model has 338 M parameters and was trained to the end.""",
    """NED was not read (`--pages 0`): in the pages we looked at no words of 12 to 16 px can be read, for either
    model.""",
    """Reproduced: the cost. A quarter of the tokens takes 3.4 to 5.5 times fewer FLOPs, more for larger pictures,
    and 4.4 times less time at 256 px. But f8c16 packed 2 x 2 into a token costs the same.""",
)
"""What we read from the table at the sizes that are the defaults."""


def linear_fidelity(config: AutoencoderConfig, batches: int = 400) -> dict[str, float]:
    """PSNR of the best linear map of each square of RGB to as many numbers: principal components of the same pictures.

    It knows nothing of other squares and nothing but second moments: what the bottleneck holds at the very least.
    """
    side, stream = config.factor, pictures(0)

    def squares(x: torch.Tensor) -> torch.Tensor:
        return F.unfold(x[:, :3].contiguous(), side, stride=side).mT.flatten(0, 1).double()

    seen = squares(torch.cat([next(stream) for _ in range(batches)]))
    mean = seen.mean(0)
    kept = torch.linalg.eigh((seen - mean).T.cov()).eigenvectors[:, -config.z_dim :]

    def copy(x: torch.Tensor) -> torch.Tensor:
        parts = ((squares(x) - mean) @ kept @ kept.T + mean).unflatten(0, (len(x), -1)).mT
        return F.fold(parts, x.shape[2:], side, stride=side).float().clamp(-1, 1)

    groups = {"scenes": held_out_scenes(HELD_OUT_SCENES), "pages": held_out_pages(HELD_OUT_PAGES)}
    return {name: float(psnr(copy(x), x[:, :3]).mean()) for name, x in groups.items()}


@dataclass(frozen=True, kw_only=True)
class Grid:
    """How latents become tokens: pixels a latent position, channels, and positions a token along each side."""

    name: str
    factor: int
    channels: int
    patch: int = 1

    def tokens(self, side: int) -> tuple[int, int]:
        """Rows and columns of tokens of a square picture."""
        return (side // self.factor // self.patch,) * 2


GRIDS = (
    Grid(name="f16c64", factor=16, channels=64),
    Grid(name="f8c16", factor=8, channels=16),
    Grid(name="f8c16, patches of 2 x 2", factor=8, channels=16, patch=2),
)
SMALL = TransformerConfig(
    num_layers=6, num_attention_heads=4, attention_head_dim=64, axes_dims_rope=(8, 28, 28), context_in_dim=192
)
"""The transformer of the micro family, which is timed; the open weights' is only counted."""
SMALL_SIDE, LARGE_SIDE, TEXT, ROUNDS = 256, 1024, 64, 5


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, read pages, time and count transformers, and write."""
    parser = study_arguments(__doc__.split("\n")[0], "compression")
    parser.add_argument("--pages", type=int, default=READ_PAGES, help="pages that are read; 0 reads none")
    parser.add_argument("--minutes", type=float, help="of each run, at full length, by --recipe; in place of --steps")
    parser.add_argument("--recipe", type=Path, default=Path("recipes/micro/vae.yaml"), help="with --minutes")
    parser.add_argument("--width", type=float, action="append", help="times the recipe's, with --minutes; repeatable")
    arguments = parser.parse_args(argv)
    if arguments.minutes:
        out = arguments.out.with_name(f"{arguments.out.name}-full")
        twins.run(arguments.minutes, arguments.seeds, arguments.runs, out, arguments.recipe, arguments.width or [1.0])
        return
    results = run_arms(ARMS, arguments.steps, arguments.seeds, arguments.runs)
    ned: dict[str, list[float]] = {}
    if arguments.pages:
        ned = {
            arm.name: [
                similarity(folder_of(arm, seed, arguments.steps, arguments.runs), arguments.pages)
                for seed in range(arguments.seeds)
            ]
            for arm in ARMS
        }
    costs = transformer_costs(arguments.runs / "transformer-step.json")
    linear = {arm.name: linear_fidelity(arm.model) for arm in ARMS}
    summary = summarise(results, ned, linear), cost_table(costs)
    print("\n\n".join(summary))
    everything = {"arms": results, "ned": ned, "linear": linear, "transformer": costs}
    write(arguments.out, everything, page_text(results, summary, arguments.steps, arguments.seeds, arguments.pages))
    figure, (scenes, pages, bars) = axes_of(3)
    labels = {arm.name: arm.label for arm in ARMS}
    draw_curves(scenes, results, labels, "psnr", "held-out scenes")
    draw_curves(pages, results, labels, "page_psnr", "held-out pages of small text")
    draw_costs(bars, costs)
    save(figure, arguments.out)


def similarity(folder: Path, count: int) -> float:
    """NED of held-out pages by an autoencoder; what was read is kept beside it, for it takes long.

    Mean over pages of 1 - levenshtein / longer length, both sides read by RapidOCR; pages in which neither side has a
    word do not count.
    """
    file = folder / f"ned-{count}.json"
    if file.exists():
        return float(json.loads(file.read_text(encoding="utf-8"))["ned"])
    model = Autoencoder.from_pretrained(folder / "model")
    x = as_pixels([page(index, "heldout", READ_SIDE, LETTERS) for index in range(count)])
    sides = [[read_all(picture) for picture in _bytes(part)] for part in (x[:, :3], reconstruct(model, x))]
    pairs = [(a, b) for a, b in zip(*sides, strict=True) if a or b]
    each = [1 - levenshtein(a, b) / max(len(a), len(b)) for a, b in pairs]
    ned = sum(each) / max(1, len(each))
    write_text(file, json.dumps({"ned": ned, "read": pairs}, ensure_ascii=False, indent=1) + "\n")
    return ned


def transformer_costs(file: Path) -> list[dict[str, Any]]:
    """Of each grid: tokens, seconds and FLOPs of a training step of SMALL, FLOPs of a forward pass of the 7 B one."""
    if file.exists():
        return json.loads(file.read_text(encoding="utf-8"))
    stages = [(grid, Transformer(_fitted(SMALL, grid))) for grid in GRIDS]
    seconds: list[list[float]] = [[] for _ in GRIDS]
    for _ in range(ROUNDS + 1):  # in turns, so that all see the same machine
        for (grid, model), found in zip(stages, seconds, strict=True):
            inputs = _inputs(model, grid, SMALL_SIDE, "cpu")
            start = time.process_time()
            model(*inputs).square().mean().backward()
            found.append(time.process_time() - start)
    rows = []
    for (grid, model), found in zip(stages, seconds, strict=True):
        with torch.device("meta"):
            large = Transformer(_fitted(TransformerConfig(), grid))
        rows.append(
            {
                "grid": grid.name,
                "small_tokens": int(np.prod(grid.tokens(SMALL_SIDE))),
                "small_seconds": statistics.median(found[1:]),
                "small_flops": count(model, _inputs(model, grid, SMALL_SIDE, "cpu"), backward=True),
                "large_tokens": int(np.prod(grid.tokens(LARGE_SIDE))),
                "large_flops": count(large, _inputs(large, grid, LARGE_SIDE, "meta"), backward=False),
            }
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(rows, indent=1))
    return rows


def count(model: Transformer, inputs: Any, *, backward: bool) -> int:
    """FLOPs of matrix products and attention, two for each multiply-add."""
    counter = FlopCounterMode(display=False)
    with counter, torch.set_grad_enabled(backward):
        velocity = model(*inputs)
        if backward:
            velocity.square().mean().backward()
    return counter.get_total_flops()


def summarise(results: Results, ned: dict[str, list[float]], linear: dict[str, dict[str, float]]) -> str:
    """The table of fidelity."""
    rows = []
    for arm in ARMS:
        found = results[arm.name]
        parts = found[0]["parameters"]
        rows.append(
            [
                arm.label,
                f"{parts['encoder'] / 1e6:.3f} + {parts['decoder'] / 1e6:.3f}",
                spread([r["scenes"]["psnr"] for r in found]),
                spread([r["scenes"]["ssim"] for r in found], 4),
                spread([r["pages"]["psnr"] for r in found]),
                spread(ned[arm.name], 3) if ned else "–",
                spread([1000 * r["cpu_seconds"] / r["setting"]["steps"] for r in found], 0),
            ]
        )
    gaps = [gap(results, *key) for key in GAPS]
    rows.append(["f16c64 - f8c16", "", *gaps, "", ""])
    for arm in ARMS:
        scenes, pages = (f"{linear[arm.name][group]:.2f}" for group in ("scenes", "pages"))
        rows.append([f"{arm.label}, best linear map", "", scenes, "", pages, "", ""])
    heads = ["", "parameters, M", "scenes, PSNR in dB", "SSIM", "pages, PSNR in dB", "NED", "training step, CPU ms"]
    return table(heads, rows)


def gap(results: Results, part: str, key: str, digits: int) -> str:
    """f16c64 - f8c16 of one score."""
    return difference(results, BASE.name, ARMS[1].name, lambda result: result[part][key], digits)


GAPS = (("scenes", "psnr", 2), ("scenes", "ssim", 4), ("pages", "psnr", 2))


def cost_table(costs: Sequence[dict[str, Any]]) -> str:
    """The table of transformer steps, as multiples of the first grid's too."""
    first = costs[0]
    rows = [
        [
            row["grid"],
            f"{row['small_tokens']:,}",
            f"{row['small_seconds']:.2f} ({row['small_seconds'] / first['small_seconds']:.2f}x)",
            f"{row['small_flops'] / 1e9:.1f} ({row['small_flops'] / first['small_flops']:.2f}x)",
            f"{row['large_tokens']:,}",
            f"{row['large_flops'] / 1e12:.1f} ({row['large_flops'] / first['large_flops']:.2f}x)",
        ]
        for row in costs
    ]
    heads = [
        "latent grid",
        f"tokens at {SMALL_SIDE} px",
        "5 M transformer, CPU s a training step",
        "GFLOP",
        f"tokens at {LARGE_SIDE} px",
        "7 B transformer, TFLOP an evaluation",
    ]
    return table(heads, rows)


def draw_costs(axes: Any, costs: Sequence[dict[str, Any]]) -> None:
    """Seconds and FLOPs of a step on each grid, as multiples of the first."""
    keys = {
        "small_seconds": f"5 M, {SMALL_SIDE} px: measured seconds",
        "small_flops": f"5 M, {SMALL_SIDE} px: FLOPs",
        "large_flops": f"7 B, {LARGE_SIDE} px: FLOPs",
    }
    for place, (key, label) in enumerate(keys.items()):
        positions = [index + 0.27 * (place - 1) for index in range(len(costs))]
        bars = axes.bar(positions, [row[key] / costs[0][key] for row in costs], 0.25, label=label)
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
    axes.set_xticks(range(len(costs)), [row["grid"].replace(", ", "\n") for row in costs], fontsize=8)
    axes.set(ylabel="times f16c64", title="a step of the transformer")
    axes.margins(y=0.15)
    axes.legend(fontsize=7)


def page_text(results: Results, summary: tuple[str, str], steps: int, seeds: int, pages: int) -> str:
    """The page of docs."""
    command = "python studies/compression.py" + ("" if pages == READ_PAGES else f" --pages {pages}")
    said = FINDINGS if not pages else tuple(text for text in FINDINGS if not text.startswith("NED was not read"))
    read = f"NED: {pages} pages of {READ_SIDE} px with letters of {LETTERS[0]} to {LETTERS[1]} px, read by RapidOCR."
    read = read if pages else ""
    text = paragraphs(
        f"""Printed by `{command}`; the numbers are in [compression.json](compression.json).
        {conditions(steps, seeds)}""",
        f"""Both have one number for 12 of RGB and about the same number of parameters: f16c64 has five stages of
        base width {F16C64.base_dim}, f8c16 four of {F8C16.base_dim}. {read} Best linear map: principal components of
        each square of RGB, as many as the latent has channels, fitted to the first seed's pictures.""",
    )
    cost = paragraphs(
        f"""A step of the transformer on each grid: micro's on one thread, one picture of {SMALL_SIDE} px and {TEXT}
        words, forward and backward, median of {ROUNDS} rounds in CPU seconds; FLOPs by torch's counter; the open
        weights' 7.1 B at {LARGE_SIDE} px, counted only. The last row packs 2 x 2 positions into a token, as
        generators on f8c16 do."""
    )
    return f"""# f16c64 against f8c16

{text}

{summary[0]}

![PSNR against steps, and cost](compression.png)

{cost}

{summary[1]}
{findings(said, steps, seeds)}"""


def _fitted(config: TransformerConfig, grid: Grid) -> TransformerConfig:
    return replace(config, patch_size=grid.patch, in_channels=grid.channels, out_channels=grid.channels)


def _inputs(model: Transformer, grid: Grid, side: int, device: str) -> tuple[Any, ...]:
    """One noised picture of a side, its time, the words' features and their layout."""
    layout = Layout.build([TEXT], grid.tokens(side), device=device)
    x_t = torch.randn(1, int(np.prod(grid.tokens(side))), grid.channels * grid.patch**2, device=device)
    text = torch.randn(1, TEXT, model.config.context_in_dim, device=device)
    return x_t, torch.full((1,), 0.5, device=device), text, layout


def _bytes(x: torch.Tensor) -> np.ndarray:
    """(b, 3, H, W) in [-1, 1] -> (b, H, W, 3) uint8."""
    return ((x + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


if __name__ == "__main__":
    main()
