"""Three ways to a few-step student of one teacher at equal time: the path alone, distribution matching, segments.

    python studies/distillation.py --teacher models/micro-teacher --minutes 30 --seeds 1 guidance=2

The path alone regresses each step onto the teacher's trajectory (the warm-up of the recipe, all the way). Matching is a
warm-up, then distribution matching (Qwen-Image-2.0 report, Flash). Segments are the same warm-up, then the teacher's
velocity from the student's own states, without a fake score (SMD, arXiv 2610.18472). All else is the recipe's; what
stands behind the options overrides it, as on the command line. Each arm takes as many steps as fit into the time, by
what its first steps take, and the warm-up at most a third of it; the averaged weights of its last step are drawn, no
checkpoint is chosen. Finished arms are kept, and an interrupted one goes on. Writes
docs/studies/distillation.{json,md,png}.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pages import axes_of, draw_points, paragraphs, save, spread, table, write
from prompts import digest
from steps import Setting, at_levels, pictures_of, scores

from fourstroke.distill.comparison import ratio
from fourstroke.distill.segments import Segments
from fourstroke.files import write_json
from fourstroke.pipeline import Pipeline
from fourstroke.recipe import load_recipe
from fourstroke.train.distill import DistillRecipe, DistillStage, train_distill
from fourstroke.train.loop import Trainer
from fourstroke.train.session import saved_states
from fourstroke.world import World
from fourstroke.world.find import find_world
from fourstroke.world.judging.composition import held_out_prompts
from fourstroke.world.judging.judge import Judge

ARMS = {"path": "the path alone", "matching": "distribution matching", "segments": "on-policy segments"}
CLOCK = 8
"""Steps of each phase by which it is timed, after one that is not."""
WARM = 1 / 3
"""Of the time, at most, that the warm-up of the other two has."""
NEVER = 1e9
"""Minutes until a run is looked at before its end."""
DIVERSE = 16
"""Prompts that are drawn from four seeds each."""


def main(argv: Sequence[str] | None = None) -> None:
    """Distil, draw, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/micro/distill.yaml"))
    parser.add_argument("--minutes", type=float, default=30.0, help="of each arm, without its looks at pictures")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--n", type=int, default=200, help="held-out prompts that are drawn")
    parser.add_argument("--steps", type=int, help="in place of minutes, of every arm")
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"), help="where finished arms are kept")
    parser.add_argument("--out", type=Path, default=Path("docs/studies/distillation"), help="prefix of the files")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the recipe")
    arguments = parser.parse_args(argv)
    recipe = load_recipe(DistillRecipe, arguments.recipe, [f"teacher={arguments.teacher}", *arguments.overrides])
    if recipe.warm is None:
        parser.error(f"{arguments.recipe} has no warm-up, by which the path alone is learnt")
    weights = digest(*sorted((arguments.teacher / "transformer").glob("*.safetensors")), arguments.recipe)
    source = hashlib.sha256(" ".join([weights, *arguments.overrides]).encode()).hexdigest()[:12]
    budget = f"{arguments.steps}-steps" if arguments.steps else f"{arguments.minutes:g}-minutes"
    folder = arguments.runs / f"distillation-{budget}-{arguments.n}-{source}"
    teacher = Pipeline.from_pretrained(arguments.teacher)
    config = find_world(None, arguments.teacher, teacher.info.name)
    prompts = held_out_prompts(World(config), arguments.n)
    judge = Judge(config)

    def kept(name: str, make: Any) -> dict[str, Any]:
        """What was measured before, or is now."""
        file = folder / f"{name}.json"
        if not file.exists():
            write_json(file, make())
        return json.loads(file.read_text(encoding="utf-8"))

    def drawn(pipe: Pipeline, name: str, steps: int, guidance: float) -> dict[str, Any]:
        setting = Setting(name=name, pipe=pipe, steps=steps, guidance=guidance)
        return scores(setting, judge, prompts, pictures_of(setting, prompts), min(DIVERSE, arguments.n))

    own = teacher.info.own_steps
    count = len(recipe.sigmas)
    teachers = [
        kept(f"teacher-{steps}", lambda steps=steps: drawn(teacher, "teacher", steps, recipe.guidance))
        for steps in (own, count)
    ]
    teachers.append(kept("untrained", lambda: drawn(at_levels(teacher, recipe.sigmas), "untrained", count, 1.0)))
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in ARMS}
    for seed in range(arguments.seeds):
        for name in ARMS:

            def student(name: str = name, seed: int = seed) -> dict[str, Any]:
                chosen = arm(recipe, name, seed, folder, arguments.minutes, arguments.steps)
                model = distilled(chosen)
                assert chosen.warm is not None
                taken = {"steps": chosen.run.steps, "warm": chosen.warm.steps, "minutes": minutes_of(chosen.run.out)}
                return {**taken, **drawn(Pipeline.from_pretrained(model), name, count, 1.0)}

            results[name].append(found := kept(f"{name}-{seed}", student))
            print(f"{ARMS[name]}, seed {seed}: composition {found['composition']['value']:.3f}", flush=True)
            report = {
                "teacher": teachers[0],
                "teacher in as many steps": teachers[1],
                "untrained": teachers[2],
                "arms": results,
            }
            write(arguments.out, report, page(teachers, results, arguments, own, count, recipe.guidance))
    figure, (composed, diverse) = axes_of(2)
    for axes, key in ((composed, "composition"), (diverse, "diversity")):
        value = {ARMS[name]: [_value(each, key) for each in found] for name, found in results.items()}
        draw_points(axes, value, key, f"{count} steps")
        axes.axhline(_value(teachers[0], key), color="gray", ls="--", lw=1, label=f"teacher, {own} steps")
        axes.axhline(_value(teachers[1], key), color="gray", ls=":", lw=1, label=f"teacher, {count} steps")
        axes.legend(fontsize=7)
    save(figure, arguments.out)
    print(arguments.out.with_suffix(".md").read_text(encoding="utf-8"))


def arm(
    recipe: DistillRecipe, name: str, seed: int, folder: Path, minutes: float, steps: int | None = None
) -> DistillRecipe:
    """The recipe of an arm, of as many steps as fit into the minutes; how many is decided once and kept.

    It is looked at when it ends, and then by nothing but the comparison with its teacher.
    """
    assert recipe.warm is not None
    run = dataclasses.replace(
        recipe.run,
        out=folder / name / str(seed),
        max_minutes=None,
        seed=seed,
        sample_first=False,
        sample_minutes=NEVER,
    )
    chosen = dataclasses.replace(recipe, run=run, validators=())
    if name == "segments":
        chosen = dataclasses.replace(chosen, objective=Segments(substeps=recipe.warm.substeps), fake=None)
    if steps is None:
        file = folder / f"{name}-steps.json"
        if not file.exists():
            write_json(file, dict(zip(("warm", "steps"), fitting(chosen, name, minutes), strict=True)))
        found = json.loads(file.read_text(encoding="utf-8"))
        warm, steps = int(found["warm"]), int(found["steps"])
    else:
        warm = steps if name == "path" else min(recipe.warm.steps, round(WARM * steps))
    return dataclasses.replace(
        chosen,
        run=dataclasses.replace(run, steps=steps),
        warm=dataclasses.replace(recipe.warm, steps=warm),
    )


def fitting(recipe: DistillRecipe, name: str, minutes: float) -> tuple[int, int]:
    """Steps of the warm-up and of the arm that the minutes hold, by seconds of the processor of a few of each phase."""
    assert recipe.warm is not None
    phases = [1 << 20] if name == "path" else [1 << 20, 0]
    seconds = []
    for warm in phases:
        timed = dataclasses.replace(recipe, warm=dataclasses.replace(recipe.warm, steps=warm))
        trainer = Trainer(DistillStage(timed), timed.run, timed.optimizers, {})
        trainer.update()
        start = time.process_time()
        for _ in range(CLOCK):
            trainer.update()
        seconds.append((time.process_time() - start) / CLOCK)
    left = 60 * minutes
    if name == "path":
        steps = max(1, round(left / seconds[0]))
        return steps, steps
    first = min(recipe.warm.steps, round(WARM * left / seconds[0]))
    return first, first + max(1, round((left - first * seconds[0]) / seconds[1]))


def distilled(recipe: DistillRecipe) -> Path:
    """The student of a recipe; a run that was interrupted goes on."""
    model = recipe.run.out / "model"
    return model if model.exists() else train_distill(recipe, bool(saved_states(recipe.run.out)))


def minutes_of(out: Path) -> float:
    """What a run took, by the clock."""
    return float(json.loads((out / "state" / "state.json").read_text(encoding="utf-8"))["seconds"]) / 60


def page(
    teachers: Sequence[Mapping[str, Any]],
    results: Mapping[str, Sequence[Mapping[str, Any]]],
    a: argparse.Namespace,
    own: int,
    count: int,
    guidance: float,
) -> str:
    """The page in Markdown."""
    first = teachers[0]

    def row(name: str, found: Sequence[Mapping[str, Any]], steps: str) -> list[str]:
        minutes = [r["minutes"] for r in found if "minutes" in r]
        words = [r["words"]["value"] for r in found if r["words"] is not None]
        return [
            name,
            steps,
            spread(minutes, 0) if minutes else "–",
            spread([_value(r, "composition") for r in found], 3),
            spread([ratio(_value(r, "composition"), _value(first, "composition")) for r in found], 3),
            spread(words, 3) if words else "–",
            spread([ratio(r["diversity"], first["diversity"]) for r in found], 3),
            spread([ratio(r["saturation"], first["saturation"]) for r in found], 3),
            spread([r["likeness"] for r in found], 3),
        ]

    guided = "" if guidance == 1 else f", guidance {guidance:g}"
    rows = [
        row(f"teacher, {own} steps{guided}", [first], "–"),
        row(f"teacher, {count} steps{guided}", [teachers[1]], "–"),
    ]
    rows.append(row("student before training: no guidance, its own noise levels", [teachers[2]], "–"))
    rows += [
        row(ARMS[name], found, f"{found[0]['warm']} + {found[0]['steps'] - found[0]['warm']}")
        for name, found in results.items()
        if found
    ]
    heads = [
        "",
        "steps of the warm-up + others",
        "minutes by the clock",
        "composition",
        "of the teacher",
        "words exact",
        "diversity",
        "saturation",
        "likeness",
    ]
    budget = f"{a.steps} steps" if a.steps else f"{a.minutes:g} minutes of the processor"
    seeds = "one seed" if a.seeds == 1 else f"{a.seeds} seeds, mean (lowest to highest)"
    about = (
        f"{count}-step students of one teacher, each trained for {budget}, by its first steps; {seeds}. "
        f"All draw the same {a.n} held-out prompts; diversity and saturation are ratios to the first row."
    )
    budget_told = f"--steps {a.steps}" if a.steps else f"--minutes {a.minutes:g}"
    command = f"    python studies/distillation.py --teacher {a.teacher} {budget_told} --seeds {a.seeds}"
    command = " ".join([command, *([] if a.n == 200 else [f"--n {a.n}"]), *a.overrides])
    return (
        f"# Three ways to four steps\n\n{command}\n\n{paragraphs(about)}\n\n{table(heads, rows)}\n\n"
        f"![composition and diversity]({a.out.name}.png)\n"
    )


def _value(row: Mapping[str, Any], key: str) -> float:
    return row[key]["value"] if isinstance(row[key], Mapping) else row[key]


if __name__ == "__main__":
    main()
