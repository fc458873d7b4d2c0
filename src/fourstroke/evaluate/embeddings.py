"""Judges that compare vectors of networks: a picture with its prompt (CLIP), an edit with the picture before (DINO)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from fourstroke.data.sample import Record
from fourstroke.evaluate.features import FeatureNetwork, unit
from fourstroke.evaluate.judges import INPUTS, PictureJudge, Reading
from fourstroke.evaluate.viescore import input_picture
from fourstroke.image_io import ImageError


@dataclass(frozen=True, kw_only=True)
class ClipJudge:
    """How near a picture is to its prompt: the cosine of CLIP, SigLIP or PickScore, 0 where it is negative.

    CLIP reads the first 77 tokens of a prompt.
    """

    kind: ClassVar[str] = "clip"
    network: str
    """A folder or hub id in transformers' layout."""
    device: str | None = None

    def open(self, folder: Path | None = None) -> ClipReader:
        """The network, loaded; raises ValueError if it is not there or reads no texts."""
        network = FeatureNetwork(self.network, self.device)
        network.texts(["a picture"])
        return ClipReader(network)


class ClipReader(PictureJudge):
    """`clip` of each picture that has a prompt."""

    def __init__(self, network: FeatureNetwork) -> None:
        super().__init__("clip", ("clip",))
        self.network = network

    def read(self, pictures: Sequence[np.ndarray], records: Sequence[Record]) -> list[Reading]:
        """In [0, 1]."""
        texts = [record.captions[0].text if record.captions else "" for record in records]
        rows = [index for index, text in enumerate(texts) if text.strip()]
        if not rows:
            return [{} for _ in records]
        seen = unit(self.network.pictures([pictures[index] for index in rows]))
        cosines = (seen * unit(self.network.texts([texts[index] for index in rows]))).sum(-1)
        found = dict(zip(rows, cosines.clamp(0, 1).tolist(), strict=True))
        return [{"clip": found[index]} if index in found else {} for index in range(len(records))]


@dataclass(frozen=True, kw_only=True)
class DinoJudge:
    """How near an edit is to the first picture before it: the cosine of DINOv2's vectors, 0 where it is negative."""

    kind: ClassVar[str] = "dino"
    network: str
    """A folder or hub id in transformers' layout."""
    device: str | None = None

    def open(self, folder: Path | None = None) -> DinoReader:
        """The network, loaded; raises ValueError if it is not there."""
        return DinoReader(FeatureNetwork(self.network, self.device))


class DinoReader(PictureJudge):
    """`dino` of each picture that was edited from another."""

    def __init__(self, network: FeatureNetwork) -> None:
        super().__init__("dino", ("dino",))
        self.network = network

    def read(self, pictures: Sequence[np.ndarray], records: Sequence[Record]) -> list[Reading]:
        """In [0, 1]; an edit whose picture before cannot be read has none."""
        found: list[Reading] = []
        for picture, record in zip(pictures, records, strict=True):
            inputs = record.meta.get(INPUTS, ())
            try:
                both = [picture, *(input_picture(path).pixels for path in inputs[:1])]
            except ImageError as error:
                found.append(error)
                continue
            if len(both) < 2:
                found.append({})
            else:
                after, before = unit(self.network.pictures(both))
                found.append({"dino": float((after * before).sum().clamp(0, 1))})
        return found
