"""Text from outside: files of words, JSON lines, arguments. Behind this door it is valid Unicode, or it is refused.

Files are UTF-8, with or without a byte order mark. What no tokenizer and no file takes is an error here, with a reason,
and not later: bytes that are not UTF-8, and lone surrogates, which JSON can spell and which stand in arguments for such
bytes.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class TextError(ValueError):
    """Text that cannot be used. The message says why; one about a piece of text is its predicate, `is not JSON`."""


def check_text(text: str) -> str:
    """The text itself; raises `TextError` if UTF-8 cannot hold it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(f"is not valid Unicode: character {error.start + 1} is a lone surrogate") from None
    return text


def decode(data: bytes) -> str:
    """UTF-8 to text; raises `TextError` for anything else."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise TextError(f"is not UTF-8, from byte {error.start + 1} on") from None


def parse_json(line: bytes | str) -> Any:
    """A JSON value whose texts, keys included, are all valid Unicode. Raises `TextError`."""
    text = decode(line) if isinstance(line, bytes) else line
    try:
        value = json.loads(text)
        plain = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise TextError("is not JSON that can be read: it is nested too deeply") from None
    except ValueError as error:  # of numbers with thousands of digits, too
        raise TextError(f"is not JSON: {error}") from None
    check_text(plain)
    return value


def read_lines(path: Path, what: str) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not blank, each with its number from 1; only a line feed ends a line.

    They are bytes, so that a reader can refuse one line and go on with the next. `what` they are is for the message.

    Raises:
        TextError: if the file cannot be read, or is UTF-16.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if number == 1:
                    if line.startswith(UTF16):
                        raise TextError(f"cannot read the {what} in {path}: it is UTF-16; save it as UTF-8")
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    yield number, line
    except OSError as error:
        raise TextError(f"cannot read the {what} in {path}: {error.strerror}") from None
