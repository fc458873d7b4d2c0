"""Which prompts to distil with: one kind of scene, or all kinds mixed, at equal numbers of prompts and steps.

    python studies/prompts.py --teacher runs/micro/dit/model --recipe recipes/micro/distill.yaml

Qwen-Image-Flash (arXiv 2606.03746) found that prompts of one coherent category made better students than mixed ones,
on all kinds of tests. Here a kind is the number of things in a scene, and every student draws the same held-out
prompts of all kinds in four steps. Writes docs/studies/prompts.{json,md,png}.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pages import axes_of, draw_points, paragraphs, save, spread, table, write
from steps import composition, draw_seeds

from fourstroke.data.prompts import PromptsData
from fourstroke.evaluate.image_metrics import diversity, saturation, stack
from fourstroke.files import write_text
from fourstroke.pipeline import Pipeline
from fourstroke.recipe import load_recipe
from fourstroke.train.distill import DistillRecipe, train_distill
from fourstroke.train.session import check_owner
from fourstroke.world import World, WorldConfig
from fourstroke.world.find import find_world
from fourstroke.world.judging.composition import draw, held_out_prompts, judge_pictures
from fourstroke.world.judging.judge import Judge

KINDS: Mapping[str, tuple[float, ...]] = {
    "one thing": (1.0, 0.0, 0.0),
    "two things": (0.0, 1.0, 0.0),
    "three things": (0.0, 0.0, 1.0),
    "mixed": (1 / 3, 1 / 3, 1 / 3),
}
"""How often scenes have one, two and three things."""
DIVERSE, SEEDS_A_PROMPT = 16, 4
HELD_OUT = 2
"""Of an arm's prompts: the student is compared with its teacher on them, which chooses nothing here."""
FINDINGS: tuple[str, ...] = (
    """Flash's finding is not reproduced, and this world cannot test it well: the teacher itself draws nearly every
    one of these prompts in four steps, and all students lie within a prompt or two of it.""",
    """All students raise diversity by a fifth or more over the teacher in as many steps.""",
)
"""What we read from the table at the sizes that are the defaults."""


def main(argv: Sequence[str] | None = None) -> None:
    """Distil, draw, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/micro/distill.yaml"))
    parser.add_argument("--prompts", type=int, default=4000, help="to distil with, in every arm")
    parser.add_argument("--warm", type=int, default=30, help="steps along the teacher's path")
    parser.add_argument("--steps", type=int, default=60, help="in all; those after the warm-up match distributions")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--n", type=int, default=150, help="held-out prompts that are drawn")
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"), help="where finished arms are kept")
    parser.add_argument("--out", type=Path, default=Path("docs/studies/prompts"), help="prefix of the files")
    arguments = parser.parse_args(argv)
    config = find_world(None, arguments.teacher, Pipeline.from_pretrained(arguments.teacher).info.name)
    recipe = load_recipe(DistillRecipe, arguments.recipe, [f"teacher={arguments.teacher}"])
    folder = arguments.runs / f"prompts-{arguments.warm}-{arguments.steps}-{arguments.prompts}-{arguments.n}"
    source = digest(*sorted((arguments.teacher / "transformer").glob("*.safetensors")), arguments.recipe)
    results: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for seed in range(arguments.seeds):
        for kind in KINDS:
            file = folder / kind.replace(" ", "-") / f"{seed}.json"
            if not file.exists() or json.loads(file.read_text(encoding="utf-8"))["made of"] != source:
                student = distilled(recipe, config, kind, seed, arguments, file.with_suffix(""))
                found = measured(Pipeline.from_pretrained(student), config, arguments.n)
                write_text(file, json.dumps({"made of": source, **found}))
                print(f"{kind}, seed {seed}: composition {found['all']:.3f}", flush=True)
            results[kind].append(json.loads(file.read_text(encoding="utf-8")))
    floor = measured(Pipeline.from_pretrained(arguments.teacher), config, arguments.n, len(recipe.sigmas))
    write(arguments.out, {"results": results, "teacher": floor}, page(results, floor, arguments, HELD_OUT))
    figure, (axes,) = axes_of(1, width=7.0)
    draw_points(
        axes, {k: [r["all"] for r in v] for k, v in results.items()}, "composition", "students by their prompts"
    )
    axes.axhline(floor["all"], color="gray", ls="--", lw=1)
    save(figure, arguments.out)
    print(arguments.out.with_suffix(".md").read_text(encoding="utf-8"))


def digest(*files: Path) -> str:
    """Of what all arms are made of: another teacher or another recipe makes other students."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def distilled(
    recipe: DistillRecipe, config: WorldConfig, kind: str, seed: int, arguments: argparse.Namespace, out: Path
) -> Path:
    """The folder of a student that learned from prompts of one kind; every arm has as many, of its own scenes."""
    check_owner(out)  # what is thrown away is a run
    shutil.rmtree(out, ignore_errors=True)
    prompts = out.with_suffix(".jsonl")
    world = World(dataclasses.replace(config, count_weights=KINDS[kind]))
    samples = [world.sample(index) for index in range(arguments.prompts)]
    lines = [json.dumps({"short": sample.short, "rich": sample.rich}) for sample in samples]
    write_text(prompts, "\n".join(lines))
    warm = None if recipe.warm is None else dataclasses.replace(recipe.warm, steps=arguments.warm)
    run = dataclasses.replace(
        recipe.run, out=out, steps=arguments.steps, max_minutes=None, sample_minutes=1e6, seed=seed, sample_first=False
    )
    student = train_distill(
        dataclasses.replace(
            recipe, data=PromptsData(path=prompts, held_out=HELD_OUT), run=run, warm=warm, validators=(),
            width=config.width, height=config.height,
        )
    )  # fmt: skip
    shutil.rmtree(out / "state", ignore_errors=True)
    return student


def measured(pipe: Pipeline, config: WorldConfig, n: int, steps: int | None = None) -> dict[str, Any]:
    """Composition on held-out prompts, all and by their number of things, diversity and saturation, unguided."""
    prompts = held_out_prompts(World(config), n)
    pictures = draw(pipe, prompts, steps=steps, guidance=1.0, batch=16)
    verdicts = judge_pictures(Judge(config), prompts, pictures)
    found: dict[str, Any] = {"all": composition(verdicts)["value"]}
    for count, kind in enumerate(list(KINDS)[:3], start=1):
        chosen = [v for v, p in zip(verdicts, prompts, strict=True) if len(p.scene.objects) == count]
        found[kind] = composition(chosen)["value"]
    found["diversity"] = diversity(draw_seeds(pipe, prompts[:DIVERSE], SEEDS_A_PROMPT, steps, 1.0))
    return found | {"saturation": saturation(stack(pictures))}


def page(
    results: Mapping[str, Sequence[Mapping[str, Any]]], floor: Mapping[str, Any], a: argparse.Namespace, watched: int
) -> str:
    """The page in Markdown."""
    keys = ["all", *list(KINDS)[:3], "diversity", "saturation"]
    rows = [[kind, *(spread([r[key] for r in each], 3) for key in keys)] for kind, each in results.items()]
    rows.append(["the teacher in as many steps, unguided", *(f"{floor[key]:.3f}" for key in keys)])
    said = f"\n## What it says\n\n{paragraphs(*FINDINGS)}\n" if FINDINGS else ""
    about = (
        f"Four-step students of one teacher, each distilled with {a.prompts} prompts of its own kind, of which the "
        f"validation takes {watched}: {a.warm} steps along the teacher's path, then {a.steps - a.warm} that match "
        f"distributions; {a.seeds} seeds, mean (lowest to highest). All draw the same {a.n} held-out prompts. "
        "Diversity is the mean distance between seeds."
    )
    heads = ["distilled with", "composition", *(f"on {kind}" for kind in keys[1:4]), "diversity", "saturation"]
    command = "    python studies/prompts.py --teacher TEACHER"
    return (
        f"# One kind of prompts, or all\n\n{command}\n\n{paragraphs(about)}\n\n{table(heads, rows)}\n{said}\n"
        "![composition by prompts](prompts.png)\n"
    )


if __name__ == "__main__":
    main()
