"""Distances between two sets of pictures by the vectors of a network: FID, its kin, and CMMD.

FID (Heusel et al. 2017) is Fréchet's distance of two normal distributions in Inception's space; with DINOv2 in its
place it agrees better with people (Stein et al. 2023). CMMD (Jayasumana et al. 2024) is the maximum mean discrepancy of
CLIP vectors, a thousand times, which assumes no distribution and needs fewer pictures. The reference is a folder of
true pictures, or for FID an .npz with their `mu` and `sigma`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from fourstroke import progress
from fourstroke.data.images import Images
from fourstroke.data.sample import Record
from fourstroke.evaluate.features import TOGETHER, FeatureNetwork, unit
from fourstroke.evaluate.judges import Reach

BANDWIDTH = 10.0
CMMD_SCALE = 1000.0
BLOCK = 1024
"""Rows of a kernel at a time."""


class Moments:
    """Mean and covariance of vectors that come one after the other, in float64; a chunk's order does not matter."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: Tensor | float = 0.0
        self._products: Tensor | float = 0.0

    def add(self, vectors: Tensor) -> None:
        """(n, d) more."""
        x = vectors.double()
        self.count += len(x)
        self._sum = self._sum + x.sum(0)
        self._products = self._products + x.T @ x

    def result(self) -> tuple[Tensor, Tensor]:
        """Mean (d,) and unbiased covariance (d, d); raises ValueError for fewer than two vectors."""
        if self.count < 2:
            raise ValueError(f"{self.count} pictures are too few for a distance between sets; give two or more")
        assert isinstance(self._sum, Tensor)
        assert isinstance(self._products, Tensor)
        mean = self._sum / self.count
        return mean, (self._products - self.count * mean[:, None] * mean) / (self.count - 1)

    @classmethod
    def of(cls, vectors: Tensor) -> Self:
        """Those of (n, d)."""
        found = cls()
        found.add(vectors)
        return found


def frechet_distance(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """Of two normal distributions (mean, covariance): |a - b|^2 + tr(A + B - 2 (A B)^(1/2)), at least 0.

    The trace of the root is that of (B^(1/2) A B^(1/2))^(1/2), which is symmetric, so that no complex root is taken.
    """
    (mean_a, a), (mean_b, b) = ((m.double(), c.double()) for m, c in (first, second))
    root = _root(b)
    middle = torch.linalg.eigvalsh(root @ a @ root).clamp_min(0).sqrt().sum()
    return max(0.0, float((mean_a - mean_b).square().sum() + a.trace() + b.trace() - 2 * middle))


def cmmd(first: Tensor, second: Tensor) -> float:
    """A thousand times the squared MMD of two sets of vectors, (n, d) and (m, d), brought to length 1 (the paper's
    estimator, which counts a vector with itself), with a Gaussian kernel of bandwidth 10.
    """
    x, y = unit(first.double()), unit(second.double())
    return CMMD_SCALE * (_kernel_mean(x, x) + _kernel_mean(y, y) - 2 * _kernel_mean(x, y))


@dataclass(frozen=True, kw_only=True)
class Fid:
    """Fréchet's distance between all pictures and true ones: 0 is equal. Below some thousands it is far too large."""

    kind: ClassVar[str] = "fid"
    network: str
    """The weights of Inception v3 (a file, `evaluate.inception`), or a folder or hub id of DINOv2."""
    reference: Path
    """A folder of true pictures or .tar shards, or an .npz with their mu and sigma."""
    device: str | None = None

    def open(self, folder: Path | None = None) -> FrechetReader:
        """The network, loaded, and the reference, read; raises ValueError if one of them is not there."""
        network = FeatureNetwork(self.network, self.device)
        if self.reference.suffix == ".npz":
            return FrechetReader(network, _moments_of(self.reference))
        moments = Moments()
        for vectors in reference_vectors(network, self.reference):
            moments.add(vectors)
        return FrechetReader(network, moments.result())


class FrechetReader:
    """Gathers the pictures of a folder."""

    reach: ClassVar[Reach] = "folder"

    def __init__(self, network: FeatureNetwork, reference: tuple[Tensor, Tensor]) -> None:
        self.network, self.reference, self.moments = network, reference, Moments()

    def add(self, pictures: Sequence[np.ndarray], records: Sequence[Record]) -> None:
        """Some pictures more."""
        self.moments.add(self.network.pictures(pictures))

    def totals(self) -> dict[str, float]:
        """`fid` of all that were added; raises ValueError if the reference is of another network."""
        mean, covariance = self.moments.result()
        if mean.shape != self.reference[0].shape:
            raise ValueError(
                f"the reference has {len(self.reference[0])} numbers a picture, {self.network.name} {len(mean)}"
            )
        return {"fid": frechet_distance((mean, covariance), self.reference)}


@dataclass(frozen=True, kw_only=True)
class Cmmd:
    """CMMD between all pictures and true ones: 0 is equal."""

    kind: ClassVar[str] = "cmmd"
    network: str
    """A CLIP in transformers' layout, a folder or hub id; the paper's is openai/clip-vit-large-patch14-336."""
    reference: Path
    """A folder of true pictures, or .tar shards."""
    device: str | None = None

    def open(self, folder: Path | None = None) -> CmmdReader:
        """The network, loaded, and the reference, read; raises ValueError if one of them is not there."""
        network = FeatureNetwork(self.network, self.device)
        return CmmdReader(network, torch.cat(list(reference_vectors(network, self.reference))))


class CmmdReader:
    """Gathers the pictures of a folder."""

    reach: ClassVar[Reach] = "folder"

    def __init__(self, network: FeatureNetwork, reference: Tensor) -> None:
        self.network, self.reference = network, reference
        self._vectors: list[Tensor] = []

    def add(self, pictures: Sequence[np.ndarray], records: Sequence[Record]) -> None:
        """Some pictures more."""
        self._vectors.append(self.network.pictures(pictures))

    def totals(self) -> dict[str, float]:
        """`cmmd` of all that were added."""
        if not self._vectors:
            raise ValueError("no picture could be read")
        return {"cmmd": cmmd(torch.cat(self._vectors), self.reference)}


def reference_vectors(network: FeatureNetwork, source: Path) -> list[Tensor]:
    """The vectors of all pictures of a folder or of shards, in parts; raises ValueError if none can be read."""
    images = Images(source)
    tell, found, part = progress.pictures(f"{source}: true pictures"), [], []
    for _, picture in images:
        part.append(picture)
        if len(part) == TOGETHER:
            found.append(network.pictures(part))
            part = []
            tell(len(found) * TOGETHER, len(images))
    if part:
        found.append(network.pictures(part))
    if not found:
        raise ValueError(f"no picture of {source} can be read: {images.report}")
    return found


def _moments_of(file: Path) -> tuple[Tensor, Tensor]:
    try:
        with np.load(file, allow_pickle=False) as kept:
            return torch.from_numpy(kept["mu"]), torch.from_numpy(kept["sigma"])
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ValueError(f"{file} has no mu and sigma of true pictures that can be read: {error}") from None


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def _kernel_mean(x: Tensor, y: Tensor) -> float:
    total = 0.0
    for part in x.split(BLOCK):
        total += float((-torch.cdist(part, y).square() / (2 * BANDWIDTH**2)).exp().sum())
    return total / (len(x) * len(y))
