"""A plain file of prompts: .txt (one a line), .jsonl, .json (a list), .csv or .tsv (with a head line)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fourstroke.evaluate.suites.suite import (
    Plain,
    SuitePrompt,
    Wanted,
    csv_rows,
    json_file,
    json_rows,
    locate,
    plain_text,
    text_of,
)  # fmt: skip

PROMPTS = "prompt", "text", "caption", "rich", "instruction"
"""Keys under which a row may have its prompt, the first that it has counts."""
IDS = "id", "name", "key", "index"


@dataclass(frozen=True)
class Lines(Plain):
    """A file of one's own; rows may have an id, and images to edit, relative to the file."""

    kind: ClassVar[str] = "lines"
    repeats: ClassVar[int] = 1
    scorer: ClassVar[str] = "fourstroke eval judge {folder}"

    def read(self, wanted: Wanted) -> Iterator[SuitePrompt]:
        """Its rows; of a prompt that stands there twice without ids, the second is passed over."""
        file = locate(wanted.source, "a file of prompts", "prompts.txt", "prompts.jsonl", "prompts.csv")
        seen: dict[tuple[str, tuple[str, ...]], str] = {}
        for number, row in enumerate(_rows(file)):
            text = text_of(row, *PROMPTS)
            images = row.get("images") or row.get("inputs") or []
            images = [images] if isinstance(images, str) else images
            if not isinstance(images, list) or not all(isinstance(name, str) for name in images):
                raise ValueError(f'{file}, row {number + 1}: write its pictures to edit as "images": ["a.png"]')
            inputs = tuple(str((file.parent / name).resolve()) for name in images)
            name = text_of(row, *IDS) or seen.setdefault((text, inputs), f"{number:05d}")
            yield SuitePrompt(id=name, text=text, meta=row, inputs=inputs)

    def place(self, prompt: SuitePrompt, repeat: int, repeats: int) -> str:
        """All in one folder, named by their ids as far as file names can be."""
        from fourstroke.pictures import slug

        stem = slug(prompt.id, 80)
        if stem != prompt.id:  # two ids may be spelled the same then
            stem = f"{stem}-{hashlib.blake2b(prompt.id.encode(), digest_size=4).hexdigest()}"
        return f"{stem}_{repeat}.png"


def _rows(file: Path) -> Iterable[dict[str, Any]]:
    kind = file.suffix.lower()
    if kind == ".jsonl":
        return json_rows(file)
    if kind in (".csv", ".tsv"):
        return csv_rows(file)
    if kind == ".json":
        found = json_file(file)
        if not isinstance(found, list):
            raise ValueError(f"{file} is no list of prompts")
        return [row if isinstance(row, dict) else {"prompt": row} for row in found]
    if kind == ".txt":
        return [{"prompt": line} for line in plain_text(file).splitlines() if line.strip()]
    raise ValueError(f"{file}: prompts are read from .txt, .jsonl, .json, .csv and .tsv files")
