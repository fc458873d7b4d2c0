"""The page of a run: `index.html` beside its log, with curves as inline SVG and the latest sheets; no server needed."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fourstroke.checkpoint import read_json, read_rows
from fourstroke.evaluate.curves import STYLE as CURVES
from fourstroke.evaluate.curves import Series, curves, figure, thin
from fourstroke.files import write_text

SHEETS = 6
"""So many of the latest sheets are shown."""

STYLE = (
    """
:root { color-scheme: light dark; --ink: #1d2126; --quiet: #6b7480; --line: #d9dee4; --accent: #2a6fdb; --paper: #fff }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --quiet: #949ea9; --line: #343b43; --accent: #7aa9ff; --paper: #15181c } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 76rem; padding: 0 1rem }
h1 { font-size: 1.3rem; margin: 0 } h2 { font-size: 1.05rem; margin: 2rem 0 .6rem }
p { color: var(--quiet); margin: .2rem 0 } figure { margin: 0 }
img { max-width: 100%; border: 1px solid var(--line); border-radius: 4px }
.sheets figure { margin: 0 0 1.5rem } .sheets figcaption { font-weight: 600 }
details { margin-top: 2rem } pre { overflow: auto; font-size: 12px }
"""
    + CURVES
)


def write_report(out: Path) -> None:
    """Write `index.html` into a run's folder, from its `log.jsonl`, `recipe.json` and `samples`.

    Raises:
        WriteError: if the page cannot be written; an older one stays.
    """
    rows = read_rows(out / "log.jsonl") if (out / "log.jsonl").exists() else []
    record = read_json(out / "recipe.json") if (out / "recipe.json").exists() else {}
    training = {name: thin(points) for name, points in curves(rows).items()}
    scores = curves([{"step": row["step"], **row["scores"]} for row in rows if "scores" in row])
    sheets = sorted((out / "samples").glob("*step-*.png"), key=_step_of)[-SHEETS:]
    write_text(out / "index.html", "".join(_page(out.resolve().name, rows, training, scores, sheets, record)))


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
            yield from (figure(key, points) for key, points in group.items())
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


def _step_of(file: Path) -> int:
    number = file.stem.rpartition("step-")[2]
    return int(number) if number.isdigit() else -1
