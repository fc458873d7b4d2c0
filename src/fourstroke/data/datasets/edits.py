"""Edits: pictures before and after, and what was asked for, one in a line of a JSONL file.

A line holds `source` (a path, or a list of them, in order), `instruction` (a text, or several) and `target` (a path);
`mask` names a picture that is white where the edit may change something. Paths are relative to the file. Lines of
other files are read by naming their keys in the recipe.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fourstroke.data.datasets import captions
from fourstroke.data.datasets.items import File, Item, ItemDataset, nothing, of_split
from fourstroke.data.sample import Dataset, Hints, Split
from fourstroke.ranges import Fraction, check_ranges
from fourstroke.textfile import TextError, parse_json, read_lines


@dataclass(frozen=True, kw_only=True)
class EditsData:
    """Edits of a JSONL file."""

    kind: ClassVar[str] = "edits"
    path: Path
    source: str = "source"
    """Key of the picture or pictures before the edit."""
    target: str = "target"
    instruction: tuple[str, ...] = ()
    """Keys of instructions, by which they are known as kinds; the usual ones where this is left out."""
    mask: str = "mask"
    held_out: Fraction = 0.0
    """Share that is kept for validation, chosen by a hash of the target's name."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def open(self, split: Split = "train") -> Dataset:
        """Read the file; raises ValueError if no line of it is an edit whose pictures are there."""
        items: list[Item] = []
        skipped: dict[str, tuple[str, str]] = {}
        seen: set[str] = set()
        for number, line in read_lines(self.path, "edits"):
            try:
                row = parse_json(line)
                item = self._item(row, number, seen) if isinstance(row, dict) else None
                if item is None:
                    raise TextError("is no JSON object")
            except TextError as error:
                skipped[f"{self.path.name}:{number}"] = ("edit", str(error))
                continue
            seen.add(item.name)
            items.append(item)
        if not items:
            raise nothing(f"no edits in {self.path}", skipped)
        kept = of_split(items, split, self.held_out, self.path)
        return ItemDataset(self.path.stem, kept, Hints(skipped=skipped))

    def _item(self, row: Mapping[str, Any], number: int, seen: set[str]) -> Item:
        """The edit of a line; raises TextError."""
        target, sources, mask = row.get(self.target), row.get(self.source), row.get(self.mask)
        sources = [sources] if isinstance(sources, str) else sources
        if not isinstance(target, str) or not isinstance(sources, list) or not sources:
            raise TextError(f"needs {self.target} and {self.source}; it has {', '.join(map(str, row)) or 'nothing'}")
        if not all(isinstance(source, str) for source in sources) or not isinstance(mask, str | None):
            raise TextError(f"{self.source} and {self.mask} should be paths")
        if not (instructions := captions.from_row(row, self.instruction)):
            raise TextError("has no instruction")
        name = target if target not in seen else f"{target}#{number}"
        return Item(
            name=name,
            image=self._file(target),
            captions=instructions,
            inputs=tuple(self._file(source) for source in sources),
            mask=None if mask is None else self._file(mask),
        )

    def _file(self, name: str) -> File:
        path = Path(os.path.normpath(self.path.parent / name))
        if not path.is_file():
            raise TextError(f"names {name}, which is not there")
        return File(path)
