"""A head that names what the clean picture shows, read from hidden states of the transformer.

REPA (arXiv 2410.06940) aligns hidden states with features of a frozen network; here they are compared with labels that
a dataset offers (see `labels`). Where the noise is high the text alone can tell, so this teaches the way from words to
places. The head is thrown away after training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fourstroke.data.sample import Record, Size
from fourstroke.device import autocast
from fourstroke.ranges import Count, Natural, NonNegative, check_ranges
from fourstroke.train.labels import UNKNOWN, Labels

KEPT = 1 << 16
"""So many samples' labels are kept in memory, as 16-bit numbers."""


@dataclass(frozen=True, kw_only=True)
class SemanticsConfig:
    """Hidden states after `block` blocks must tell the `labels` of the clean picture at their place, times `weight`.

    For the first `alone` steps the head learns from hidden states as they are: one that knows nothing yet would pull a
    transformer that has been trained before away from what it can.
    """

    labels: Labels
    block: Count
    weight: NonNegative = 0.5
    alone: Natural = 0

    def __post_init__(self) -> None:
        check_ranges(self)


class SemanticsHead(nn.Module):
    """Logits of every target token's labels from its hidden state, and their losses.

    Raises:
        ValueError: if the transformer has fewer blocks.
    """

    def __init__(self, config: SemanticsConfig, width: int, num_layers: int) -> None:
        super().__init__()
        if config.block > num_layers:
            raise ValueError(f"semantics.block={config.block}, but there are {num_layers} blocks")
        self.block, self.weight, self.alone = config.block, config.weight, config.alone
        self.cells = config.labels.open()
        self.head = nn.Linear(width, self.cells.outputs)
        self._known: dict[tuple[str, Size, bool], dict[str, Tensor]] = {}

    def losses(
        self, hidden: Tensor, records: Sequence[Record], size: Size, dropped: Sequence[bool], repeats: int
    ) -> dict[str, Tensor]:
        """Mean losses by kind of label.

        Args:
            hidden: (len(records) * repeats, cells, width), the rows of a record side by side.
            records: of the batch.
            size: of its pictures; a record of another size was scaled or cropped, so its labels are not known.
            dropped: records whose prompt was left out; nothing is asked of them.
            repeats: rows of each record.
        """
        rows = [self._labels(record, size) for record in records]
        asked = {}
        for name in rows[0]:
            labels = torch.stack([row[name] for row in rows])
            labels[torch.tensor(dropped)] = UNKNOWN
            asked[name] = labels.repeat_interleave(repeats, dim=0)
        with autocast(hidden.device):
            logits = self.head(hidden.float())
        return self.cells.losses(logits.mT, asked)

    def _labels(self, record: Record, size: Size) -> dict[str, Tensor]:
        """The labels of a sample, made when first asked for."""
        key = record.name, size, record.size == size
        if key in self._known:
            return self._known[key]
        whole = record if record.size == size else dataclasses.replace(record, size=size, meta={})
        labels = {name: part[0].to(torch.int16) for name, part in self.cells.labels([whole]).items()}
        if len(self._known) < KEPT:
            self._known[key] = labels
        return labels
