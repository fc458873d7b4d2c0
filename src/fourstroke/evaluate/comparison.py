"""Folders of drawn pictures side by side: what judges said of each, on the same prompts, as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourstroke.evaluate.drawn import ROWS, SCORES, DrawnPicture, read_drawn, read_recipe, read_scores
from fourstroke.evaluate.paired import difference_of, mean_of, prompt_means, wins_of
from fourstroke.evaluate.statistics import Share
from fourstroke.image_io import ImageError, image_size
from fourstroke.textfile import TextError, parse_json

LOWER = frozenset(("flat_noise", "grid_artefact", "grid_of_all", "fid", "cmmd"))
"""Scores of which less is better."""
NEITHER = frozenset(("saturation", "contrast", "sharpness"))
"""Readings of which neither more nor less is better: they are compared, and nobody wins."""

Key = tuple[str, int]
"""A prompt's id and the picture's number among those of the prompt: who has the same key was asked the same."""


@dataclass(frozen=True)
class Entry:
    """One of those that are compared."""

    name: str
    folder: Path
    pictures: dict[Key, DrawnPicture]
    """Those that are there and whole."""
    lost: int
    """Pictures that have a row and are missing or broken."""
    scores: dict[str, dict[str, dict[Key, float]]]
    """By judge and by score."""
    totals: dict[str, dict[str, float]]
    """By judge, scores of the folder as a whole."""
    recipe: Mapping[str, Any]


def read_entries(folders: Sequence[Path]) -> list[Entry]:
    """Read folders; those without rows are matched to the first with rows by the places of their pictures.

    Raises:
        ValueError: if one is no folder of pictures, or they share no prompt.
    """
    listed = [read_drawn(folder) for folder in folders]
    model = next((rows for folder, rows in zip(folders, listed, strict=True) if (folder / ROWS).is_file()), [])
    known = _keys(model)
    places = {_stem(row.file): known[row.file] for row in model}
    entries = []
    for folder, rows, name in zip(folders, listed, _names(folders), strict=True):
        own = _keys(rows)
        if not (folder / ROWS).is_file() and any(_stem(row.file) in places for row in rows):
            own = {row.file: places.get(_stem(row.file), own[row.file]) for row in rows}
        entries.append(_entry(name, folder, rows, own))
    shared = set.intersection(*({key[0] for key in entry.pictures} for entry in entries))
    if not shared:
        raise ValueError(f"{' and '.join(map(str, folders))} have no prompt in common: draw the same suite with each")
    return entries


def compare(entries: Sequence[Entry]) -> dict[str, Any]:
    """Means of each, and differences and wins of every pair, on the pictures that all have; as plain data.

    Only pictures that all have and a judge has scored for all count, so that every figure of a row is of the same
    prompts.
    """
    found: list[dict[str, Any]] = []
    for judge in dict.fromkeys(judge for entry in entries for judge in entry.scores):
        known = [entry.scores.get(judge, {}) for entry in entries]
        for name in dict.fromkeys(name for scores in known for name in scores):
            found.append(_score(judge, name, [scores.get(name, {}) for scores in known]))
    return {
        "entries": [_told(entry) for entry in entries],
        "prompts": len(set.intersection(*({key[0] for key in entry.pictures} for entry in entries))),
        "scores": found,
        "totals": _totals(entries),
    }


def _score(judge: str, name: str, columns: Sequence[Mapping[Key, float]]) -> dict[str, Any]:
    """A row of the table; columns of entries that the judge has not seen stay empty."""
    there = [column for column in columns if column]
    common = [key for key in there[0] if all(key in column for column in there)]
    prompts = {str(key): key[0] for key in common}
    means = [prompt_means({str(key): column[key] for key in common}, prompts) if column else {} for column in columns]
    return {
        "judge": judge,
        "score": name,
        "better": None if name in NEITHER else "lower" if name in LOWER else "higher",
        "pictures": len(common),
        "means": [_plain(mean_of(values)) if values else None for values in means],
        "differences": [[_plain(difference_of(a, b)) for b in means] for a in means],
        "wins": [
            [None if name in NEITHER or a is b else _plain(wins_of(a, b, name not in LOWER)) for b in means]
            for a in means
        ],
    }


def _plain(share: Share | None) -> dict[str, float] | None:
    return None if share is None else dataclasses.asdict(share)


def _told(entry: Entry) -> dict[str, Any]:
    first = next(iter(entry.pictures.values()))
    keys = "suite", "source", "language", "seed", "repeats", "enhanced"
    return {
        "name": entry.name,
        "folder": str(entry.folder),
        "model": first.model,
        "steps": first.steps,
        "guidance": first.guidance,
        "pictures": len(entry.pictures),
        "lost": entry.lost,
        "rewritten": sum(bool(picture.asked) for picture in entry.pictures.values()),
        "recipe": {key: entry.recipe[key] for key in keys if entry.recipe.get(key) is not None},
    }


def _totals(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Scores of whole folders, which have no interval over prompts."""
    names = dict.fromkeys((judge, name) for entry in entries for judge in entry.totals for name in entry.totals[judge])
    return [
        {
            "judge": judge,
            "score": name,
            "better": None if name in NEITHER else "lower" if name in LOWER else "higher",
            "values": [entry.totals.get(judge, {}).get(name) for entry in entries],
        }
        for judge, name in names
    ]


def _entry(name: str, folder: Path, rows: Sequence[DrawnPicture], keys: Mapping[str, Key]) -> Entry:
    pictures = {keys[row.file]: row for row in rows if _whole(row)}
    if not pictures:
        raise ValueError(f"none of the {len(rows)} pictures of {folder} is there and whole")
    files = {row.file: key for key, row in pictures.items()}
    scores: dict[str, dict[str, dict[Key, float]]] = {}
    for judge, seen in read_scores(folder).items():
        for file, values in seen.items():
            for score, value in values.items():
                if file in files:
                    scores.setdefault(judge, {}).setdefault(score, {})[files[file]] = value
    return Entry(name, folder, pictures, len(rows) - len(pictures), scores, _whole_folder(folder), read_recipe(folder))


def _whole_folder(folder: Path) -> dict[str, dict[str, float]]:
    """From judges' summaries, those scores that have no interval, since they are of all pictures together."""
    found: dict[str, dict[str, float]] = {}
    for file in sorted((folder / SCORES).glob("*.json")):
        try:
            told = parse_json(file.read_bytes())
        except (TextError, OSError):
            continue
        totals = told.get("totals") if isinstance(told, dict) else None
        for name, value in totals.items() if isinstance(totals, dict) else ():
            if isinstance(value, dict) and "low" not in value and isinstance(value.get("value"), int | float):
                found.setdefault(file.stem, {})[name] = float(value["value"])
    return found


def _keys(rows: Sequence[DrawnPicture]) -> dict[str, Key]:
    """By file, its prompt and its number among the prompt's pictures, by seed."""
    numbers: dict[str, int] = {}
    found = {}
    for row in sorted(rows, key=lambda row: (row.id, -1 if row.seed is None else row.seed, row.file)):
        found[row.file] = row.id, numbers.get(row.id, 0)
        numbers[row.id] = numbers.get(row.id, 0) + 1
    return found


def _whole(row: DrawnPicture) -> bool:
    """Whether a picture is there, by its header."""
    try:
        with row.path.open("rb") as file:
            image_size(file)
    except (OSError, ImageError):
        return False
    return True


def _stem(file: str) -> str:
    return file.rpartition(".")[0] or file


def _names(folders: Sequence[Path]) -> list[str]:
    """Folders' names, with as much of what stands before them as tells them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-depth:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError("the same folder is named twice")
