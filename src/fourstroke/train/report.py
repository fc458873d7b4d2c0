"""The page of a run: `index.html` beside its log, with curves as inline SVG and the latest sheets; no server needed."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fourstroke.checkpoint import read_json, read_rows
from fourstroke.files import write_text

SHEETS = 6
"""So many of the latest sheets are shown."""

POINTS = 400
"""So many points at most does a curve have; of more, neighbours are averaged."""

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 360, 190, 46, 22, 10

Series = list[tuple[float, float]]

STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --faint: #6b7480; --line: #d9dee4; --curve: #2a6fdb; --paper: #fff }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --faint: #949ea9; --line: #343b43; --curve: #7aa9ff; --paper: #15181c } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 76rem; padding: 0 1rem }
h1 { font-size: 1.3rem; margin: 0 } h2 { font-size: 1.05rem; margin: 2rem 0 .6rem }
p { color: var(--faint); margin: .2rem 0 }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1.2rem }
figure { margin: 0 } figcaption { display: flex; justify-content: space-between; font-weight: 600 }
figcaption span { color: var(--faint); font-weight: 400; font-variant-numeric: tabular-nums }
svg { width: 100%; height: auto; display: block } text { font-size: 11px; fill: var(--faint) }
.grid { stroke: var(--line); stroke-width: 1 } .curve { stroke: var(--curve); stroke-width: 1.6; fill: none }
.dot { fill: var(--curve) } img { max-width: 100%; border: 1px solid var(--line); border-radius: 4px }
.sheets figure { margin: 0 0 1.5rem } details { margin-top: 2rem } pre { overflow: auto; font-size: 12px }
"""


def write_report(out: Path) -> None:
    """Write `index.html` into a run's folder, from its `log.jsonl`, `recipe.json` and `samples`.

    Raises:
        WriteError: if the page cannot be written; an older one stays.
    """
    rows = read_rows(out / "log.jsonl") if (out / "log.jsonl").exists() else []
    record = read_json(out / "recipe.json") if (out / "recipe.json").exists() else {}
    training = {name: _thin(points) for name, points in curves(rows).items()}
    scores = curves([{"step": row["step"], **row["scores"]} for row in rows if "scores" in row])
    sheets = sorted((out / "samples").glob("*step-*.png"), key=_step_of)[-SHEETS:]
    write_text(out / "index.html", "".join(_page(out.resolve().name, rows, training, scores, sheets, record)))


def curves(rows: Sequence[dict[str, Any]]) -> dict[str, Series]:
    """By name, the (step, value) of all numbers in rows of a log; where a step was done twice, the later one's."""
    found: dict[str, dict[float, float]] = {}
    for row in rows:
        for name, value in row.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if number and name not in ("step", "seconds"):
                found.setdefault(name, {})[row["step"]] = value
    return {name: sorted(points.items()) for name, points in found.items()}


def _page(
    name: str,
    rows: Sequence[dict[str, Any]],
    training: dict[str, Series],
    scores: dict[str, Series],
    sheets: Sequence[Path],
    record: dict[str, Any],
) -> Iterator[str]:
    yield '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{html.escape(name)}</title><style>{STYLE}</style>\n<h1>{html.escape(name)}</h1>\n"
    if rows:
        told = f"step {rows[-1]['step']}, {rows[-1].get('seconds', 0) / 60:.1f} minutes of training"
        yield f"<p>{html.escape(' · '.join([told, *_about(record)]))}</p>\n"
    for title, group in (("Scores", scores), ("Training", training)):
        if group:
            yield f'<h2>{title}</h2>\n<div class="curves">\n'
            yield from (_figure(key, points) for key, points in group.items())
            yield "</div>\n"
    if sheets:
        yield '<h2>Sheets</h2>\n<div class="sheets">\n'
        for file in reversed(sheets):
            place = html.escape(f"samples/{file.name}")
            caption = html.escape(file.stem)
            yield f'<figure><figcaption>{caption}</figcaption><img src="{place}" alt="{caption}"></figure>\n'
        yield "</div>\n"
    if record:
        yield f"<details><summary>Recipe</summary><pre>{html.escape(json.dumps(record, indent=2))}</pre></details>\n"
    yield "</html>\n"


def _about(record: dict[str, Any]) -> list[str]:
    return [f"{key} {record[key]}" for key in ("fourstroke", "git", "torch", "device") if record.get(key)]


def _figure(name: str, points: Series) -> str:
    """A curve with its axes: steps to the right, values upwards; the last value stands beside the name."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    ticks = _ticks(min(ys), max(ys))
    low, high, first, last = min(*ys, ticks[0]), max(*ys, ticks[-1]), min(xs), max(xs)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / (last - first) if last > first else 0.5
        up = (y - low) / (high - low) if high > low else 0.5
        return LEFT + across * (WIDTH - LEFT - 8), HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - TOP)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(name)}">']
    for tick in ticks:
        y = place(first, tick)[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_tick(tick, ticks)}</text>')
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
    parts.append(f'<polyline class="curve" points="{path}"/>')
    if len(points) < 40:
        dots = (place(*point) for point in points)
        parts += [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="2.4"/>' for x, y in dots]
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 6}">{_short(first)}</text>')
    parts.append(f'<text x="{WIDTH - 8}" y="{HEIGHT - 6}" text-anchor="end">step {_short(last)}</text></svg>')
    caption = f"<figcaption>{html.escape(name)} <span>{_short(ys[-1])}</span></figcaption>"
    return f"<figure>{caption}{''.join(parts)}</figure>\n"


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers that span the values."""
    if high <= low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / 3))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 4)
    return [round(k * step, 12) for k in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _tick(value: float, ticks: Sequence[float]) -> str:
    """A tick with as many digits as tell it from its neighbours."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 0.0
    if not 1e-3 <= step < 1e6:
        return _short(value)
    return f"{value:.{max(0, -math.floor(math.log10(step)))}f}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e6 else f"{value:.3g}"


def _thin(points: Series) -> Series:
    """Means of neighbours where there are more points than a screen shows."""
    size = math.ceil(len(points) / POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)] if size > 1 else None
    if groups is None:
        return points
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _step_of(file: Path) -> int:
    number = file.stem.rpartition("step-")[2]
    return int(number) if number.isdigit() else -1
