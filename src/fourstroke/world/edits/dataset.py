"""Edits of the world as a dataset: the picture after, those before as its inputs, and the instructions as captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fourstroke.data.sample import Hints, Record, Sample, SampleError, Split
from fourstroke.ranges import Count, TrainingSeed, check_ranges
from fourstroke.world.dataset import HELD_OUT, SAMPLES, Drawn, captions
from fourstroke.world.edits.graph import Edit
from fourstroke.world.edits.region import allowed
from fourstroke.world.edits.world import EditConfig, Edits


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


class EditSamples(Drawn):
    """Edits by index; of what kind each is, and so how many inputs it has, is known without drawing it."""

    def __init__(self, config: EditData, split: Split) -> None:
        super().__init__(config, split, ())
        self.edits, size = Edits(config.edits), (config.edits.world.width, config.edits.world.height)
        shapes = {inputs: (size, (size,) * inputs) for inputs in (1, 2)}
        kinds = (self.edits.kind(self.seed(index)) for index in range(len(self)))
        self.hints = Hints(shapes=[shapes[1 + (kind == "combine")] for kind in kinds])

    def sample(self, index: int) -> Sample:
        """The record with its pictures and the mask of where they may differ."""
        edit = self._graph(index)
        before, after = self.edits.render(edit)
        record = self._record(self.seed(index), edit)
        return Sample(record=record, image=after, inputs=tuple(before), mask=allowed(edit))

    def _graph(self, index: int) -> Edit:
        seed = self.seed(index)
        try:
            return self.edits.edit(seed, self.split)
        except ValueError as error:  # the world has no scene for this kind of edit
            raise SampleError(str(error), "draw") from None

    def _render(self, graph: Edit) -> np.ndarray:
        return self.edits.render(graph)[1]

    def _record(self, seed: int, graph: Edit) -> Record:
        short, rich = (self.edits.instruction(graph, rich, seed) for rich in (False, True))
        return Record(
            name=f"edit-{self.split}-{seed}",
            size=(graph.after.width, graph.after.height),
            captions=captions(short, rich, graph.after, seed),
            inputs=tuple((scene.width, scene.height) for scene in graph.before),
            meta={"edit": graph, "scene": graph.after},
        )
