"""What a report asks: chapters of questions, each answered by pictures and read by a judge.

A chapter is a kind (`registry`, group `chapters`) without options; guests bring their own by entry points. It says what
a dataset lets it ask. Drawing, keeping, counting and showing are the report's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from fourstroke.data.sample import DatasetConfig
from fourstroke.evaluate.statistics import Share, share
from fourstroke.folder import ModelInfo

ALL = "all"
"""The row of all questions; a report's sheet shows the first of them."""

Scores = Mapping[str, tuple[float, float]]
"""By name, the sum of what was found in the pictures of a question, and how many things were asked: right ones of so
many, or a number and 1."""
Unit = Literal["%", "dB", ""]
Rows = Mapping[str, Sequence["Question"]]
"""Questions by the row of the table in which they count; one may stand in several."""


class LeftOutError(ValueError):
    """A chapter has nothing to ask of this data, or nothing to judge with; the message says why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """A prompt with what judges its pictures; or, with an `original`, a picture for the autoencoder to copy."""

    prompt: str
    judge: Callable[[Sequence[np.ndarray]], Scores]
    """Gets the pictures of all seeds, each (H, W, 3 or 4) uint8."""
    judged: str
    """The judge's name: what it read of a picture is kept under it."""
    size: tuple[int, int]
    """Width and height in pixels."""
    seeds: tuple[int, ...] = (0,)
    transparent: bool = False
    images: tuple[np.ndarray, ...] = ()
    """To edit, each (H, W, 4) uint8."""
    original: np.ndarray | None = None
    """(H, W, 3 or 4) uint8, of sides that the autoencoder takes."""
    truth: Callable[[], np.ndarray] | None = None
    """Draws the picture that is asked for, (H, W, 3 or 4) uint8."""

    @cached_property
    def key(self) -> str:
        """Of all that its pictures depend on, beside the model."""
        told = json.dumps([self.prompt, self.size, self.transparent])
        found = hashlib.sha256(told.encode())
        for image in (*self.images, *(() if self.original is None else (self.original,))):
            found.update(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes())
        return found.hexdigest()[:20]

    def copied(self) -> Question:
        """The same, answered by the autoencoder's copy of the true picture: a model cannot be expected to do better."""
        assert self.truth is not None
        return dataclasses.replace(self, original=self.truth(), truth=None, images=(), seeds=(0,))


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Two rows of a chapter whose difference is told: `ours` minus `theirs`."""

    ours: str
    theirs: str
    paired: bool = True
    """Whether both ask of the same things, in the same order."""


class Chapter(Protocol):
    """A part of a report."""

    kind: ClassVar[str]
    title: ClassVar[str]
    about: ClassVar[str]
    """What its figures mean, for readers."""
    units: ClassVar[Mapping[str, Unit]]
    """Of readings that are no shares."""

    def rows(self, data: DatasetConfig, n: int, info: ModelInfo) -> Rows:
        """Questions on held-out samples, about n in each row that is worth it; raises LeftOutError."""


@runtime_checkable
class ComparedChapter(Chapter, Protocol):
    """A chapter that also says what is compared."""

    contrasts: ClassVar[Sequence[Contrast]]
    bars: ClassVar[Mapping[str, float]]
    """By reading, what share of its teacher's a student should keep."""


def summarise(readings: Sequence[Scores]) -> dict[str, Share]:
    """By name, the shares or means over questions, with intervals; what no question asks is left out."""
    found = {}
    for name in dict.fromkeys(name for each in readings for name in each):
        pairs = [each[name] for each in readings if name in each]
        value = share([total for total, _ in pairs], [round(count) for _, count in pairs])
        if value is not None:
            found[name] = value
    return found
