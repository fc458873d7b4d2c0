"""What a judge of pictures is. Kinds are offered in this package's `__init__`; guests bring their own.

One protocol serves `fourstroke eval judge`, the held-out judge and the rewards of reinforcement, and validators. Most
judges look at one picture at a time; some need all pictures of a prompt, or all of a folder, and say so by `reach`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Protocol

import numpy as np

from fourstroke.data.sample import Record
from fourstroke.enhance.endpoint import EndpointError, NoWordsError
from fourstroke.registry import Registered

Reach = Literal["picture", "prompt", "folder"]
"""What a judge must see at once: a picture, all of a prompt (of a record's name), or all of a folder."""
INPUTS = "input_files"
"""The key of a record's `meta` that names the pictures an edit began with, in order."""


class Judge(Protocol):
    """Scores pictures against what was asked."""

    def score(self, pictures: Sequence[np.ndarray], records: Sequence[Record]) -> dict[str, list[float]]:
        """Named readings, one for each picture, (height, width, 3 or 4) uint8; NaN where there is none.

        What was asked is the first caption of a picture's record; its `meta` may say more. Readings lie in [0, 1], the
        more the better, unless the judge says otherwise; as rewards others are mapped there.
        """


class JudgeKind(Protocol):
    """A kind of judge in a recipe: a frozen dataclass of its options."""

    kind: ClassVar[str]

    def open(self, folder: Path | None = None) -> Judge:
        """The judge; one that learns first keeps itself in `folder`, and is taken from there the next time."""


JudgeOption = Annotated[JudgeKind, Registered("judges")]
"""A recipe's key that names a judge: `judge: {kind: vision, endpoint: {url: …, model: …}}`."""

Reading = Mapping[str, float] | Exception
"""Of one picture: its scores by name, none where nothing was asked for, or why it has none."""


class PictureJudge(ABC):
    """A judge that says of each picture why it has no scores."""

    reach: ClassVar[Reach] = "picture"

    def __init__(self, called: str, names: Sequence[str] = ()) -> None:
        """`called` is what messages call it; `names` are scores that it always has."""
        self.called, self.names = called, names
        self.refused: Counter[str] = Counter()
        """Why pictures went without scores, by reason, over all calls of `score`."""

    @abstractmethod
    def read(self, pictures: Sequence[np.ndarray], records: Sequence[Record]) -> list[Reading]:
        """Of each picture its scores, or the error for which it has none."""

    def score(self, pictures: Sequence[np.ndarray], records: Sequence[Record]) -> dict[str, list[float]]:
        """By name, the score of each picture; NaN where there is none.

        Raises:
            EndpointError: if an endpoint fails for every picture.
        """
        found = self.read(pictures, records)
        raise_if_dead(found)
        if failed := [reading for reading in found if isinstance(reading, Exception)]:
            self.refused.update(str(error) for error in failed)
            print(f"{self.called}: {len(failed)} of {len(found)} unscored: {failed[0]}", flush=True)
        return columns(found, self.names)

    def totals(self) -> dict[str, float]:
        """What is said of all pictures that were read together."""
        return {}

    def groups(self, record: Record) -> dict[str, str]:
        """What a picture may be counted by, beside what its suite says of it: a script, a language."""
        return {}


def raise_if_dead(found: Sequence[Reading]) -> None:
    """Raise the first error if an endpoint failed for every picture: it will for the next ones too."""
    broken = [error for error in found if isinstance(error, EndpointError) and not isinstance(error, NoWordsError)]
    if broken and len(broken) == len(found):
        raise broken[0]


def columns(found: Sequence[Reading], names: Sequence[str] = ()) -> dict[str, list[float]]:
    """By name, those of `names` first, the score of each picture; NaN where there is none."""
    rows = [{} if isinstance(reading, Exception) else reading for reading in found]
    names = [*dict.fromkeys([*names, *(name for row in rows for name in row)])]
    return {name: [row.get(name, math.nan) for row in rows] for name in names}
