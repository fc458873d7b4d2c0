"""What a distillation draws: prompts of the latent cache of a world, or lines of a file."""

from __future__ import annotations

from dataclasses import dataclass

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
