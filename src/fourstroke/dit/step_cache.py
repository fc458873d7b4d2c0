"""Steps that skip most blocks: neighbouring steps of many differ little (first-block caching, as in ParaAttention).

The first block runs at every step. Where it adds almost what it added at the last step that ran whole, the other blocks
would too, and what they added then is added again. Results are near those of all blocks, not equal: for models of many
steps, and for whoever asks (`docs/how/flow.md` has the price). A distilled student's few steps differ too much to gain.
"""

from __future__ import annotations

from torch import Tensor, float32


class FirstBlockCache:
    """The walk of one row through its steps; a new one for every picture, and for each side of guidance.

    `threshold` is the change of what the first block adds, mean over mean of magnitudes, under which the other blocks
    are skipped; `skipped` counts the steps that were.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold, self.skipped = threshold, 0
        self._first: Tensor | None = None
        self._rest: Tensor | None = None

    def recall(self, first: Tensor) -> Tensor | None:
        """What the blocks after the first add, if they need not run; of a step that runs, remember the first's."""
        if self._first is not None and self._rest is not None:
            change = (first - self._first).abs().mean(dtype=float32) / self._first.abs().mean(dtype=float32)
            if change < self.threshold:
                self.skipped += 1
                return self._rest
        self._first = first
        return None

    def keep(self, rest: Tensor) -> None:
        """Remember what the blocks after the first added in a step that ran whole."""
        self._rest = rest
