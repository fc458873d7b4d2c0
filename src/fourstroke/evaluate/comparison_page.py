"""A comparison as one page of HTML that stands alone: tables with intervals, and the same seeds side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from fourstroke.evaluate.comparison import Entry, Key
from fourstroke.image_io import ImageError

THUMB = 320
"""Pixels of the longer side of a picture on the page."""
NONE_IN_COMMON = "no judged picture in common"
STYLE = Path(__file__).with_name("comparison.css")


def page(found: dict[str, Any], entries: Sequence[Entry], prompts: int, seeds: int) -> str:
    """The page: `prompts` of those that all have, evenly over the suite, with their first `seeds` pictures."""
    names = [entry["name"] for entry in found["entries"]]
    title = " · ".join(names)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE.read_text(encoding='utf-8')}</style></head><body>",
        f"<header><h1>{escape(title)}</h1><p>{found['prompts']} prompts that all have drawn. Intervals are 95 %, by "
        "bootstrap over prompts; differences and wins are taken prompt by prompt.</p></header>",
        '<div class="cards">' + "".join(map(_card, found["entries"])) + "</div>",
        *_tables(found, names),
        *_pictures(entries, prompts, seeds),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def table(found: dict[str, Any]) -> str:
    """The scores as lines of text."""
    names = [entry["name"] for entry in found["entries"]]
    lines = [f"{name}: {entry['pictures']} pictures" for name, entry in zip(names, found["entries"], strict=True)]
    for row in found["scores"]:
        told = [
            f"{name} {mean['value']:.4g} ({mean['low']:.4g} to {mean['high']:.4g})"
            for name, mean in zip(names, row["means"], strict=True)
            if mean
        ]
        lines.append(f"{row['judge']}/{row['score']}: {', '.join(told) or NONE_IN_COMMON}")
    return "\n".join(lines)


def _card(entry: dict[str, Any]) -> str:
    facts = [
        f"{entry['pictures']} pictures",
        f"{entry['steps']} step{'s' * (entry['steps'] != 1)}" if entry["steps"] is not None else "",
        f"guidance {entry['guidance']:g}" if entry["guidance"] is not None else "",
        f"{entry['rewritten']} rewritten" if entry["rewritten"] else "",
    ]
    lost = f'<p class="bad">{entry["lost"]} missing or broken</p>' if entry["lost"] else ""
    model = f"<p>{escape(entry['model'])}</p>" if entry["model"] else ""
    told = ", ".join(fact for fact in facts if fact)
    return f"<section><h2>{escape(entry['name'])}</h2>{model}<p>{told}</p>{lost}</section>"


def _tables(found: dict[str, Any], names: Sequence[str]) -> list[str]:
    if not found["scores"] and not found["totals"]:
        folder = escape(found["entries"][0]["folder"])
        return [f"<p class=quiet>No judge has seen these pictures: <code>fourstroke eval judge {folder}</code>.</p>"]
    parts = []
    for judge in dict.fromkeys(row["judge"] for row in (*found["scores"], *found["totals"])):
        rows = [row for row in found["scores"] if row["judge"] == judge]
        parts.append(f"<h2>{escape(judge)}</h2>")
        parts.append('<div class="scroll"><table class="scores"><thead><tr><th>score</th>')
        parts += [f"<th>{escape(name)}</th>" for name in names]
        parts.append("</tr></thead><tbody>")
        parts += [_row(row, names) for row in rows]
        parts += [_whole(row, names) for row in found["totals"] if row["judge"] == judge]
        parts.append("</tbody></table></div>")
        if len(names) > 2:
            parts += [_wins(row, names) for row in rows if row["better"]]
    return parts


def _row(row: dict[str, Any], names: Sequence[str]) -> str:
    """A score: the mean of each with its interval drawn, and what it has over the first."""
    means = [mean for mean in row["means"] if mean]
    low, high = min((mean["low"] for mean in means), default=0), max((mean["high"] for mean in means), default=0)
    lacking = "not judged" if means else NONE_IN_COMMON
    cells = []
    for place, mean in enumerate(row["means"]):
        name = escape(names[place], quote=True)
        if mean is None:
            cells.append(f'<td class="quiet" data-name="{name}">{lacking}</td>')
            continue
        told = f"<b>{mean['value']:.4g}</b> <i>{mean['low']:.4g} to {mean['high']:.4g}</i>"
        gap = _against(row, place, names) if place else ""
        cells.append(f'<td data-name="{name}">{told}{bar(mean, low, high)}{gap}</td>')
    arrow = {"higher": "higher is better", "lower": "lower is better", None: "neither is better"}[row["better"]]
    return f"<tr><th>{escape(row['score'])}<i>{arrow}, {row['pictures']} pictures</i></th>{''.join(cells)}</tr>"


def _against(row: dict[str, Any], place: int, names: Sequence[str]) -> str:
    """What a column has over the first one, or less."""
    gap, won = row["differences"][place][0], row["wins"][place][0]
    if gap is None:
        return ""
    sure = gap["low"] > 0 or gap["high"] < 0
    good = row["better"] is not None and sure and (gap["value"] > 0) == (row["better"] == "higher")
    kind = ("good" if good else "bad") if sure and row["better"] else "even"
    told = f"{_signed(gap['value'])} ({_signed(gap['low'])} to {_signed(gap['high'])})"
    wins = f" · wins {100 * won['value']:.0f} % ({100 * won['low']:.0f} to {100 * won['high']:.0f})" if won else ""
    return f'<p class="{kind}">against {escape(names[0])}: {told}{wins}</p>'


def _signed(value: float) -> str:
    """With its sign, a true minus, and none for what is shown as 0."""
    told = f"{value:+.3g}"
    return "0" if told in ("+0", "-0") else told.replace("-", "−")


def bar(mean: Mapping[str, float], low: float, high: float) -> str:
    """An interval on the scale of its row."""
    span = high - low or 1.0
    left, middle = 100 * (mean["low"] - low) / span, 100 * (mean["value"] - low) / span
    width = max(1.0, 100 * (mean["high"] - mean["low"]) / span)
    return (
        f'<span class="bar" role="presentation"><span style="left:{left:.1f}%;width:{width:.1f}%"></span>'
        f'<em style="left:{middle:.1f}%"></em></span>'
    )


def _whole(row: dict[str, Any], names: Sequence[str]) -> str:
    cells = [
        f'<td data-name="{escape(name, quote=True)}"><b>{"–" if value is None else f"{value:.4g}"}</b></td>'
        for name, value in zip(names, row["values"], strict=True)
    ]
    better = f"{row['better']} is better, " if row["better"] else ""
    return f"<tr><th>{escape(row['score'])}<i>{better}of all pictures together</i></th>{''.join(cells)}</tr>"


def _wins(row: dict[str, Any], names: Sequence[str]) -> str:
    """Who wins against whom, of three or more."""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    lines = []
    for name, own in zip(names, row["wins"], strict=True):
        cells = [f"<td>{100 * won['value']:.0f} %</td>" if won else "<td>–</td>" for won in own]
        lines.append(f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>")
    summary = f"<summary>{escape(row['score'])}: how often each row wins against each column</summary>"
    inner = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<details>{summary}<div class="scroll">{inner}</div></details>'


def _pictures(entries: Sequence[Entry], prompts: int, seeds: int) -> list[str]:
    shared = set.intersection(*(set(entry.pictures) for entry in entries))
    known = list(dict.fromkeys(key[0] for key in entries[0].pictures if key in shared))
    chosen = [known[place * len(known) // prompts] for place in range(prompts)] if prompts < len(known) else known
    parts = [
        f"<h2>The same seeds side by side</h2><p class=quiet>{len(chosen)} of {len(known)} prompts, evenly over the "
        "suite, not picked.</p>"
    ]
    for prompt in chosen:
        keys = sorted(key for key in shared if key[0] == prompt)[:seeds]
        first = entries[0].pictures[keys[0]]
        parts.append(f'<article><p class="prompt">{escape(first.wanted or prompt)}</p><div class="row">')
        parts += [_column(entry, keys) for entry in entries]
        parts.append("</div></article>")
    return parts


def _column(entry: Entry, keys: Sequence[Key]) -> str:
    images = "".join(_image(entry, key) for key in keys)
    asked = entry.pictures[keys[0]]
    rewritten = f'<p class="quiet">{escape(asked.prompt)}</p>' if asked.asked else ""
    return f"<figure><figcaption>{escape(entry.name)}</figcaption><div>{images}</div>{rewritten}</figure>"


def _image(entry: Entry, key: Key) -> str:
    picture = entry.pictures[key]
    seed = "" if picture.seed is None else f"seed {picture.seed}"
    try:
        image = picture.open()
    except ImageError as error:
        return f'<span class="bad">{escape(str(error))}</span>'
    return img(image, f"{entry.name}, {seed}".strip(", "))


def img(image: Image.Image, told: str) -> str:
    """A picture within the page, small ones without loss."""
    small = max(image.size) <= THUMB
    image.thumbnail((THUMB, THUMB), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "WEBP", lossless=small, quality=85)
    data = base64.b64encode(stream.getvalue()).decode()
    told = escape(told, quote=True)
    return f'<img src="data:image/webp;base64,{data}" alt="{told}" title="{told}" loading="lazy">'
