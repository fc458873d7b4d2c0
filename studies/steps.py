"""How many steps a picture needs: the teacher at 40, 20, 8 and 4, with and without guidance, against its student.

    python studies/steps.py --teacher runs/micro/dit/model --student runs/micro/distill/model

Qwen-Image-2.0 report, few-step distillation; the metrics are those of `fourstroke.evaluate.image_metrics`. Writes
docs/studies/steps.md (the table), steps.png (the plot), steps-sheet.jpg (one column a prompt, one row a setting, the
same noise in every row) and steps.json beside it. Takes two hours of one CPU core; the rows of these weights and
numbers are kept in runs/studies, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourstroke import progress
from fourstroke.checkpoint import read_json
from fourstroke.data.sheet import contact_sheet
from fourstroke.device import find_device
from fourstroke.distill.comparison import ratio
from fourstroke.evaluate.image_metrics import diversity, flat_noise, saturation, stack
from fourstroke.evaluate.statistics import share
from fourstroke.files import atomic_file, save_image, write_json, write_text
from fourstroke.flow.schedule import UNSHIFTED
from fourstroke.pipeline import Pipeline
from fourstroke.world import World
from fourstroke.world.find import find_world
from fourstroke.world.graph import Scene
from fourstroke.world.judging.composition import Prompt, draw, held_out_prompts, judge_pictures, summarise
from fourstroke.world.judging.judge import Judge, Verdict

SHEET_PROMPTS, ROUNDS = 8, 5


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of the table; `evaluations` counts calls of the transformer for a picture."""

    name: str
    pipe: Pipeline
    steps: int
    guidance: float

    @property
    def evaluations(self) -> int:
        """Calls of the transformer for one picture."""
        return self.steps * (1 if self.guidance == 1 else 2)

    @property
    def number(self) -> int | None:
        """What the pipeline is asked for; a student's steps are its own."""
        return None if self.pipe.info.sample_sigmas else self.steps


def main(argv: Sequence[str] | None = None) -> None:
    """Draw, judge, time and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--student", type=Path)
    parser.add_argument("--guidance", type=float, default=2.0, help="of the teacher's guided rows")
    parser.add_argument("--n", type=int, default=200, help="held-out prompts")
    parser.add_argument("--diversity", type=int, default=16, help="prompts that are drawn from four seeds each")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: the GPU if there is one)")
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"), help="where finished rows are kept")
    parser.add_argument("--out", type=Path, default=Path("docs/studies/steps"), help="prefix of the files")
    arguments = parser.parse_args(argv)
    try:
        device = find_device(arguments.device)
    except ValueError as error:
        parser.error(str(error))
    teacher = Pipeline.from_pretrained(arguments.teacher, device=device)
    student = Pipeline.from_pretrained(arguments.student, device=device) if arguments.student else None
    config = find_world(None, arguments.teacher, teacher.info.name)
    judge, prompts = Judge(config), held_out_prompts(World(config), arguments.n)
    crowded = held_out_prompts(World(dataclasses.replace(config, count_weights=(0.0, 0.0, 1.0))), arguments.n)
    rows, sheet = [], []
    first: Tensor | None = None
    chosen = settings(teacher, student, arguments.guidance)
    folder = arguments.runs / f"steps-{mark(arguments)}"
    seconds = left(folder / f"seconds-{len(chosen)}.json", lambda: times(chosen, prompts[0].caption))
    for setting in chosen:
        file = folder / f"{setting.name}.npz"
        row = left(
            file.with_suffix(".json"), partial(measure, setting, judge, prompts, crowded, arguments.diversity, file)
        )
        pictures = list(np.load(file)["pictures"])
        drawn = stack(pictures)
        first = drawn if first is None else first
        rows.append(row | {"kept": kept(drawn, first), "seconds": seconds[setting.name]})
        sheet += [(picture, setting.name) for picture in pictures[:SHEET_PROMPTS]]
        print(
            f"{setting.name}: composition {row['composition']['value']:.3f}, {seconds[setting.name]:.3f} s",
            file=sys.stderr,
        )
    out = arguments.out
    write_text(out.with_suffix(".json"), json.dumps({"n": arguments.n, "rows": rows}, indent=2) + "\n")
    images, names = zip(*sheet, strict=True)
    sheet_of_all = contact_sheet(images, names, columns=SHEET_PROMPTS, upscale=1)
    save_image(sheet_of_all.convert("RGB"), f"{out}-sheet.jpg", quality=92)
    plot(rows, out.with_suffix(".png"))
    print(table(rows, arguments.n))
    write_text(out.with_suffix(".md"), page(rows, arguments.n, out.name))


def settings(teacher: Pipeline, student: Pipeline | None, guidance: float) -> list[Setting]:
    """The rows: the first one is what all others are compared with."""
    found = [
        Setting(name=f"teacher, {steps} steps" + (f", guidance {scale:g}" if scale != 1 else ""), pipe=teacher,
                steps=steps, guidance=scale)
        for scale in (guidance, 1.0)
        for steps in (40, 20, 8, 4)
    ]  # fmt: skip
    if student is not None:
        levels = student.info.sample_sigmas or ()
        untrained = at_levels(teacher, levels)
        found += [
            Setting(
                name=f"teacher at the student's levels, {len(levels)} steps"
                + (f", guidance {scale:g}" if scale != 1 else ""),
                pipe=untrained,
                steps=len(levels),
                guidance=scale,
            )
            for scale in (guidance, 1.0)
        ]
        found += [
            Setting(name=f"student, {name}", pipe=with_steps(student, steps), steps=steps, guidance=1.0)
            for steps, name in ((8, "8 steps"), (4, "4 steps"), (2, "2 steps"), (1, "1 step"))
        ]
    return found


def at_levels(teacher: Pipeline, levels: Sequence[float]) -> Pipeline:
    """The teacher on a student's grid: what the student draws before it has learned anything, without guidance."""
    info = dataclasses.replace(teacher.info, sample_sigmas=tuple(levels))
    return Pipeline(teacher.transformer, teacher.autoencoder, teacher.text_encoder, UNSHIFTED, info)


def with_steps(student: Pipeline, steps: int) -> Pipeline:
    """The student on another grid: every nth of its own levels, or each with what lies between it and the next."""
    levels = list(student.info.sample_sigmas or ())
    if not levels or (len(levels) % steps and steps % len(levels)):
        raise ValueError(f"cannot make {steps} steps of the student's levels {levels}")
    if steps <= len(levels):
        grid = levels[:: len(levels) // steps]
    else:
        parts = steps // len(levels)
        ends = [*levels[1:], 0.0]
        grid = [a + (b - a) * part / parts for a, b in zip(levels, ends, strict=True) for part in range(parts)]
    info = dataclasses.replace(student.info, sample_sigmas=tuple(grid))
    return Pipeline(student.transformer, student.autoencoder, student.text_encoder, student.schedule, info)


def mark(arguments: argparse.Namespace) -> str:
    """Of the weights and numbers on which rows depend."""
    found = hashlib.sha256(f"{arguments.guidance} {arguments.n} {arguments.diversity}".encode())
    for model in filter(None, (arguments.teacher, arguments.student)):
        for file in sorted(model.rglob("*.safetensors")):
            found.update(file.read_bytes())
    return found.hexdigest()[:12]


def left(file: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a file of an earlier start holds; else made, and written there."""
    if not file.exists():
        write_json(file, make())
    return read_json(file)


def measure(
    setting: Setting, judge: Judge, prompts: Sequence[Prompt], crowded: Sequence[Prompt], diverse: int, file: Path
) -> dict[str, Any]:
    """The scores of one setting, scenes of three among them; its pictures of the prompts go into a file."""
    pictures = pictures_of(setting, prompts)
    found = scores(setting, judge, prompts, pictures, diverse)
    three = judged(setting, judge, crowded, pictures_of(setting, crowded))
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as unfinished, unfinished.open("wb") as out:
        np.savez_compressed(out, pictures=np.stack([picture[..., :3] for picture in pictures]))
    return found | {"three things": composition(three)}


def scores(
    setting: Setting, judge: Judge, prompts: Sequence[Prompt], pictures: Sequence[np.ndarray], diverse: int
) -> dict[str, Any]:
    """What pictures of prompts are worth; the first `diverse` prompts are drawn from four seeds each besides."""
    verdicts = judged(setting, judge, prompts, pictures)
    tensor = stack(pictures)
    flat = [is_flat(prompt.scene) for prompt in prompts]
    words = share([float(v.word.exact) for v in verdicts if v.word], [1 for v in verdicts if v.word])
    return {
        "name": setting.name,
        "evaluations": setting.evaluations,
        "composition": composition(verdicts),
        "shares": {k: dataclasses.asdict(v) for k, v in summarise(prompts, verdicts).items() if v is not None},
        "words": None if words is None else dataclasses.asdict(words),
        "likeness": likeness(verdicts),
        "diversity": diversity(draw_seeds(setting.pipe, prompts[:diverse], 4, setting.number, setting.guidance)),
        "saturation": saturation(tensor),
        "flat noise": flat_noise(tensor[np.array(flat)]) if any(flat) else None,
    }


def judged(setting: Setting, judge: Judge, prompts: Sequence[Prompt], pictures: Sequence[np.ndarray]) -> list[Verdict]:
    """The verdict on each picture."""
    return judge_pictures(judge, prompts, pictures, progress.pictures(f"{setting.name}: judging"))


def pictures_of(setting: Setting, prompts: Sequence[Prompt]) -> list[np.ndarray]:
    """One picture for each prompt; a prompt has the same noise in every setting."""
    told = progress.pictures(f"{setting.name}: drawing")
    return draw(setting.pipe, prompts, steps=setting.number, guidance=setting.guidance, batch=16, on_picture=told)


def kept(pictures: Tensor, first: Tensor) -> float | None:
    """How much of the first row's pictures is there: PSNR in dB between pictures of the same noise, averaged."""
    error = (pictures - first).square().mean((1, 2, 3))
    return None if not error.any() else float((-10 * error.clamp_min(1e-10).log10()).mean())


def composition(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Mean of the shares of right objects, colours and relations, where such are asked; with a bootstrap."""
    picks = np.random.default_rng(20).integers(len(verdicts), size=(2000, len(verdicts)))
    everything = np.arange(len(verdicts))[None]
    values = []
    for pick in (everything, picks):
        parts = []
        for kind in ("objects", "colours", "relations"):
            hits = np.array([sum(getattr(v, kind)) for v in verdicts], float)
            asked = np.array([len(getattr(v, kind)) for v in verdicts], float)
            if asked.any():  # lone objects have no relations
                with np.errstate(invalid="ignore"):  # a draw may happen to ask for none
                    parts.append(hits[pick].sum(1) / asked[pick].sum(1))
        values.append(np.nanmean(parts, axis=0))
    low, high = np.quantile(values[1], [0.025, 0.975])
    return {"value": float(values[0][0]), "low": float(low), "high": float(high)}


def times(chosen: Sequence[Setting], prompt: str) -> dict[str, float]:
    """Median seconds of one picture, words to pixels; the settings take turns so that all see the same machine."""
    spent: list[list[float]] = [[] for _ in chosen]
    for turn in range(ROUNDS + 1):
        for setting, found in zip(chosen, spent, strict=True):
            start = time.perf_counter()
            setting.pipe(prompt, seed=turn, num_inference_steps=setting.number, guidance_scale=setting.guidance)
            found.append(time.perf_counter() - start)
    return {setting.name: statistics.median(found[1:]) for setting, found in zip(chosen, spent, strict=True)}


def table(rows: Sequence[dict[str, Any]], n: int) -> str:
    """The rows in Markdown; diversity and saturation as ratios to the first row."""
    first = rows[0]
    lines = [
        f"| {n} held-out prompts | evaluations | composition (95 %) | of the first | three things (95 %) | kept "
        "| likeness | words exact | diversity | saturation | flat noise | s a picture | times faster |",
        "|---" * 13 + "|",
    ]
    for row in rows:
        score, words, three = row["composition"], row["words"], row["three things"]
        cells = [
            row["name"],
            f"{row['evaluations']}",
            f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})",
            f"{100 * ratio(score['value'], first['composition']['value']):.1f} %",
            f"{three['value']:.3f} ({three['low']:.3f} to {three['high']:.3f})",
            "–" if row["kept"] is None else f"{row['kept']:.1f} dB",
            f"{row['likeness']:.4f}",
            "–" if words is None else f"{words['value']:.3f}",
            f"{ratio(row['diversity'], first['diversity']):.3f}",
            f"{ratio(row['saturation'], first['saturation']):.3f}",
            "–" if row["flat noise"] is None else f"{row['flat noise']:.2f}",
            f"{row['seconds']:.3f}",
            f"{first['seconds'] / row['seconds']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(rows: Sequence[dict[str, Any]], n: int, stem: str) -> str:
    """The page of docs."""
    return f"""# How many steps a picture needs

Printed by `python studies/steps.py --teacher TEACHER --student STUDENT`; the numbers are in
[{stem}.json]({stem}.json).

| column | |
|---|---|
| composition | mean share of right objects, colours, relations, judged by pixels; "three things": on scenes of three |
| kept | PSNR to the first row's pictures from the same noise |
| likeness | how well the judge's own pictures explain the drawing; plain ones score higher, so fewer steps may too |
| diversity, saturation | ratios to the first row; diversity is the distance between four seeds of a prompt |
| flat noise | grain on flat backgrounds, in grey levels of 255 |
| s a picture | median of {ROUNDS}, drawn one at a time, settings in turns; words and decoding included |

{table(rows, n)}

![composition, diversity and what is kept, against evaluations]({stem}.png)

One column a prompt, one row a setting, the same noise in every row:

![sheet]({stem}-sheet.jpg)
"""


def plot(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Composition, diversity, and what is kept of the first row's pictures, against evaluations of the transformer."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(13, 3.8), dpi=110)
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        who, *rest = row["name"].split(", ")
        groups.setdefault(", ".join([who, *rest[1:]]), []).append(row)
    for name, group in groups.items():
        x, y = [r["evaluations"] for r in group], [r["composition"]["value"] for r in group]
        low = [v - r["composition"]["low"] for v, r in zip(y, group, strict=True)]
        high = [r["composition"]["high"] - v for v, r in zip(y, group, strict=True)]
        panels[0].errorbar(x, y, yerr=[low, high], marker="o", capsize=3, label=name)
        panels[1].plot(x, [ratio(r["diversity"], rows[0]["diversity"]) for r in group], marker="o", label=name)
        others = [r for r in group if r["kept"] is not None]  # the first row is what is to be kept
        panels[2].plot([r["evaluations"] for r in others], [r["kept"] for r in others], marker="o", label=name)
    panels[0].set(ylabel="composition", ylim=(0, 1.02))
    panels[1].set(ylabel="diversity, of the first row's")
    panels[2].set(ylabel=f"PSNR to {rows[0]['name']}, dB")
    ticks = [1, 2, 4, 8, 20, 40, 80]
    for axes in panels:
        axes.set(xscale="log", xlabel="evaluations of the transformer for a picture")
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=7)
    figure.tight_layout()
    with atomic_file(file) as unfinished:
        figure.savefig(unfinished)


def draw_seeds(
    pipe: Pipeline, prompts: Sequence[Prompt], seeds: int, steps: int | None, guidance: float | None
) -> Tensor:
    """(prompts, seeds, 3, H, W) in [0, 1]: every prompt from the same number of seeds."""
    rows = []
    for prompt in prompts:
        out = pipe(
            prompt.caption,
            width=prompt.scene.width,
            height=prompt.scene.height,
            num_images=seeds,
            seed=1000 * prompt.seed,
            num_inference_steps=steps,
            guidance_scale=guidance,
        )
        rows.append(stack([np.asarray(image) for image in out.images]))
    return torch.stack(rows)


def likeness(verdicts: Sequence[Verdict]) -> float:
    """Mean over all asked objects of how well their own pictures explain what was drawn, 0 to 1."""
    return float(np.mean([score for verdict in verdicts for score in verdict.likeness]))


def is_flat(scene: Scene) -> bool:
    """Whether the background is of one colour, so that all that moves on it is noise."""
    background = scene.background
    return background.kind == "flat" and background.texture == "plain" and background.light == "even"


if __name__ == "__main__":
    main()
