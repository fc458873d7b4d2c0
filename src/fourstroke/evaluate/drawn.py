"""A folder of drawn pictures: what each shows, how it was drawn, and what judges said of it.

`pictures.jsonl` has a row for each picture, written when the picture is whole; `recipe.json` says how all were drawn;
`scores/JUDGE.jsonl` has a row for each picture that a judge has seen. Pictures themselves lie where the official scorer
of their suite looks for them. A folder without rows is read too, so that pictures of other models can be judged.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from PIL import Image

from fourstroke.files import append_line
from fourstroke.image_io import open_image
from fourstroke.textfile import TextError, decode, parse_json, read_lines

ROWS, RECIPE, SCORES = "pictures.jsonl", "recipe.json", "scores"
OURS = frozenset((SCORES, "inputs", "grids"))
"""Folders beside the pictures that hold none of them: of judges, of pictures to edit, of what was put together."""
SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"))


@dataclass(frozen=True, kw_only=True)
class DrawnPicture:
    """A row of `pictures.jsonl`."""

    file: str
    """Relative to the folder, with forward slashes."""
    folder: Path = field(default=Path(), compare=False)
    """Where the row was read; not part of it."""
    id: str
    """Of the prompt, in its suite; pictures of several seeds share it."""
    prompt: str
    """What was drawn."""
    asked: str = ""
    """The suite's prompt, where an enhancer rewrote it."""
    seed: int | None = None
    inputs: tuple[str, ...] = ()
    """Pictures that an edit began with: absolute, or relative to this folder or to the suite's download."""
    suite: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """The suite's own row: tags, questions, words to be read."""
    model: str = ""
    steps: int | None = None
    guidance: float | None = None
    source: str = field(default="", compare=False)
    """The suite's download, as `recipe.json` names it; not part of the row."""

    @property
    def path(self) -> Path:
        """The picture's file."""
        return self.folder / self.file

    @property
    def wanted(self) -> str:
        """What the suite asked for, whoever rewrote it: what judges go by."""
        return self.asked or self.prompt

    @property
    def input_paths(self) -> tuple[Path, ...]:
        """The files of the inputs, in order."""
        places = (self.folder, Path(self.source))
        return tuple(
            next((place / name for place in places if (place / name).is_file()), self.folder / name)
            for name in self.inputs
        )

    def open(self) -> Image.Image:
        """The picture, as `image_io.to_rgb` gives it; raises ImageError."""
        return open_image(self.path)

    def row(self) -> dict[str, Any]:
        """As JSON; what is not known is left out."""
        told = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.compare}
        told["inputs"], told["meta"] = list(self.inputs), dict(self.meta)
        due = "file", "id", "prompt"
        return {name: value for name, value in told.items() if name in due or value not in ("", None, [], {})}


def append(folder: Path, picture: DrawnPicture) -> None:
    """Add a row, whichever processes do so at the same time; half a row that a kill left behind is cut off."""
    append_row(folder / ROWS, picture.row())


def append_row(file: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a file of JSON lines under its lock; raises WriteError, the file as it was."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab+") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        _cut(locked.fileno())
        append_line(file, json.dumps(row, ensure_ascii=False))


def read_drawn(folder: str | Path) -> list[DrawnPicture]:
    """The pictures of a folder, ordered by file, whether or not the files are still there.

    Without `pictures.jsonl` they are those of the folder and of folders in it: the prompt of each is in a .txt of the
    same name, or in the note that we write into PNGs, or unknown (""), and its name is its id.

    Raises:
        ValueError: if there is no picture, or a row cannot be read; the message names its line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; name one of drawn pictures")
    found = _listed(folder) if (folder / ROWS).is_file() else _seen(folder)
    if not found:
        raise ValueError(f"{folder} holds no drawn picture")
    return [found[file] for file in sorted(found)]


def read_recipe(folder: Path) -> dict[str, Any]:
    """What `recipe.json` says; nothing where there is none. Raises ValueError for another thing of that name."""
    file = folder / RECIPE
    if not file.is_file():
        return {}
    try:
        found = parse_json(file.read_bytes())
    except (TextError, OSError) as error:
        raise ValueError(f"{file}: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file} is no JSON object")
    return found


def read_scores(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    """By judge and by file, its scores; of a file's rows the last counts, and what is no finite number is left out.

    Raises:
        ValueError: for a row that cannot be read; the message names its line.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for file in sorted((Path(folder) / SCORES).glob("*.jsonl")):
        rows = found.setdefault(file.stem, {})
        for number, row in _rows(file, "scores"):
            scores = row.get("scores")
            if not isinstance(row.get("file"), str) or not isinstance(scores, dict):
                raise ValueError(f"{file}, line {number} has no 'file', or no 'scores' by name")
            rows[row["file"]] = {name: float(value) for name, value in scores.items() if _number(value)}
    return found


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _listed(folder: Path) -> dict[str, DrawnPicture]:
    found = {}
    source = str(read_recipe(folder).get("source", ""))
    for number, row in _rows(folder / ROWS, "drawn pictures"):
        try:
            picture = _picture(row, folder, source)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{folder / ROWS}, line {number} {error}") from None
        found[picture.file] = picture
    return found


def _rows(file: Path, what: str) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines with their numbers; half a row at its end is one that is being written."""
    found = []
    for number, line in read_lines(file, what):
        try:
            row = parse_json(line)
            if not isinstance(row, dict):
                raise TextError("is no JSON object")
        except TextError as error:
            if not line.endswith(b"\n"):
                break
            raise ValueError(f"{file}, line {number} {error}") from None
        found.append((number, row))
    return found


TEXTS, NUMBERS = ("file", "id", "prompt", "asked", "suite", "model"), ("seed", "steps", "guidance")


def _picture(row: dict[str, Any], folder: Path, source: str) -> DrawnPicture:
    """Raises ValueError, whose message is a predicate."""
    for name in ("file", "id", "prompt"):
        if name not in row:
            raise ValueError(f"has no {name!r}")
    if not all(isinstance(row.get(name, ""), str) for name in TEXTS):
        raise ValueError(f"has another thing than text as {', '.join(TEXTS[:-1])} or {TEXTS[-1]}")
    if not all(row.get(name) is None or _number(row[name]) for name in NUMBERS):
        raise ValueError(f"has another thing than a number as {', '.join(NUMBERS[:-1])} or {NUMBERS[-1]}")
    if os.path.isabs(row["file"]) or ".." in row["file"].split("/"):
        raise ValueError(f"names a file outside the folder: {row['file']}")
    inputs, meta = row.get("inputs", []), row.get("meta", {})
    if not isinstance(inputs, list) or not all(isinstance(name, str) for name in inputs):
        raise ValueError("has 'inputs' that are no list of files")
    if not isinstance(meta, dict):
        raise ValueError("has a 'meta' that is no object")
    known = {name: row[name] for name in (*TEXTS, *NUMBERS) if row.get(name) is not None}
    return DrawnPicture(**known, inputs=tuple(inputs), meta=meta, folder=folder, source=source)


def _seen(folder: Path) -> dict[str, DrawnPicture]:
    """Pictures that are there, of a folder that nobody described."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    names = [path.relative_to(folder) for path in paths]
    shown = [name for name in names if name.parts[0] not in OURS or len(name.parts) == 1]
    shown = [name for name in shown if not any(part.startswith(".") for part in name.parts)]
    stems = Counter(name.with_suffix("").as_posix() for name in shown)
    found = {}
    for name in shown:
        told = _note(folder / name)
        caption = (folder / name).with_suffix(".txt")
        prompt = told.get("prompt", "")
        if caption.is_file():
            try:
                prompt = decode(caption.read_bytes().removeprefix(b"\xef\xbb\xbf")).strip()
            except TextError as error:
                raise ValueError(f"{caption} {error}") from None
        stem = name.with_suffix("").as_posix()
        found[name.as_posix()] = DrawnPicture(
            file=name.as_posix(), folder=folder, id=stem if stems[stem] == 1 else name.as_posix(), prompt=prompt,
            asked=told.get("request", ""), seed=told.get("seed"), model=told.get("model", ""),
        )  # fmt: skip
    return found


def _note(path: Path) -> dict[str, Any]:
    """What `pictures.write_pictures` wrote into a PNG, if it is one of ours."""
    from fourstroke.pictures import NOTE_KEY  # with torch, which rows do without

    if path.suffix.lower() != ".png":
        return {}
    try:
        with Image.open(path) as image:
            row = json.loads(image.info.get(NOTE_KEY, "{}"))
    except Exception:  # of pictures that are broken, whoever opens them says so
        return {}
    kinds = {"prompt": str, "request": str, "seed": int, "model": str}
    return {
        name: row[name] for name, kind in kinds.items() if isinstance(row, dict) and isinstance(row.get(name), kind)
    }


def _cut(file: int) -> None:
    """Drop what follows the last line feed."""
    end = size = os.lseek(file, 0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        place = os.pread(file, end - start, start).rfind(b"\n")
        if place >= 0:
            end = start + place + 1
            break
        end = start
    if end < size:
        os.ftruncate(file, end)
