"""What the loop asks of a stage: it is a `Stage` or an `AlternatingStage`, and may be what the other protocols say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import nn

from fourstroke.data.report import Report
from fourstroke.evaluate.validation import CheckpointPolicy
from fourstroke.train.optimizer import Scalars


class Part(Protocol):
    """What every stage gives to the loop."""

    models: dict[str, nn.Module]
    batch_size: int

    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """Draw a sheet into `folder` with the weights now in the models; return scores."""

    def export(self, folder: Path) -> None:
        """Write the finished model with the weights now in the models."""


class Stage(Part, Protocol):
    """A stage of one loss, which moves all its models."""

    def loss(self, step: int) -> Scalars:
        """Scalars of this step."""


@runtime_checkable
class AlternatingStage(Part, Protocol):
    """A stage of several losses; each names the model that it moves, and sees what the ones before it did."""

    def losses(self, step: int) -> Iterator[tuple[str, Scalars]]:
        """The losses of this step, in order."""

    def lr_progress(self, name: str, step: int, progress: float) -> float:
        """How much of what a model has to learn is done, 0 to 1; `progress` is that of the run."""


@runtime_checkable
class AccumulatingStage(Protocol):
    """A stage that draws its rows by `parallel.mesh.data_shard`, so that a step may have several micro-batches."""

    accumulates: bool


@runtime_checkable
class MeasuredStage(Protocol):
    """A stage that measures its models on held-out samples without drawing: what later looks are compared with."""

    def held_out_scores(self) -> dict[str, float]:
        """Scores by the names that `sample` gives them; nothing is drawn, written or learnt, no generator moves."""


@runtime_checkable
class ValidatedStage(Protocol):
    """A stage that says by which of its scores the checkpoint of a run is kept; None keeps the last."""

    policy: CheckpointPolicy | None


@runtime_checkable
class ReadingStage(Protocol):
    """A stage that reads a dataset, and tells by split what it has read and skipped."""

    @property
    def reports(self) -> Mapping[str, Report]:
        """As they are now."""
