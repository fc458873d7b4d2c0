"""What a judge of pictures is. Kinds: `vision` here, a model that sees; guests bring their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Protocol

import numpy as np

from fourstroke.data.sample import Record
from fourstroke.registry import Registered


class Judge(Protocol):
    """Scores pictures against what was asked."""

    def score(self, pictures: Sequence[np.ndarray], records: Sequence[Record]) -> dict[str, list[float]]:
        """Named readings in [0, 1], one for each picture, (height, width, 3 or 4) uint8; NaN where there is none.

        What was asked is the first caption of a picture's record; its `meta` may say more.
        """


class JudgeKind(Protocol):
    """A kind of judge in a recipe: a frozen dataclass of its options."""

    kind: ClassVar[str]

    def open(self, folder: Path | None = None) -> Judge:
        """The judge; one that learns first keeps itself in `folder`, and is taken from there the next time."""


JudgeOption = Annotated[JudgeKind, Registered("judges")]
"""A recipe's key that names a judge: `judge: {kind: vision, endpoint: {url: …, model: …}}`."""
