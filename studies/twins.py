"""f16c64 beside its f8c16 twin at full length: both by the recipe of the bundled autoencoder, equal size and minutes.

    python studies/compression.py --minutes 78 --seeds 1 --width 1 --width 0.5

The twin has one halving less, a quarter of the channels, and widths that bring encoder and decoder to the same number
of parameters; both start from nothing, and an anchor to other latents, if the recipe has one, is left out. They are
trained beside each other, each on its share of the cores, so that both see the same machine. Scenes, pages and
photographs are measured as the runs go on; interrupted ones are resumed, and finished ones are kept, in the study's own
JSON too. Writes docs/studies/compression-full.{json,md,png}.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pages import COLOURS, axes_of, paragraphs, save, spread, table, write

from fourstroke.checkpoint import read_json, read_rows
from fourstroke.data.images import crop_to_multiple
from fourstroke.evaluate.data import parts
from fourstroke.evaluate.reconstruction import measure, photographs
from fourstroke.parallel.mesh import process_group
from fourstroke.recipe import load_recipe, resolved
from fourstroke.train.loop import Trainer
from fourstroke.train.session import saved_states
from fourstroke.train.vae import VaeRecipe, VaeStage
from fourstroke.vae import Autoencoder, AutoencoderConfig

NAMES = ("f16c64", "f8c16")
MULTIPLE = 32
"""Pixels that sides are cut to a multiple of."""
GROUPS = {"world": "scenes", "world_pages": "pages"}
"""What kinds of datasets are called."""
PLOTTED = (("scenes_psnr", "scenes, PSNR in dB"), ("pages_psnr", "pages, PSNR in dB"), ("pages_ned", "pages, NED"),
           ("photographs_psnr", "photographs, PSNR in dB"))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Held-out pictures a look, how many of the pages are read, and how many looks a run takes besides the end."""

    scenes: int = 64
    pages: int = 48
    read: int = 16
    looks: int = 8


MEASURED = Measured()


FINDINGS = (
    """Not reproduced in 78 minutes, by less than in short runs: f16c64 ends 1.4 dB behind on scenes, .8 dB and .17 of
    the NED on pages, 1.9 dB on photographs. The gap closes as both learn: on scenes it was 2.7 dB after 10 minutes and
    2.2 dB after 40, on photographs it stays at 2 dB. Both curves still rise when the rate has fallen.""",
    """The gap closes with width too: at half the width, a quarter of the parameters, f16c64 ends 2.0 dB behind on
    scenes, 1.4 dB and .25 of the NED on pages, 2.5 dB on photographs. Twice the width is worth .4 to .6 dB to f16c64,
    though it takes fewer than half of the steps in the same time, and nothing yet to f8c16, which ends .1 to .2 dB
    lower for it. Whether a third width would close the rest cannot be told from two.""",
    """f8c16 had 1.4 times fewer steps in the same time, having more of its parameters where pictures are large, and
    leads all the same. It gives a transformer four times as many tokens; what those cost stands with the short runs.
    The bundled f16c64 was trained for longer, by the same recipe and then its decoder alone, and reaches 35 dB on
    scenes. One seed; other work ran beside both of a pair, alike, and more of it beside the wide pair than beside the
    narrow one.""",
)
"""What we read from the table at its full length."""
FULL = 78.0, 1, 1.0, 0.5
"""Minutes, seeds and widths of it."""


def twin_of(config: AutoencoderConfig) -> AutoencoderConfig:
    """One halving less, a quarter of the channels, and as many parameters in encoder and decoder."""
    fewer = replace(
        config,
        z_dim=config.z_dim // 4,
        dim_mult=config.dim_mult[:-1],
        temperal_downsample=config.temperal_downsample[:-1],
    )
    return fitted(fewer, parameters(config))


def narrower(config: AutoencoderConfig, width: float) -> AutoencoderConfig:
    """The same with other widths."""
    if width == 1:
        return config
    base, decoder = (max(2, 2 * round(width * each / 2)) for each in (config.base_dim, config.decoder_base_dim))
    return replace(config, base_dim=base, decoder_base_dim=decoder)


def parameters(config: AutoencoderConfig) -> dict[str, int]:
    """Of encoder and decoder."""
    with torch.device("meta"):
        model = Autoencoder(config)
    return {name: sum(p.numel() for p in getattr(model, name).parameters()) for name in ("encoder", "decoder")}


def fitted(config: AutoencoderConfig, wanted: dict[str, int]) -> AutoencoderConfig:
    """The widths, even ones, that come nearest to numbers of parameters; these grow with the widths."""
    for part, field in (("encoder", "base_dim"), ("decoder", "decoder_base_dim")):
        width = getattr(config, field)
        while parameters(replace(config, **{field: width}))[part] > wanted[part] and width > 2:
            width -= 2
        while parameters(replace(config, **{field: width}))[part] < wanted[part]:
            width += 2
        near = [replace(config, **{field: each}) for each in (max(2, width - 2), width)]
        config = min(near, key=lambda each: abs(parameters(each)[part] - wanted[part]))
    return config


class Watched(VaeStage):
    """The stage, which measures scenes, pages and photographs whenever it draws a sheet."""

    def __init__(self, recipe: VaeRecipe, measured: Measured) -> None:
        super().__init__(recipe)
        self.measured = measured
        self.groups: dict[str, list[np.ndarray]] = {}
        for part in parts(recipe.data):
            count = measured.scenes if GROUPS.get(part.kind) == "scenes" else measured.pages
            data = part.open("heldout")
            pictures = [crop_to_multiple(data.sample(index).image, MULTIPLE) for index in range(min(count, len(data)))]
            self.groups.setdefault(GROUPS.get(part.kind, part.kind), []).extend(pictures)
        self.groups["photographs"] = list(photographs().values())

    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """By group, PSNR in dB and SSIM, and of pages NED."""
        scores = super().sample(folder, step)
        for name, pictures in self.groups.items():
            found = measure(self._code, pictures, 1 if name == "photographs" else 8, name, keep=0)
            scores |= {f"{name}_psnr": found["psnr"], f"{name}_ssim": found["ssim"]}
        if (read := self.measured.read) and (pages := self.groups.get("pages")):
            ned = measure(self._code, pages[:read], 8, "reading", keep=0, read=True)["ned"]
            scores |= {} if ned is None else {"pages_ned": ned}
        return scores

    def _code(self, x: torch.Tensor) -> torch.Tensor:
        return self.model.decode_raw(self.model.encode_raw(x.to(self.device))).float()


def train(recipe: VaeRecipe, measured: Measured) -> None:
    """Train a run to its end, or resume it."""
    with process_group():
        stage = Watched(recipe, measured)
        trainer = Trainer(stage, recipe.run, recipe.optimizer, resolved(recipe))
        stage.progress = lambda step: trainer.progress
        trainer.run(bool(saved_states(recipe.run.out)))


def result(recipe: VaeRecipe, source: str) -> dict[str, Any]:
    """What a finished run was asked for, and its curve."""
    rows = [row for row in read_rows(recipe.run.out / "log.jsonl") if "scores" in row]
    curve = {row["step"]: {"step": row["step"], "minutes": row["seconds"] / 60, **row["scores"]} for row in rows}
    return {**asked(recipe, source), "curve": [curve[step] for step in sorted(curve)]}


def asked(recipe: VaeRecipe, source: str) -> dict[str, Any]:
    """What tells runs apart: digest of the recipe's file, seed, minutes, parameters."""
    assert recipe.model is not None
    told = {"seed": recipe.run.seed, "minutes": recipe.run.max_minutes, "parameters": parameters(recipe.model)}
    return {"recipe": source, **told}


def digest(recipe_file: Path) -> str:
    """Of what a recipe's file says, comments aside."""
    tree = yaml.safe_load(recipe_file.read_text(encoding="utf-8"))
    return hashlib.sha256(json.dumps(tree).encode()).hexdigest()[:12]


def known(written: Sequence[dict[str, Any]], wanted: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a run in what the study wrote before."""
    return next((found for found in written if wanted.items() <= found.items()), None)


def run(minutes: float, seeds: int, runs: Path, out: Path, recipe_file: Path, widths: Sequence[float]) -> None:
    """Train what is missing, a seed's twins of one width beside each other, and write after each pair."""
    recipe = load_recipe(VaeRecipe, recipe_file)
    if recipe.model is None:
        raise SystemExit(f"{recipe_file} names no sizes of a new autoencoder (model)")
    results: dict[str, list[dict[str, Any]]] = {}
    source = digest(recipe_file)
    file = out.with_suffix(".json")
    written = read_json(file) if file.exists() else {}
    for seed, width in itertools.product(range(seeds), widths):
        wide = narrower(recipe.model, width)
        names = [name if width == 1 else f"{name}, width {width:g}" for name in NAMES]
        recipes = [
            full_length(recipe, config, minutes, seed, runs / f"twins-{minutes:g}" / name.replace(", width ", "-"))
            for name, config in zip(names, (wide, twin_of(wide)), strict=True)
        ]
        left = [known(written.get(name, []), asked(each, source)) for name, each in zip(names, recipes, strict=True)]
        missing = [each for each, found in zip(recipes, left, strict=True) if found is None]
        beside_each_other([each for each in missing if not (each.run.out / "model").exists()])
        for name, each, found in zip(names, recipes, left, strict=True):
            results.setdefault(name, []).append(found or result(each, source))
        write(out, results, page(results, minutes, recipe_file, out.name, widths))
    plot(results, out)
    print(out.with_suffix(".md").read_text(encoding="utf-8"))


def beside_each_other(recipes: Sequence[VaeRecipe]) -> None:
    """Train all of a pair that is missing, each with the cores that it would have if both were."""
    if not recipes:
        return
    threads = max(1, (os.cpu_count() or 1) // len(NAMES))
    os.environ["OMP_NUM_THREADS"] = str(threads)  # of the processes to come
    with ProcessPoolExecutor(len(recipes), get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        for _ in pool.map(train, recipes, itertools.repeat(MEASURED)):
            pass


def full_length(recipe: VaeRecipe, config: AutoencoderConfig, minutes: float, seed: int, folder: Path) -> VaeRecipe:
    """The recipe of one run: of a size, from nothing, for so many minutes."""
    return replace(
        recipe,
        model=config,
        init=None,
        losses=tuple(term for term in recipe.losses if term.kind != "anchor"),
        run=replace(
            recipe.run,
            out=folder / str(seed),
            max_minutes=minutes,
            sample_minutes=minutes / MEASURED.looks,
            save_minutes=2.0,
            seed=seed,
        ),
    )


def page(
    results: dict[str, list[dict[str, Any]]], minutes: float, recipe: Path, stem: str, widths: Sequence[float]
) -> str:
    """The page of docs."""
    keys = [f"{group}_{score}" for group in (*GROUPS.values(), "photographs") for score in ("psnr", "ssim")]
    keys.insert(4, "pages_ned")

    def cells(found: Sequence[dict[str, Any]]) -> list[str]:
        ends = [r["curve"][-1] for r in found]
        return [
            spread([end[key] for end in ends if key in end], 2 if key.endswith("psnr") else 3)
            if any(key in end for end in ends)
            else "–"
            for key in keys
        ]

    rows = []
    for name, found in results.items():
        sizes = found[0]["parameters"]
        steps = spread([r["curve"][-1]["step"] for r in found], 0)
        rows.append([name, f"{sizes['encoder'] / 1e6:.2f} + {sizes['decoder'] / 1e6:.2f}", steps, *cells(found)])
    for name in [name for name in results if name.startswith(NAMES[0])]:
        other = results.get(name.replace(*NAMES), [])
        if len(other) == len(results[name]):
            gaps = []
            for key in keys:
                ends = [(a["curve"][-1], b["curve"][-1]) for a, b in zip(results[name], other, strict=True)]
                known = [a[key] - b[key] for a, b in ends if key in a and key in b]
                gaps.append(spread(known, 2 if key.endswith("psnr") else 3) if known else "–")
            rows.append([f"{name} - {name.replace(*NAMES)}", "", "", *gaps])
    spoken = {"psnr": "PSNR in dB", "ssim": "SSIM", "ned": "NED"}
    told = [f"{group}, {spoken[score]}" for group, score in (key.split("_") for key in keys)]
    heads = ["", "parameters, M", "steps", *told]
    about = (
        f"Both by `{recipe}` from nothing, {minutes:g} minutes each, beside each other on half of "
        f"the cores each; mean over seeds (lowest to highest). {MEASURED.scenes} held-out scenes, {MEASURED.pages} "
        f"pages of small text, of which {MEASURED.read} are read, and scikit-image's photographs."
    )
    seeds = max(len(found) for found in results.values())
    command = f"    python studies/compression.py --minutes {minutes:g} --seeds {seeds}"
    command += "".join(f" --width {width:g}" for width in widths) if tuple(widths) != (1.0,) else ""
    said = f"\n## What it says\n\n{paragraphs(*FINDINGS)}\n" if (minutes, seeds, *widths) == FULL else ""
    return (
        f"# f16c64 against f8c16, at full length\n\n{command}\n\n{paragraphs(about)}\n\n{table(heads, rows)}\n\n"
        f"![scores against minutes]({stem}.png)\n{said}"
    )


def plot(results: dict[str, list[dict[str, Any]]], out: Path) -> None:
    """Scores against minutes, one line a seed."""
    figure, axes = axes_of(len(PLOTTED), width=4.2)
    for each, (key, title) in zip(axes, PLOTTED, strict=True):
        for (name, found), colour in zip(results.items(), COLOURS, strict=False):
            for seed, result in enumerate(found):
                points = [(p["minutes"], p[key]) for p in result["curve"] if key in p]
                each.plot(*zip(*points, strict=True) if points else ([], []), color=colour, marker=".",
                          label="" if seed else name)  # fmt: skip
        each.set(xlabel="minutes", title=title)
        each.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    save(figure, out)
