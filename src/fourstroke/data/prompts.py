"""Reads files of prompts: one a line, plain text or JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fourstroke.textfile import TextError, decode, parse_json, read_lines


@dataclass(frozen=True)
class PromptLine:
    """A prompt in a rich and a short wording, the same where there is one."""

    rich: str
    short: str


def read_prompts(file: Path) -> list[PromptLine]:
    """All prompts of a file: plain text, or JSON objects with `rich` and perhaps `short`, or `prompt`.

    Raises:
        ValueError: a missing or empty file, or a line that is neither; the message names the line.
    """
    found = []
    for number, line in read_lines(file, "prompts"):
        try:
            plain = decode(line).strip()
            row = parse_json(plain) if plain.startswith("{") else {"rich": plain}
        except TextError as error:
            raise ValueError(f"{file}, line {number} {error}") from None
        rich = row.get("rich") or row.get("prompt")
        short = row.get("short") or rich
        if not isinstance(rich, str) or not isinstance(short, str):
            raise ValueError(
                f"{file}, line {number} has neither 'rich' nor 'prompt' as text, or a 'short' that is none"
            )
        found.append(PromptLine(rich, short))
    if not found:
        raise ValueError(f"{file} holds no prompt")
    return found
