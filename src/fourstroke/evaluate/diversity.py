"""How much the pictures of one prompt differ from seed to seed: what students lose first, and no one publishes.

Without weights: the distance between pixels, by which distillation is watched too (`image_metrics.diversity`), and the
Vendi score (Friedman and Dieng 2022, arXiv 2210.02410) of small copies. With weights: distances by DINO or CLIP, with
their Vendi score, by LPIPS, and by DreamSim, which OneIG-Bench takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fourstroke.data.sample import Record
from fourstroke.device import find_device
from fourstroke.evaluate.features import DreamSim, FeatureNetwork, unit
from fourstroke.evaluate.judges import PictureJudge, Reach, Reading
from fourstroke.text.vision import over_white
from fourstroke.vae.lpips import Lpips

SMALL = 16
"""Side of the copies that the Vendi score without weights compares."""


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """Mean distance of a picture to the others of its prompt, and the Vendi score of all: 1 (equal) to their number.

    A prompt with one picture has none. Vendi scores grow with the number of seeds: compare equal numbers.
    """

    kind: ClassVar[str] = "diversity"
    network: str | None = None
    """DINOv2 or CLIP in transformers' layout, a folder or hub id: distances and Vendi score by its vectors, too."""
    lpips: Path | None = None
    """Published LPIPS weights (`vae.lpips`): distances by them, too."""
    dreamsim: Path | None = None
    """A folder of DreamSim's weights, for its own package: distances by it, too, as OneIG-Bench has them."""
    device: str | None = None

    def open(self, folder: Path | None = None) -> DiversityReader:
        """The reader; raises ValueError for weights that are not there."""
        network = None if self.network is None else FeatureNetwork(self.network, self.device)
        lpips = None if self.lpips is None else Lpips.from_pretrained(self.lpips, find_device(self.device))
        return DiversityReader(network, lpips, None if self.dreamsim is None else DreamSim(self.dreamsim, self.device))


class DiversityReader(PictureJudge):
    """Compares the pictures of each prompt, which are the records of one name."""

    reach: ClassVar[Reach] = "prompt"

    def __init__(
        self, network: FeatureNetwork | None = None, lpips: Lpips | None = None, dreamsim: DreamSim | None = None
    ) -> None:
        super().__init__("diversity", ("pixels", "vendi"))
        self.network, self.lpips, self.dreamsim = network, lpips, dreamsim

    def read(self, pictures: Sequence[np.ndarray], records: Sequence[Record]) -> list[Reading]:
        """`pixels` and `vendi`; `features`, `features_vendi`, `lpips` and `dreamsim` with weights."""
        prompts: dict[str, list[int]] = {}
        for index, record in enumerate(records):
            prompts.setdefault(record.name, []).append(index)
        found: list[Reading] = [{} for _ in records]
        for rows in prompts.values():
            if len(rows) > 1:
                for index, reading in zip(rows, self._compare([pictures[index] for index in rows]), strict=True):
                    found[index] = reading
        return found

    def _compare(self, pictures: Sequence[np.ndarray]) -> list[dict[str, float]]:
        x = same_size(pictures)
        small = unit(F.pad(F.interpolate(x, (SMALL, SMALL), mode="area").flatten(1) - 0.5, (0, 1), value=1.0))
        flat = x.flatten(1)
        exact = "donot_use_mm_for_euclid_dist"
        distances = {"pixels": torch.cdist(flat, flat, compute_mode=exact) / flat.shape[1] ** 0.5}
        scores = {"vendi": vendi(small @ small.T)}
        if self.network is not None:
            vectors = unit(self.network.pictures(pictures))
            distances["features"] = 1 - vectors @ vectors.T
            scores["features_vendi"] = vendi(vectors @ vectors.T)
        if self.lpips is not None:
            distances["lpips"] = self._lpips(2 * x - 1)
        if self.dreamsim is not None:
            vectors = unit(self.dreamsim.pictures(pictures))
            distances["dreamsim"] = 1 - vectors @ vectors.T
        means = {name: (values.sum(1) / (len(x) - 1)).tolist() for name, values in distances.items()}
        return [{name: column[index] for name, column in means.items()} | scores for index in range(len(x))]

    @torch.inference_mode()
    def _lpips(self, x: Tensor) -> Tensor:
        assert self.lpips is not None
        found, x = torch.zeros(len(x), len(x)), x.to(self.lpips.get_buffer("mean").device)
        for index in range(len(x) - 1):
            others = x[index + 1 :]
            found[index, index + 1 :] = self.lpips(x[index].expand_as(others), others).cpu()
        return found + found.T


def vendi(similarity: Tensor) -> float:
    """exp of the entropy of the eigenvalues of K / n, for similarities K (n, n) with ones on the diagonal: 1 to n."""
    values = torch.linalg.eigvalsh(similarity.double() / len(similarity)).clamp_min(0)
    return float(torch.special.entr(values / values.sum()).sum().exp())


def same_size(pictures: Sequence[np.ndarray]) -> Tensor:
    """(n, 3, H, W) in [0, 1], over white, of the first one's size."""
    images = [over_white(Image.fromarray(picture)) for picture in pictures]
    resized = [image if image.size == images[0].size else image.resize(images[0].size) for image in images]
    return torch.from_numpy(np.stack([np.asarray(image) for image in resized])).permute(0, 3, 1, 2).float() / 255
