"""What micro was to reach, what it reaches, and how its teacher came there.

    fourstroke eval report models/micro --n 200 --chapter words --out words.html
    fourstroke eval report models/micro --n 60 --chapter languages --chapter wordings --chapter stickers --out rest.html
    fourstroke eval report models/micro --n 100 --chapter pages --out pages.html
    python studies/goals.py --report words.json rest.json pages.json

Keeps in models/micro/scores.json what these pages say of their first model, and writes docs/studies/goals.{md,png}:
each goal beside what was measured of the bundled student and of its teacher, and curves of the teacher's training,
judged by prompts that choose checkpoints.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pages import COLOURS, axes_of, paragraphs, save, table

from fourstroke.checkpoint import read_json
from fourstroke.files import write_json, write_text
from fourstroke.world.judging.pages import TWO_LINES

MODELS = Path("models")
LOGS = ("micro/run/edits", "micro-teacher/run/edits", "micro-teacher/run/edits-posters")
"""Of one training after the other."""
CURVES = {"objects": "objects", "style": "style", "words_ned": "words, NED", "edits/changed": "edits made"}
STUDENT = "student, 4 steps"
OTHERS = "composition_first_10000"


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A figure of scores.json that should be at least so high."""

    name: str
    wanted: float
    path: tuple[str, ...]
    less: tuple[str, ...] | None = None
    """What is taken from it before."""

    def found(self, scores: Mapping[str, Any]) -> tuple[float, str] | None:
        """The figure, and as text with its interval; None where it was not measured."""
        if (value := _figure(scores, self.path)) is None:
            return None
        if self.less is None:
            return value[0], _text(*value)
        base = _figure(scores, self.less)
        return None if base is None else (value[0] - base[0], f"{value[0] - base[0]:+.2f}")


def _composition(name: str, wanted: float) -> Goal:
    return Goal(name=name, wanted=wanted, path=("composition", name))


def _objects_in(language: str) -> Goal:
    return Goal(name=f"objects in {language}", wanted=0.85, path=("report", "languages", language, "objects"))


def _word(script: str, wanted: float, reading: str = "words_ned") -> Goal:
    name = f"{script.capitalize()} words, {'exact' if reading == 'words_exact' else 'NED'}"
    return Goal(name=name, wanted=wanted, path=("report", "words", script, reading))


GOALS = (
    _composition("objects", 0.90),
    _composition("style", 0.90),
    _composition("counts", 0.80),
    _composition("colours", 0.95),
    _composition("relations", 0.90),
    Goal(
        name="objects in held-out wordings, less those in trained ones",
        wanted=-0.05,
        path=("report", "wordings", "held out", "objects"),
        less=("report", "wordings", "trained", "objects"),
    ),
    *map(_objects_in, ("Spanish", "Russian", "Chinese")),
    _word("latin", 0.60, "words_exact"),
    _word("latin", 0.85),
    _word("cyrillic", 0.60),
    _word("chinese", 0.60),
    Goal(
        name="stickers, intersection over union of alphas", wanted=0.90, path=("report", "stickers", "all", "alpha_iou")
    ),
    Goal(name="posters of two lines, words", wanted=0.40, path=("report", "pages", TWO_LINES, "words_exact")),
    Goal(name="edits made", wanted=0.75, path=("edits", "changed")),
    Goal(name="beside an edit, dB", wanted=28.0, path=("edits", "outside_psnr")),
    Goal(name="scenes through the autoencoder, dB", wanted=35.0, path=("reconstruction", "world", "psnr")),
    Goal(name="photographs, dB", wanted=27.0, path=("reconstruction", "photographs", "mean", "psnr")),
    Goal(name="small text, NED", wanted=0.88, path=("reconstruction", "world_pages", "ned")),
    Goal(name="four steps: composition, of the teacher's", wanted=0.97, path=("steps", "composition")),
    Goal(name="four steps: words, of the teacher's", wanted=0.90, path=("steps", "words")),
    Goal(name="four steps: diversity, of the teacher's", wanted=0.90, path=("steps", "diversity")),
    Goal(name="four steps: saturation, the smaller by the larger", wanted=0.95, path=("steps", "saturation")),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Take up reports, write the page and the curves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--report", type=Path, nargs="*", default=[], help="report.json of the bundled model")
    parser.add_argument("--steps", type=Path, default=Path("docs/studies/steps.json"), help="of studies/steps.py")
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of micro and micro-teacher")
    parser.add_argument("--out", type=Path, default=Path("docs/studies/goals"), help="prefix of the files")
    arguments = parser.parse_args(argv)
    file = arguments.models / "micro" / "scores.json"
    scores, teacher = read_json(file), read_json(arguments.models / "micro-teacher" / "scores.json")
    if arguments.report:
        for chapter in (chapter for report in arguments.report for chapter in read_json(report)["chapters"]):
            rows = {name: row["readings"] for name, row in chapter["models"][0].items()}
            scores.setdefault("report", {})[chapter["kind"]] = rows
        write_json(file, scores)
    draw([looks for log in LOGS if (looks := list(_looks(arguments.models / log / "log.jsonl")))], arguments.out)
    few = few_of(read_json(arguments.steps)["rows"]) if arguments.steps.exists() else {}
    page = text(scores | {"steps": few}, teacher, arguments.out.name)
    write_text(arguments.out.with_suffix(".md"), page)
    print(page)


def few_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What the student keeps in four steps of the first row, its teacher with all steps; ratios."""
    first, student = rows[0], next((row for row in rows if row["name"] == STUDENT), None)
    if student is None:
        return {}
    ratios = {key: student[key]["value"] / first[key]["value"] for key in ("composition", "words")}
    saturation = student["saturation"] / first["saturation"]
    ratios["diversity"] = student["diversity"] / first["diversity"]
    return ratios | {"saturation": min(saturation, 1 / saturation)}


def text(scores: Mapping[str, Any], teacher: Mapping[str, Any], name: str) -> str:
    """The page of docs."""
    rows = []
    for goal in GOALS:
        found = goal.found(scores)
        other = (
            goal.found({"composition": scores[OTHERS]}) if goal.path[0] == "composition" and OTHERS in scores else None
        )
        cells = [_marked(goal, each) for each in (found, other, goal.found(teacher))]
        rows.append([goal.name, f"{goal.wanted:g}", *cells])
    about = (
        "Held-out prompts, the bundled student in four steps, its teacher in forty; "
        "bold is what is reached, 95 % intervals in brackets. Composition and edits: `fourstroke eval composition --n "
        "200`, `--first 10000` for the others, `fourstroke eval edits --n 100`; the rest by the commands of "
        "`studies/goals.py`, which prints this page, and by `fourstroke eval reconstruction --read`; those that begin "
        "with four steps are of the pair in [steps](steps.md)."
    )
    curves = (
        "The teacher's training with edits, in minutes of one or two cores. Each point is of the 48 prompts and 48 "
        "edits by which checkpoints are chosen, so that it may be wrong by .1 or more. The world changed at the "
        "first line (more signs and small things), at 296 minutes, when a fifth of the signs became capitals, and at "
        "the second line, when nearly half of the pictures became posters "
        "([card](../../models/micro-teacher/README.md))."
    )
    return (
        f"# What micro was to reach\n\n{paragraphs(about)}\n\n"
        f"{table(['', 'wanted', 'student', '200 others', 'teacher'], rows)}\n\n"
        f"![scores over training]({name}.png)\n\n{paragraphs(curves)}\n"
    )


def draw(runs: Sequence[Sequence[tuple[float, Mapping[str, float]]]], out: Path) -> None:
    """Scores over minutes, one training after the other."""
    figure, (axes,) = axes_of(1, width=7.0)
    start = 0.0
    for number, looks in enumerate(runs):
        for (key, label), colour in zip(CURVES.items(), COLOURS, strict=False):
            points = [(start + minutes, scores[key]) for minutes, scores in looks if key in scores]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", color=colour, label="" if number else label)
        start += looks[-1][0]
        if number + 1 < len(runs):
            axes.axvline(start, color="black", lw=0.7)
    axes.set(xlabel="minutes", ylabel="share right", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save(figure, out)


def _looks(log: Path) -> Iterator[tuple[float, Mapping[str, float]]]:
    """Minutes and scores of a run's looks at its pictures."""
    for line in log.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "scores" in row:
            yield row["seconds"] / 60, row["scores"]


def _figure(scores: Mapping[str, Any], path: Sequence[str]) -> tuple[float, float | None, float | None] | None:
    """Value, lowest and highest, at a path of keys; None where there is nothing."""
    found: Any = scores
    for key in path:
        if key not in found:
            return None
        found = found[key]
    return (found["value"], found["low"], found["high"]) if isinstance(found, dict) else (float(found), None, None)


def _text(value: float, low: float | None, high: float | None) -> str:
    digits = 1 if value > 10 else 3  # dB, or a share
    return f"{value:.{digits}f}" + ("" if low is None else f" ({low:.{digits}f} to {high:.{digits}f})")


def _marked(goal: Goal, found: tuple[float, str] | None) -> str:
    if found is None:
        return ""
    return f"**{found[1]}**" if found[0] >= goal.wanted else found[1]


if __name__ == "__main__":
    main()
