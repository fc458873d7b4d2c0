"""Labels of what a picture shows at each of its cells, and what a stage asks of them.

A small text encoder learns to read by naming them (`train text`), a network of features by seeing them (`train
features`), and a head on the transformer's hidden states by both (`train dit`). Whoever makes a dataset can offer such
labels; the drawn world does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Protocol

import torch.nn.functional as F
from torch import Tensor

from fourstroke.data.sample import Record
from fourstroke.parallel.collectives import all_reduce_mean
from fourstroke.parallel.mesh import world_size
from fourstroke.registry import Registered

UNKNOWN = -100
"""The label of what is not known; no loss and no score counts it."""


class CellLabels(Protocol):
    """What can stand at a cell, 16 x 16 pixels, and the losses of logits that say what does."""

    @property
    def outputs(self) -> int:
        """Logits for each cell."""

    @property
    def names(self) -> Mapping[str, tuple[str, ...]]:
        """What the labels of each kind are indices into."""

    def labels(self, records: Sequence[Record]) -> dict[str, Tensor]:
        """By kind, indices (b, ..., cells) row by row, or UNKNOWN; raises ValueError for records of several sizes."""

    def losses(self, logits: Tensor, labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Mean loss of each kind; logits are (b, outputs, cells)."""

    def scores(self, logits: Tensor, records: Sequence[Record]) -> dict[str, float]:
        """Of each kind the share, 0 to 1, that is named right where it can be told; nan where nothing can."""


class LabelsConfig(Protocol):
    """A kind of labels in a recipe."""

    kind: ClassVar[str]

    def open(self) -> CellLabels:
        """The labels; raises ValueError, in one line, if they cannot be had."""


Labels = Annotated[LabelsConfig, Registered("labels")]
"""A recipe's key that names labels: `labels: {kind: world, world: world.yaml}`."""


def known_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross entropy of logits (b, classes, ...) over the targets (b, ...) that are not UNKNOWN; 0 of none.

    On several ranks it is divided by the mean of their counts, so that the mean over ranks is that over all targets.
    """
    known = target != UNKNOWN  # rows of known targets, classes side by side, which is faster on CPUs
    total = F.cross_entropy(logits.movedim(1, -1)[known], target[known], reduction="sum")
    count = all_reduce_mean({"count": known.sum()})["count"]
    return total / count.clamp_min(1 / world_size())
