"""Captions as people keep them: text files beside pictures, and rows of JSON, CSV or parquet."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fourstroke.data.sample import Caption, SampleError
from fourstroke.textfile import UTF16, TextError, check_text, decode, parse_json

KEYS = ("caption", "captions", "text", "prompt", "description", "instruction")
"""Keys and columns that hold captions wherever nobody names others."""
SUFFIXES = (".txt", ".caption", ".json")
"""Of files with captions."""


def from_row(row: Mapping[str, Any], keys: Sequence[str] = ()) -> tuple[Caption, ...]:
    """The captions of a row, under `keys`, whose names become their kinds, or else under those of `KEYS`.

    A value is a text, a list of texts, `{kind: text}`, or a list of `{"text": …, "kind": …}`; empty ones are left out.
    """
    found: list[Caption] = []
    for key in keys or [key for key in KEYS if key in row]:
        found += _captions(row.get(key), "caption" if key in KEYS[:5] else key)
    return tuple(found)


def from_file(name: str, data: bytes, keys: Sequence[str] = ()) -> tuple[Caption, ...]:
    """The captions in a file whose name ends in one of `SUFFIXES`; raises SampleError if it cannot be read."""
    try:
        text = data.decode("utf-16") if data.startswith(UTF16) else decode(data.removeprefix(codecs.BOM_UTF8))
        if "\0" in text:
            raise TextError("holds null characters, as UTF-16 without its mark does")
        if not name.lower().endswith(".json"):
            return tuple(_captions(check_text(text), "caption"))
        value = parse_json(text)
    except (TextError, UnicodeDecodeError) as error:
        said = str(error) if isinstance(error, TextError) else "is not UTF-16 throughout"
        advice = ": save it as UTF-8" if "UTF-" in said else ""
        raise SampleError(f"its caption {name} {said}{advice}", "caption") from None
    return from_row(value, keys) if isinstance(value, dict) else tuple(_captions(value, "caption"))


def _captions(value: Any, kind: str) -> Iterator[Caption]:
    if isinstance(value, str):
        if text := value.strip():
            yield Caption(text, kind)
    elif isinstance(value, Mapping) and "text" in value:
        own = value.get("kind")
        yield from _captions(value["text"], own if isinstance(own, str) else kind)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _captions(inner, str(name))
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for inner in value:
            yield from _captions(inner, kind)
