"""What looks at a model while it trains: the protocol of validators, and which checkpoint of a run is kept.

One protocol and one policy serve the transformer, distillation and reinforcement. A recipe names validators by kind
(`validators: [{kind: prompts, file: prompts.txt}]`); the held-out loss is the stage's own and joins their metrics. They
stand here, below `train`, since distillation's own validator is one of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Protocol

from fourstroke.checkpoint import pick, read_json
from fourstroke.files import write_json
from fourstroke.pipeline import Pipeline
from fourstroke.registry import Registered


class Validator(Protocol):
    """Measures a pipeline as it is now."""

    def run(self, pipe: Pipeline, folder: Path, step: int) -> dict[str, float]:
        """Metrics by name; sheets go into `folder`, which exists, under names that hold the step.

        The pipeline draws with its own number of steps and its own guidance.
        """


class ValidatorConfig(Protocol):
    """A kind of validator in a recipe: a frozen dataclass of its options."""

    kind: ClassVar[str]

    def open(self) -> Validator:
        """The validator; raises ValueError, in one line, if it cannot look."""


Validators = tuple[Annotated[ValidatorConfig, Registered("validators")], ...]
"""A recipe's key that names validators: `validators: [{kind: prompts, file: prompts.txt}]`."""


def run_validators(validators: Sequence[Validator], pipe: Pipeline, folder: Path, step: int) -> dict[str, float]:
    """The metrics of all validators.

    Raises:
        ValueError: if two of them give a metric of one name.
    """
    found: dict[str, float] = {}
    for validator in validators:
        metrics = validator.run(pipe, folder, step)
        if twice := found.keys() & metrics.keys():
            raise ValueError(f"two validators measure {', '.join(sorted(twice))}; give one of them a name")
        found |= metrics
    return found


@dataclass(frozen=True, kw_only=True)
class CheckpointPolicy:
    """Which checkpoint of a run is kept: the one whose `metric` is highest, or with `mode: min` lowest.

    Of equals the `first` or the `last` is kept. With `never_first` one of step 0, untrained, gives way to any other.
    """

    metric: str
    mode: Literal["max", "min"] = "max"
    ties: Literal["first", "last"] = "first"
    never_first: bool = False

    def value(self, metrics: Mapping[str, float]) -> float:
        """What the policy goes by; NaN if who measures it failed, and ValueError if nobody does.

        A judge that failed and cannot name its scores has NaN under its own name, before their `/`.
        """
        if self.metric not in metrics:
            if any(math.isnan(value) and self.metric.startswith(f"{name}/") for name, value in metrics.items()):
                return math.nan
            known = ", ".join(sorted(metrics)) or "nothing"
            raise ValueError(f"checkpoints are kept by {self.metric!r}, which nobody measures; measured: {known}")
        return metrics[self.metric]

    def better(self, new: float, best: float) -> bool:
        """Whether a checkpoint replaces the best one, by their values."""
        if new == best:
            return self.ties == "last"
        return new > best if self.mode == "max" else new < best


class BestCheckpoint:
    """The best checkpoint of a run so far: its value and step, None before there is one."""

    def __init__(self, policy: CheckpointPolicy) -> None:
        self.policy = policy
        self.value: float | None = None
        self.step = 0

    def update(self, metrics: Mapping[str, float], step: int) -> bool:
        """Whether the checkpoint of this step becomes the best one; if so it is noted, and the caller keeps it.

        It never does by a value that is not finite, nor without one. Raises ValueError if nobody has measured it yet.
        """
        if self.value is not None and self.policy.metric not in metrics:
            return False  # it was measured before
        value = self.policy.value(metrics)
        untrained = self.policy.never_first and self.step == 0 < step
        takes = self.value is None or untrained or self.policy.better(value, self.value)
        if not (takes and math.isfinite(value)):
            return False
        self.value, self.step = value, step
        return True

    def save(self, file: Path, metrics: Mapping[str, float]) -> None:
        """Write what a resume needs, with all finite metrics of the kept checkpoint for readers."""
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        write_json(file, {"value": self.value, "step": self.step, "metric": self.policy.metric, "metrics": finite})

    def load(self, file: Path) -> None:
        """Take up what `save` wrote, if there is such a file; a value not finite, or of another metric, counts as none.

        Raises:
            CheckpointError: if the file is damaged.
        """
        if file.exists():
            kept = read_json(file)
            if pick(kept, "metric", str, file) != self.policy.metric:
                return  # the recipe goes by another one now, and the two cannot be compared
            if isinstance(found := kept.get("value"), float) and not math.isfinite(found):
                return  # an earlier version kept such
            self.value, self.step = pick(kept, "value", float, file), pick(kept, "step", int, file)
