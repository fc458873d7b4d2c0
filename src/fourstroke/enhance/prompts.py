"""Requests as records, from triplets or from any file of prompts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fourstroke.data.sample import Caption, Record, Size
from fourstroke.enhance.protocol import clean
from fourstroke.enhance.triplet import Triplet
from fourstroke.textfile import TextError, decode, parse_json, read_lines

KEYS = ("prompt", "short", "caption")


def request(name: str, text: str, size: Size, meta: dict[str, object] | None = None) -> Record:
    """A request as a record, to be drawn at a size."""
    return Record(name=name, size=size, captions=(Caption(text, "request"),), meta=meta or {})


def requests_of(triplets: Iterable[Triplet], size: Size) -> list[Record]:
    """The short prompts of triplets, with what their makers say of them; those of edits are left out."""
    kept = [triplet for triplet in triplets if triplet.kind == "generate"]
    return [request(str(index), triplet.short, size, dict(triplet.meta)) for index, triplet in enumerate(kept)]


def read_prompts(file: Path, size: Size) -> list[Record]:
    """The prompts of a text file, one a line, or of JSONL rows with `prompt` (or `short`, as triplets have it).

    Other keys of a row go to the record's `meta`; the inner keys of a row's own `meta` too. Rows of edits are left out.

    Raises:
        ValueError: if the file cannot be read, or a row has no prompt; the message names its line.
    """
    if not file.is_file():
        raise ValueError(f"no prompts at {file}; give a text file with one a line, or JSONL rows with a prompt")
    found = []
    for number, line in read_lines(file, "prompts"):
        try:
            row = parse_json(line) if file.suffix in (".jsonl", ".json") else {"prompt": decode(line)}
        except TextError as error:
            raise ValueError(f"{file}, line {number} {error}") from None
        text = next((row[key] for key in KEYS if isinstance(row.get(key), str)), "") if isinstance(row, dict) else ""
        if not isinstance(row, dict) or not clean(text):
            raise ValueError(f"{file}, line {number} has no prompt")
        if row.get("kind") == "edit" or row.get("inputs"):
            continue
        meta = {key: value for key, value in row.items() if key not in (*KEYS, "meta")}
        own = row.get("meta")
        found.append(request(str(number), clean(text), size, meta | (own if isinstance(own, dict) else {})))
    return found
