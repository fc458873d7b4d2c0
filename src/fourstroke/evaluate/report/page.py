"""A report as one page of HTML that stands alone: tables with intervals, pictures that nobody picked, curves."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from fourstroke.checkpoint import read_rows
from fourstroke.evaluate.comparison_page import STYLE, bar, img
from fourstroke.evaluate.curves import STYLE as CURVES
from fourstroke.evaluate.curves import Series, curves, figure, thin
from fourstroke.evaluate.report.chapter import ALL, Question, Scores, Unit
from fourstroke.evaluate.report.report import Part, Report

OWN = STYLE.with_name("report.css")
SHORT = {"iou", "ned", "psnr", "ssim"}
"""Written in capitals."""
CEILING = "true pictures through the autoencoder"
"""Whose figures are the most that the models above can be expected to reach."""
NONE = '<td class="quiet">–</td>'
SCALES: Mapping[Unit, tuple[int, int]] = {"%": (100, 1), "dB": (1, 1), "": (1, 3)}
"""By unit, what figures are multiplied by, and their digits behind the point."""
LONGEST = 280
"""Letters of a prompt that stand below its picture; the whole one is its title."""


def page(report: Report, logs: Mapping[str, dict[str, Series]], show: int) -> str:
    """The page as it is now, with the first `show` questions of each chapter."""
    return "\n".join(_page(report, logs, show)) + "\n"


def read_logs(places: Sequence[Path]) -> dict[str, dict[str, Series]]:
    """By the run's name, its curves; a place is a run's folder or its log.jsonl. Raises ValueError without a log."""
    found = {}
    for place in places:
        file = place if place.suffix == ".jsonl" else place / "log.jsonl"
        if not file.is_file():
            raise ValueError(f"{place} has no log.jsonl: --log names the folder of a run")
        rows = read_rows(file)
        scores = curves([{"step": row["step"], **row["scores"]} for row in rows if "scores" in row])
        found[file.parent.resolve().name] = scores | {name: thin(points) for name, points in curves(rows).items()}
    return found


def table(result: Mapping[str, Any]) -> str:
    """The first row of each chapter as lines of text."""
    lines = []
    for chapter in result["chapters"]:
        for model, found in zip(result["models"], chapter["models"], strict=True):
            name, row = next(iter(found.items())) if found else ("", {"readings": {}})
            told = ", ".join(f"{key} {value['value']:.3f}" for key, value in row["readings"].items())
            lines.append(f"{chapter['title']}, {name}, {model['name']}: {told}")
    return "\n".join(lines + [f"{title}: left out, {why}" for title, why in result["left_out"].items()])


def _page(report: Report, logs: Mapping[str, dict[str, Series]], show: int) -> Iterator[str]:
    title = " beside ".join(column.name for column in report.columns)
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    style = STYLE.read_text(encoding="utf-8") + OWN.read_text(encoding="utf-8") + CURVES
    yield f'<title>{escape(title)}</title><style>{style}</style></head><body class="report">'
    yield f"<header><h1>{escape(title)}</h1>"
    yield "<p>Held-out prompts; 95 % intervals, by bootstrap over prompts. Pictures are the first ones, not picked."
    if not report.done:
        missing = sum(found is None for part in report.parts for found in part.found)
        yield f" <b>Unfinished: {missing} chapters are missing; the same command goes on.</b>"
    yield "</p></header>"
    yield f'<div class="cards">{"".join(_cards(report))}</div>'
    links = [(part.chapter.kind, part.chapter.title) for part in report.parts] + [("curves", "Curves")] * bool(logs)
    yield "<nav>" + "".join(f'<a href="#{kind}">{escape(text)}</a>' for kind, text in links) + "</nav>"
    for part in report.parts:
        yield from _chapter(report, part, show)
    if report.left_out:
        yield "<h2>Left out</h2><ul>"
        yield from (f"<li><b>{escape(name)}</b>: {escape(why)}</li>" for name, why in report.left_out.items())
        yield "</ul>"
    if logs:
        yield '<h2 id="curves">Curves</h2>'
        for name, found in logs.items():
            yield f"<details open><summary>{escape(name)}</summary><div class=curves>"
            yield from (figure(key, points) for key, points in found.items())
            yield "</div></details>"
    yield "</body></html>"


def _cards(report: Report) -> Iterator[str]:
    for model in report.plain()["models"]:
        spent = model["seconds_per_picture"]
        told = f", {spent:.2f} s a picture" if spent is not None else ""
        yield (
            f"<section><h2>{escape(model['name'])}</h2><p>{escape(model['model'])}</p><p>{model['steps']} "
            f"step{'s' * (model['steps'] > 1)}, guidance {model['guidance']:g}{told}</p></section>"
        )


def _chapter(report: Report, part: Part, show: int) -> Iterator[str]:
    chapter = part.chapter
    yield f'<h2 id="{chapter.kind}">{escape(chapter.title)}</h2><p class="quiet">{escape(chapter.about)}</p>'
    there = [place for place, found in enumerate(part.found) if found is not None]
    if not there:
        yield '<p class="quiet">Not there yet.</p>'
        return
    names = list(dict.fromkeys(key for place in there for row in part.found[place].values() for key in row["readings"]))  # type: ignore[union-attr]
    yield '<div class="scroll"><table><thead><tr><th></th>'
    yield "<th>model</th>" if _named(part) else ""
    yield from (f"<th>{escape(_label(name))}</th>" for name in names)
    yield "</tr></thead><tbody>"
    for row in part.rows:
        yield from _rows(report, part, row, names, there)
    yield "</tbody></table></div>"
    yield from _differences(part, names)
    yield from _sheet(report, part, there, show)


def _rows(report: Report, part: Part, row: str, names: Sequence[str], there: Sequence[int]) -> Iterator[str]:
    """A row of each model, and one of true pictures through its autoencoder, unless the next model has the same."""
    lines: list[tuple[str, Mapping[str, Any]]] = []
    count, last = 0, None
    for place in there:
        found = (part.found[place] or {}).get(row)
        if found is None:
            continue
        if last not in (None, found.get("ceiling")):
            lines.append((CEILING, last))
        count, last = found["questions"], found.get("ceiling")
        lines.append((report.columns[place].name, found["readings"]))
    lines += [(CEILING, last)] if last else []
    for order, (name, readings) in enumerate(lines):
        kind = " ".join(["more"] * (order > 0) + ["joined"] * (order + 1 < len(lines)) + ["quiet"] * (name == CEILING))
        head = f"{escape(row)}<i>{count} prompts</i>" if not order else ""
        told = f'<td class="model">{escape(name)}</td>' if _named(part) else ""
        cells = "".join(_cell(readings.get(key), part.chapter.units.get(key, "%")) for key in names)
        yield f'<tr class="{kind}"><th>{head}</th>{told}{cells}</tr>'


def _named(part: Part) -> bool:
    """Whether the table says whose figures they are."""
    return len(part.found) > 1 or any("ceiling" in row for found in part.found for row in (found or {}).values())


def _differences(part: Part, names: Sequence[str]) -> Iterator[str]:
    """A table of what is compared; what a model keeps of another is a share, the rest are differences."""
    if not part.differences:
        return
    names = [name for name in names if any(name in each["readings"] for each in part.differences)]
    yield '<div class="scroll differences"><table><thead><tr><th>differences</th>'
    yield from (f"<th>{escape(_label(name))}</th>" for name in names)
    yield "</tr></thead><tbody>"
    for each in part.differences:
        joint = "as a share of" if "bars" in each else "minus"
        where = ", ".join(each[key] for key in ("row", "model") if key in each)
        head = f"{each['ours']} {joint} {each['theirs']}"
        cells = "".join(
            _kept(each["readings"].get(name), each["bars"].get(name, 0.0))
            if "bars" in each
            else _difference(each["readings"].get(name), part.chapter.units.get(name, "%"))
            for name in names
        )
        yield f"<tr><th>{escape(head)}<i>{escape(where)}, {each['questions']} prompts</i></th>{cells}</tr>"
    yield "</tbody></table></div>"


def _difference(value: Mapping[str, float] | None, unit: Unit) -> str:
    if value is None:
        return NONE
    scale, digits = SCALES[unit]
    low, middle, high = (f"{scale * value[key]:+.{digits}f}" for key in ("low", "value", "high"))
    told = f"{middle} {'points' if unit == '%' else unit}".strip()
    return f"<td><b>{told}</b> <i>{low} to {high}</i></td>"


def _kept(value: Mapping[str, float] | None, bar: float) -> str:
    if value is None:
        return NONE
    low, middle, high = (f"{100 * value[key]:.1f}" for key in ("low", "value", "high"))
    mark = "good" if value["value"] >= bar else "bad"
    return f'<td><b class="{mark}">{middle} %</b> <i>{low} to {high}, at least {100 * bar:.0f} is asked</i></td>'


def _cell(value: Mapping[str, float] | None, unit: Unit) -> str:
    if value is None:
        return NONE
    scale, digits = SCALES[unit]
    low, middle, high = (f"{scale * value[key]:.{digits}f}" for key in ("low", "value", "high"))
    of = f" of {value['count']}" if unit == "%" else ""
    drawn = bar(value, 0.0, 1.0) if unit == "%" else ""
    return f"<td><b>{f'{middle} {unit}'.strip()}</b> <i>{low} to {high}{of}</i>{drawn}</td>"


def _label(name: str) -> str:
    return " ".join(word.upper() if word in SHORT else word for word in name.split("_"))


def _sheet(report: Report, part: Part, there: Sequence[int], show: int) -> Iterator[str]:
    """The first questions, with every model's picture, the prompt and what was read."""
    questions = _firsts(part, show)
    several = any(q.images or q.original is not None or len(q.seeds) > 1 for q in questions)
    yield f"<details open><summary>the first prompts, {len(questions)}</summary>"
    yield f'<div class="sheet{" wide" * (several or len(there) > 1)}">'
    for question in questions:
        before = [("before", Image.fromarray(image)) for image in question.images]
        if question.original is not None:
            before = [("original", Image.fromarray(question.original))]
        drawn, notes = [], []
        for place in there:
            runner = report.runners[place]
            name = report.columns[place].name
            pictures = runner.pictures(question)
            drawn += [(f"{name}, seed {s}", Image.fromarray(p)) for s, p in zip(question.seeds, pictures, strict=True)]
            notes.append((f"{name}: " if len(there) > 1 else "") + _note(runner.reading(question), part))
        images = "".join(img(image, told) for told, image in (*before, *drawn))
        short = question.prompt if len(question.prompt) <= LONGEST else f"{question.prompt[:LONGEST]} …"
        yield f'<figure><div>{images}</div><figcaption title="{escape(question.prompt, quote=True)}">{escape(short)}'
        yield "</figcaption>" + "".join(f'<p class="quiet">{escape(note)}</p>' for note in notes) + "</figure>"
    yield "</div></details>"


def _firsts(part: Part, show: int) -> list[Question]:
    """The first of the row of all, or of each row in turn."""
    if ALL in part.rows:
        return [*part.rows[ALL][:show]]
    turns = [question for each in itertools.zip_longest(*part.rows.values()) for question in each if question]
    return list({id(question): question for question in turns}.values())[:show]


def _note(readings: Scores, part: Part) -> str:
    """What was read of one question."""
    told = []
    for name, (total, count) in readings.items():
        if not count:
            continue
        unit, label = part.chapter.units.get(name, "%"), _label(name)
        if unit == "%":
            told.append(f"{label} {total:.3g} of {count:g}" if count != 1 else f"{label} {total:.3g}")
        else:
            told.append(f"{label} {total / count:.3g} {unit}".strip())
    return ", ".join(told)
