"""Figures of single pictures that tell a few-step student from its teacher, without a reference and without weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fourstroke.data.sample import Record
from fourstroke.evaluate.image_metrics import PERIOD, grey, grid_places, grid_reading, image_metrics, stack
from fourstroke.evaluate.judges import PictureJudge, Reading
from fourstroke.ranges import Count, check_ranges


@dataclass(frozen=True, kw_only=True)
class Artefacts:
    """Saturation, contrast, sharpness, noise on flat parts, and a grid of the patch's period (`image_metrics`).

    Their scales are their own, and more is not better: compare them with the teacher's.
    """

    kind: ClassVar[str] = "artefacts"
    period: Count = PERIOD
    """Pixels after which a grid repeats: those of a patch of latents, or of several."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def open(self, folder: Path | None = None) -> ArtefactReader:
        """The reader."""
        return ArtefactReader(self.period)


class ArtefactReader(PictureJudge):
    """All figures that a picture is large enough for."""

    def __init__(self, period: int = PERIOD) -> None:
        super().__init__("artefacts", ("saturation", "contrast", "sharpness"))
        self.period = period
        self._places: list[Tensor] = []

    def read(self, pictures: Sequence[np.ndarray], records: Sequence[Record]) -> list[Reading]:
        """Each picture for itself."""
        found: list[Reading] = []
        for picture in pictures:
            x = stack([picture])
            reading = image_metrics(x, self.period)
            found.append(reading)
            if "grid_artefact" in reading:
                self._places.append(grid_places(255 * grey(x), self.period))
        return found

    def totals(self) -> dict[str, float]:
        """`grid_of_all`: a grid that most pictures share; edges in them, such as horizons, do not."""
        return {"grid_of_all": grid_reading(torch.stack(self._places).median(0).values)} if self._places else {}
