"""The chapter of what needs no judge: how pictures of one prompt differ, and what few steps do to colours and edges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fourstroke.data.sample import DatasetConfig, Record, SampleError
from fourstroke.evaluate.data import parts
from fourstroke.evaluate.image_metrics import diversity, image_metrics, stack
from fourstroke.evaluate.report.chapter import ALL, LeftOutError, Question, Rows, Scores, Unit
from fourstroke.folder import ModelInfo

SEEDS, SHARE = 4, 8
"""Pictures of a prompt, and the part of n that is drawn in so many."""


@dataclass(frozen=True, kw_only=True)
class VarietyChapter:
    """Diversity, saturation, noise and grids."""

    kind: ClassVar[str] = "variety"
    title: ClassVar[str] = "Variety and looks"
    about: ClassVar[str] = (
        f"Each prompt from {SEEDS} seeds. Diversity is the distance between two pictures of a prompt, 0 to 1; noise "
        "and grid are in grey levels of 255. A student should have its teacher's figures."
    )
    units: ClassVar[Mapping[str, Unit]] = dict.fromkeys(
        ("diversity", "saturation", "contrast", "sharpness", "flat_noise", "grid_artefact"), ""
    )

    def rows(self, data: DatasetConfig, n: int, info: ModelInfo) -> Rows:
        """Captions of the first dataset that has some; raises LeftOutError without one."""
        for part in parts(data):
            prompts = dict.fromkeys(caption for _, caption in zip(range(max(1, n // SHARE)), _captions(part)))
            if prompts:
                size = info.width, info.height
                return {ALL: [_question(prompt, 1000 * place, size) for place, prompt in enumerate(prompts)]}
        raise LeftOutError("no dataset has captions without input images")


def _captions(config: DatasetConfig) -> Iterator[str]:
    """The first and the last caption of held-out samples in turn."""
    data = config.open("heldout")
    for index in range(len(data)):
        try:
            record: Record = data.record(index)
        except SampleError:
            continue
        if record.captions and not record.inputs:
            yield record.captions[-(index % 2)].text


def _question(prompt: str, first: int, size: tuple[int, int]) -> Question:
    def judge(pictures: Sequence[np.ndarray]) -> Scores:
        seen = stack(pictures)
        found = {"diversity": diversity(seen[None])} | image_metrics(seen)
        return {name: (value, 1) for name, value in found.items()}

    return Question(prompt=prompt, judge=judge, judged="looks", size=size, seeds=tuple(range(first, first + SEEDS)))
