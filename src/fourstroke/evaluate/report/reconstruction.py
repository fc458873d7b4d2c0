"""The chapter of the autoencoder: what is left of held-out pictures and photographs."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fourstroke.data.images import crop_to_multiple
from fourstroke.data.sample import DatasetConfig, SampleError
from fourstroke.evaluate.data import parts
from fourstroke.evaluate.models import as_tensor
from fourstroke.evaluate.reading import can_read, similarity
from fourstroke.evaluate.reconstruction import photographs, read_all, ssim
from fourstroke.evaluate.report.chapter import Question, Rows, Scores, Unit
from fourstroke.folder import ModelInfo
from fourstroke.image_io import ImageError
from fourstroke.vae.losses import psnr

READ = 50
"""So many pictures of each dataset are read at most."""


@dataclass(frozen=True, kw_only=True)
class ReconstructionChapter:
    """Copies of held-out pictures by the autoencoder."""

    kind: ClassVar[str] = "reconstruction"
    title: ClassVar[str] = "Reconstruction"
    about: ClassVar[str] = (
        "Held-out pictures of each dataset, and photographs that come with scikit-image, through the autoencoder and "
        f"back. NED compares what is read in both, where there are words (of the first {READ} of each)."
    )
    units: ClassVar[Mapping[str, Unit]] = {"psnr": "dB", "ssim": "", "ned": ""}

    def rows(self, data: DatasetConfig, n: int, info: ModelInfo) -> Rows:
        """By dataset; photographs where scikit-image is installed."""
        found: dict[str, list[Question]] = {}
        for part in parts(data):
            pictures = itertools.islice(_held_out(part, info.factor), n)
            found.setdefault(part.kind, []).extend(
                _question(picture, f"{part.kind} {number}", number < READ) for number, picture in enumerate(pictures)
            )
        with contextlib.suppress(ValueError):
            photos = photographs().items()
            found["photographs"] = [_question(crop_to_multiple(p, info.factor), name, False) for name, p in photos]
        return {name: questions for name, questions in found.items() if questions}


def _held_out(config: DatasetConfig, multiple: int) -> Iterator[np.ndarray]:
    data = config.open("heldout")
    for index in range(len(data)):
        with contextlib.suppress(SampleError, ImageError):
            yield crop_to_multiple(data.sample(index).image, multiple)


def _question(picture: np.ndarray, name: str, read: bool) -> Question:
    def judge(pictures: Sequence[np.ndarray]) -> Scores:
        x, y = (as_tensor(each)[None, :3] for each in (picture, pictures[0]))
        ratio = float(psnr(y, x))
        found = {"psnr": (ratio, 1.0)} if math.isfinite(ratio) else {}  # an exact copy has none
        found["ssim"] = float(ssim(y, x)), 1.0
        if read and can_read() and (words := read_all(picture[..., :3])):
            found["ned"] = similarity(words, read_all(pictures[0])), 1.0
        return found

    height, width = picture.shape[:2]
    return Question(prompt=name, judge=judge, judged=f"copy{' read' * read}", size=(width, height), original=picture)
