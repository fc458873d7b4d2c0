"""Edits of the world as a dataset: the picture after, those before as its inputs, and the instructions as captions."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import ClassVar

from fourstroke.data.sample import Caption, Record, Sample, Split
from fourstroke.ranges import Count, TrainingSeed, check_ranges
from fourstroke.world.dataset import HELD_OUT, SAMPLES
from fourstroke.world.edits.graph import Edit
from fourstroke.world.edits.region import allowed
from fourstroke.world.edits.world import EditConfig, Edits
from fourstroke.world.world import SCENES


@dataclass(frozen=True, kw_only=True)
class EditData:
    """Edits of the drawn world, each with a short and a rich instruction; `meta["edit"]` is what was done.

    `meta["scene"]` is the graph of the picture after, which labels and judges read.
    """

    kind: ClassVar[str] = "world_edits"
    edits: EditConfig
    samples: Count = SAMPLES
    """To train on."""
    held_out: Count = HELD_OUT
    seed: TrainingSeed = 0

    def __post_init__(self) -> None:
        check_ranges(self)

    def open(self, split: Split = "train") -> EditSamples:
        """The edits to train on, or those held out."""
        return EditSamples(self, split)


class EditSamples:
    """Edits by index; index i is that of seed `(seed << 40) + i`."""

    def __init__(self, config: EditData, split: Split) -> None:
        if split not in ("train", "heldout"):
            raise ValueError(f"split={split!r}: choose 'train' or 'heldout'")
        self.name, self.split, self.edits = f"{config.kind} {split}", split, Edits(config.edits)
        self._first, self._count = config.seed << 40, config.samples if split == "train" else config.held_out
        options = {key: value for key, value in asdict(config.edits.world).items() if key != "languages"}
        self._own = json.dumps([config.kind, split, SCENES, options, config.edits.kinds], sort_keys=True)

    def __len__(self) -> int:
        return self._count

    def record(self, index: int) -> Record:
        """Instructions, sizes and graph, without the pictures."""
        return self._record(self.seed(index), self.edits.edit(self.seed(index), self.split))

    def sample(self, index: int) -> Sample:
        """The record with its pictures and the mask of where they may differ."""
        edit = self.edits.edit(self.seed(index), self.split)
        before, after = self.edits.render(edit)
        record = self._record(self.seed(index), edit)
        return Sample(record=record, image=after, inputs=tuple(before), mask=allowed(edit))

    def digest(self, index: int) -> str:
        """Of configuration and seed, from which the pictures follow."""
        return hashlib.sha256(f"{self._own} {self.seed(index)}".encode()).hexdigest()

    def seed(self, index: int) -> int:
        """The seed of a sample; raises IndexError if there is none."""
        if not 0 <= index < self._count:
            raise IndexError(f"{self.name} has {self._count} samples, none of index {index}")
        return self._first + index

    def _record(self, seed: int, edit: Edit) -> Record:
        captions = (
            Caption(self.edits.instruction(edit, rich, seed), "rich" if rich else "short") for rich in (False, True)
        )
        return Record(
            name=f"edit-{self.split}-{seed}",
            size=(edit.after.width, edit.after.height),
            captions=tuple(captions),
            inputs=tuple((scene.width, scene.height) for scene in edit.before),
            meta={"edit": edit, "scene": edit.after},
        )
