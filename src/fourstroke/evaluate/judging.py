"""Judges a folder of drawn pictures: every picture gets its scores or the reason why it has none.

`scores/NAME.jsonl` has a row a picture, `scores/NAME.json` means with 95 % intervals over prompts, what was counted
and the judge's settings. What endpoints and readers answered is kept as it comes (`answers.sqlite`), so that a run that
was ended early, by anything, goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fourstroke import progress
from fourstroke.data.sample import Caption, Record
from fourstroke.enhance.endpoint import EndpointError, NoWordsError
from fourstroke.evaluate.asking import UnreadableError
from fourstroke.evaluate.drawn import SCORES, DrawnPicture, read_drawn
from fourstroke.evaluate.judge_options import settings
from fourstroke.evaluate.judges import INPUTS, JudgeKind, PictureJudge, Reading, raise_if_dead
from fourstroke.evaluate.statistics import over_prompts
from fourstroke.files import write_json, write_text
from fourstroke.image_io import ImageError

BY = ("suite", "tag", "category", "type", "task_type", "class", "language", "lang", "script")
"""What pictures are counted by, where their rows say it."""
MOST = 40
"""So many different values are kinds; more are names."""
Tally = dict[str, int]


def judge_folder(folder: Path, kind: JudgeKind, name: str = "", batch: int = 32) -> dict[str, Any]:
    """Judge all pictures of a folder and write what came of it.

    Args:
        folder: of drawn pictures, ours or anybody's (`drawn.read_drawn`).
        kind: the judge.
        name: of the files of scores; the judge's kind by default.
        batch: pictures at a time.

    Returns:
        What `scores/NAME.json` holds.

    Raises:
        ValueError: if there is no picture, or nothing that this judge could say of any.
        EndpointError: if an endpoint fails for a whole batch; the answers so far are kept.
    """
    name = name or kind.kind
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise ValueError(f"{name!r} is no name for files of scores; use letters, digits, - and _")
    drawn = read_drawn(folder)
    judge = kind.open(folder / SCORES / name)
    if getattr(kind, "probe", False):
        judge.asker.probe()  # type: ignore[attr-defined]
    reach = getattr(judge, "reach", "picture")
    readings: dict[str, Reading] = {}
    records: dict[str, Record] = {}
    tell = progress.pictures(f"{name}: judging")
    for part in _parts(drawn, batch, whole_prompts=reach == "prompt"):
        pictures: list[np.ndarray] = []
        seen: list[str] = []
        for each in part:
            try:
                pixels = np.asarray(each.open())
            except ImageError as error:
                readings[each.file] = error
                continue
            records[each.file] = record_of(each, pixels)
            pictures.append(pixels)
            seen.append(each.file)
        own = [records[file] for file in seen]
        if pictures and reach == "folder":
            judge.add(pictures, own)  # type: ignore[attr-defined]
            readings |= {file: {} for file in seen}
        elif pictures:
            found = _read(judge, pictures, own)
            raise_if_dead(found)
            readings |= dict(zip(seen, found, strict=True))
        tell(len(readings), len(drawn))
    together = judge.totals() if reach == "folder" or isinstance(judge, PictureJudge) else {}  # type: ignore[attr-defined]
    whole = {name: {"value": value} for name, value in together.items()}
    counts, reasons = tally(readings, asked=reach == "folder")
    if not counts["judged"] and not any(counts[key] for key in ("failed", "refused", "broken")):
        raise ValueError(
            f"{name} finds nothing to judge in {folder}: nothing of the kind is asked of {len(drawn)} pictures"
        )
    rows = {each.file: each for each in drawn}
    scores = {file: _numbers(reading) for file, reading in readings.items()}
    tags = {file: _tags(rows[file]) for file in records}
    if isinstance(judge, PictureJudge):
        tags = {file: own | judge.groups(records[file]) for file, own in tags.items()}
    summary = {
        "judge": name, "kind": kind.kind, "folder": str(folder), "pictures": len(drawn), **counts, "reasons": reasons,
        "totals": _totals(scores, rows) | whole, "by": _by(scores, rows, tags), "settings": settings(kind),
    }  # fmt: skip
    lines = [{"file": f, "scores": scores[f]} | _why(readings[f]) for f in rows]
    write_text(
        folder / SCORES / f"{name}.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    )
    write_json(folder / SCORES / f"{name}.json", summary)
    return summary


def record_of(picture: DrawnPicture, pixels: np.ndarray) -> Record:
    """A drawn picture as judges know it: what was asked is its caption, its prompt's id its name."""
    meta = dict(picture.meta) | {"suite": picture.suite, INPUTS: picture.input_paths}
    caption = Caption(picture.wanted, "prompt")
    return Record(name=picture.id, size=(pixels.shape[1], pixels.shape[0]), captions=(caption,), meta=meta)


def tally(readings: Mapping[str, Reading], asked: bool = False) -> tuple[Tally, Tally]:
    """How many pictures were judged, failed, refused, broken or not asked about, and how often for which reason.

    `asked` counts those without scores as judged, for judges of a whole folder.
    """
    counts = dict.fromkeys(("judged", "failed", "refused", "broken", "not_asked"), 0)
    reasons: Counter[str] = Counter()
    for reading in readings.values():
        if isinstance(reading, Exception):
            reasons[str(reading)] += 1
            counts[_kind_of(reading)] += 1
        else:
            counts["judged" if asked or _numbers(reading) else "not_asked"] += 1
    return counts, dict(reasons.most_common(20))


def table(summary: Mapping[str, Any]) -> str:
    """A summary as lines of text."""
    others = {key: summary[key] for key in ("failed", "refused", "broken", "not_asked") if summary[key]}
    told = "".join(f", {count} {key.replace('_', ' ')}" for key, count in others.items())
    lines = [f"{summary['judge']}: {summary['judged']} of {summary['pictures']} pictures judged{told}"]
    for name, found in summary["totals"].items():
        interval = f"  ({found['low']:.4g} to {found['high']:.4g})" if "low" in found else ""
        lines.append(f"  {name:<24} {found['value']:>9.4g}{interval}")
    for key, values in summary["by"].items():
        for value, totals in values.items():
            shown = ", ".join(f"{name} {found['value']:.4g}" for name, found in list(totals.items())[:3])
            lines.append(f"  {key} {value}: {shown}")
    return "\n".join([*lines, *(f"  {count} x {reason}" for reason, count in list(summary["reasons"].items())[:5])])


def _read(judge: Any, pictures: Sequence[np.ndarray], records: Sequence[Record]) -> list[Reading]:
    if isinstance(judge, PictureJudge):
        return judge.read(pictures, records)
    scores = judge.score(pictures, records)
    return [{name: column[index] for name, column in scores.items()} for index in range(len(records))]


def _parts(drawn: Sequence[DrawnPicture], batch: int, whole_prompts: bool) -> Iterator[Sequence[DrawnPicture]]:
    if whole_prompts:
        groups: dict[str, list[DrawnPicture]] = defaultdict(list)
        for each in drawn:
            groups[each.id].append(each)
        yield from groups.values()
    else:
        yield from (drawn[start : start + batch] for start in range(0, len(drawn), batch))


def _kind_of(error: Exception) -> str:
    if isinstance(error, (UnreadableError, NoWordsError)):
        return "refused"
    return "failed" if isinstance(error, EndpointError) else "broken"


def _numbers(reading: Reading) -> dict[str, float]:
    if isinstance(reading, Exception):
        return {}
    return {name: float(value) for name, value in reading.items() if math.isfinite(value)}


def _why(reading: Reading) -> dict[str, str]:
    return {_kind_of(reading): str(reading)} if isinstance(reading, Exception) else {}


def _tags(picture: DrawnPicture) -> dict[str, str]:
    told = dict(picture.meta) | {"suite": picture.suite}
    return {key: str(told[key]) for key in BY if isinstance(told.get(key), str) and told[key]}


def _totals(scores: Mapping[str, Mapping[str, float]], rows: Mapping[str, DrawnPicture]) -> dict[str, dict[str, float]]:
    """By score, the mean with its interval over prompts; `count` are pictures."""
    found = {}
    for name in dict.fromkeys(name for own in scores.values() for name in own):
        files = [file for file, own in scores.items() if name in own]
        mean = over_prompts([scores[file][name] for file in files], [rows[file].id for file in files])
        found[name] = dataclasses.asdict(mean)
    return found


def _by(
    scores: Mapping[str, Mapping[str, float]], rows: Mapping[str, DrawnPicture], tags: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, Any]]:
    found = {}
    for key in BY:
        values = dict.fromkeys(own[key] for file, own in tags.items() if key in own and scores[file])
        if 1 < len(values) <= MOST:
            each = {v: {f: scores[f] for f, own in tags.items() if own.get(key) == v} for v in values}
            found[key] = {value: _totals(own, rows) for value, own in each.items()}
    return found
