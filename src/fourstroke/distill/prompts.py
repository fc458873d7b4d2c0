"""What a distillation draws: prompts of the latent cache of a world, or lines of a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fourstroke.dit.layout import Grid


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
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the prompts in {file}: {error}") from None
    short, rich = [], []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        found = {"rich": line}
        if line.startswith("{"):
            try:
                found = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{file}, line {number} is not JSON: {error}") from None
        text = found.get("rich") or found.get("prompt")
        if not isinstance(text, str):
            raise ValueError(f"{file}, line {number} has neither 'rich' nor 'prompt'")
        rich.append(text)
        short.append(found.get("short") or text)
    if not rich:
        raise ValueError(f"{file} holds no prompt")
    return PromptSet(short=short, rich=rich, grid=grid)
