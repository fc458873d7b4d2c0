"""A folder of pictures, with captions beside them or in one file.

Captions lie in a `.txt`, `.caption` or `.json` of the picture's name, or in one `metadata.jsonl` or `metadata.csv`,
whose rows name their picture as `file_name` (Hugging Face's imagefolder). A folder `12_name` is read as kohya's
trainers do: its pictures come twelve times an epoch, and `name` is the caption of those that have none.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fourstroke.data.datasets import captions
from fourstroke.data.datasets.items import SUFFIXES, File, Item, ItemDataset, nothing, of_split
from fourstroke.data.sample import Caption, Dataset, Hints, Split
from fourstroke.ranges import Fraction, check_ranges
from fourstroke.textfile import TextError, parse_json, read_lines

METADATA = ("metadata.jsonl", "metadata.csv")
REPEATED = re.compile(r"(\d+)_(.+)")


@dataclass(frozen=True, kw_only=True)
class FolderData:
    """Pictures of a folder and all below it; hidden files are passed over."""

    kind: ClassVar[str] = "folder"
    path: Path
    captions: tuple[str, ...] = ()
    """Keys or columns that hold captions, by which they are known as kinds; the usual ones where this is left out."""
    held_out: Fraction = 0.0
    """Share that is kept for validation, chosen by a hash of the name."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def open(self, split: Split = "train") -> Dataset:
        """List the folder; raises ValueError if there is no picture in it."""
        if not self.path.is_dir():
            raise ValueError(f"no pictures at {self.path}: there is no such folder")
        files = _files(self.path)
        skipped: dict[str, tuple[str, str]] = {}
        rows = _metadata(self.path, files, skipped, self.captions)
        items = [
            self._item(name, path, files, rows.pop(name, {}))
            for name, path in files.items()
            if path.suffix.lower() in SUFFIXES
        ]
        skipped |= dict.fromkeys(rows, ("missing", "the metadata names it, and it is not there"))
        if not items:
            raise nothing(f"no pictures in {self.path}: none of {' '.join(sorted(SUFFIXES))}", skipped)
        kept = of_split(items, split, self.held_out, self.path)
        repeats = [item.repeat for item in kept]
        hints = Hints(repeats=repeats if max(repeats) > 1 else (), skipped=skipped)
        return ItemDataset(self.path.name, kept, hints, self.captions)

    def _item(self, name: str, path: Path, files: Mapping[str, Path], row: Mapping[str, Any]) -> Item:
        stem = name.removesuffix(path.suffix)
        notes = [(note, File(files[note])) for suffix in captions.SUFFIXES if (note := stem + suffix) in files]
        found = captions.from_row(row, self.captions)
        repeated = REPEATED.fullmatch(path.parent.name) if path.parent != self.path else None
        if repeated and not notes and not found:
            found = (Caption(repeated[2]),)
        repeat = max(1, int(repeated[1])) if repeated else 1
        return Item(name=name, image=File(path), captions=found, notes=tuple(notes), repeat=repeat)


def _files(root: Path) -> dict[str, Path]:
    """Every file that is not hidden, by its path from the root, in order."""
    found = {}
    for folder, below, names in os.walk(root, followlinks=True):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in names:
            if not name.startswith("."):
                path = Path(folder, name)
                found[path.relative_to(root).as_posix()] = path
    return dict(sorted(found.items()))


def _metadata(
    root: Path, files: Mapping[str, Path], skipped: dict[str, tuple[str, str]], keys: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Rows by picture; what cannot be used is added to `skipped`."""
    rows: dict[str, dict[str, Any]] = {}
    for name, path in files.items():
        if path.name not in METADATA:
            continue
        folder, own = path.parent.relative_to(root), dict[str, dict[str, Any]]()
        try:
            for number, row in _table(path) if path.suffix == ".csv" else _lines(path, name, skipped):
                picture = row.get("file_name")
                if not isinstance(picture, str):
                    skipped[f"{name}:{number}"] = ("metadata", f"has no file_name, only {', '.join(map(str, row))}")
                    continue
                own[os.path.normpath(folder / picture).replace(os.sep, "/")] = row
        except (TextError, OSError, UnicodeError, csv.Error) as error:
            said = (
                f"is not UTF-8 ({error.reason}): save it as UTF-8" if isinstance(error, UnicodeDecodeError) else error
            )
            skipped[name] = ("metadata", " ".join(str(said).split()))
        if own and not any(captions.from_row(row, keys) for row in own.values()):
            there = ", ".join(map(str, next(iter(own.values()))))
            skipped[name] = ("metadata", f"has no captions, only {there}: name their columns in data.captions")
        rows |= own
    return rows


def _lines(path: Path, name: str, skipped: dict[str, tuple[str, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in read_lines(path, "metadata"):
        try:
            row = parse_json(line)
            if not isinstance(row, dict):
                raise TextError("is no JSON object")
        except TextError as error:
            skipped[f"{name}:{number}"] = ("metadata", str(error))
            continue
        yield number, row


def _table(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if "file_name" not in (reader.fieldnames or ()):
            raise TextError(f"has no column file_name, only {', '.join(reader.fieldnames or ()) or 'none'}: rename it")
        for row in reader:
            yield reader.line_num, {key: value for key, value in row.items() if key is not None}
