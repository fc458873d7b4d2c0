"""What a distillation draws: prompts of the latent cache of a world, or lines of a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fourstroke.dit.layout import Grid
from fourstroke.textfile import TextError, decode, parse_json, read_lines


@dataclass(frozen=True, kw_only=True)
class PromptSet:
    """Prompts of one size, each in a short and a rich wording (the same, where there is one); `latents` (N, tokens, C)
    are the pictures behind them, None where there are none.
    """

    short: list[str]
    rich: list[str]
    grid: Grid
    latents: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rich)


def read_prompts(file: Path, grid: Grid) -> PromptSet:
    """One prompt a line: plain text, or JSON objects with `rich` and perhaps `short`, or `prompt`.

    Raises:
        ValueError: a missing or empty file, or a line that is neither; the message names the line.
    """
    short, rich = [], []
    for number, line in read_lines(file, "prompts"):
        try:
            plain = decode(line).strip()
            found = parse_json(plain) if plain.startswith("{") else {"rich": plain}
        except TextError as error:
            raise ValueError(f"{file}, line {number} {error}") from None
        text = found.get("rich") or found.get("prompt")
        terse = found.get("short") or text
        if not isinstance(text, str) or not isinstance(terse, str):
            raise ValueError(
                f"{file}, line {number} has neither 'rich' nor 'prompt' as text, or a 'short' that is none"
            )
        rich.append(text)
        short.append(terse)
    if not rich:
        raise ValueError(f"{file} holds no prompt")
    return PromptSet(short=short, rich=rich, grid=grid)
