"""Where curves and sheets of a run go beside its `log.jsonl`: TensorBoard, Weights & Biases, Trackio, or nowhere else.

A recipe names one: `run: {tracker: {kind: tensorboard}}`. Each needs its package, which is asked for before anything is
loaded. Another is a dataclass with `check` and `open` in the registry's group `trackers`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

from PIL import Image

from fourstroke.registry import Registered, offer

_HERE = "fourstroke.train.trackers"
offer(
    "trackers",
    none=f"{_HERE}:NoTracker",
    tensorboard=f"{_HERE}:TensorBoard",
    wandb=f"{_HERE}:WeightsAndBiases",
    trackio=f"{_HERE}:Trackio",
)


class Tracker(Protocol):
    """Takes up what a run tells."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Points of curves."""

    def pictures(self, step: int, files: Sequence[Path]) -> None:
        """Sheets that were drawn at a step."""

    def close(self) -> None:
        """Send what is left."""


class TrackerConfig(Protocol):
    """A kind of tracker in a recipe: a frozen dataclass of its options."""

    kind: ClassVar[str]

    def check(self) -> None:
        """Raise ValueError, in one line, if its package is not installed."""

    def open(self, out: Path, record: Mapping[str, Any]) -> Tracker:
        """Begin, or go on with, the run in the folder `out`; `record` is its recipe and what it runs on."""


Tracking = Annotated[TrackerConfig, Registered("trackers")]
"""A recipe's key that names a tracker."""


@dataclass(frozen=True, kw_only=True)
class NoTracker:
    """`log.jsonl` and `index.html` alone."""

    kind: ClassVar[str] = "none"

    def check(self) -> None:
        """Nothing is needed."""

    def open(self, out: Path, record: Mapping[str, Any]) -> Tracker:
        """A tracker that does nothing."""
        return _Nowhere()


@dataclass(frozen=True, kw_only=True)
class TensorBoard:
    """Event files in `folder`, or else in `tensorboard` of the run's folder."""

    kind: ClassVar[str] = "tensorboard"
    folder: Path | None = None

    def check(self) -> None:
        """TensorBoard is needed."""
        _require("tensorboard")

    def open(self, out: Path, record: Mapping[str, Any]) -> Tracker:
        """A writer of event files; a run that goes on adds a file."""
        return _TensorBoard(self.folder or out / "tensorboard")


@dataclass(frozen=True, kw_only=True)
class WeightsAndBiases:
    """A run of Weights & Biases, named after its folder and the one above (`micro-dit`).

    Its own environment variables hold the key.
    """

    kind: ClassVar[str] = "wandb"
    project: str = "fourstroke"
    name: str | None = None
    mode: Literal["online", "offline"] = "online"

    def check(self) -> None:
        """Its package is needed."""
        _require("wandb")

    def open(self, out: Path, record: Mapping[str, Any]) -> Tracker:
        """Begin the run, or go on with the one of that name."""
        import wandb

        name = self.name or own_name(out)
        run = wandb.init(
            project=self.project, name=name, id=name, resume="allow", mode=self.mode, dir=out, config={**record}
        )
        return _Hosted(wandb, run.log, run.finish)


@dataclass(frozen=True, kw_only=True)
class Trackio:
    """A run of Trackio, named likewise, kept on this machine, or in the Space of Hugging Face named here."""

    kind: ClassVar[str] = "trackio"
    project: str = "fourstroke"
    name: str | None = None
    space_id: str | None = None

    def check(self) -> None:
        """Its package is needed."""
        _require("trackio")

    def open(self, out: Path, record: Mapping[str, Any]) -> Tracker:
        """Begin the run, or go on with the one of that name."""
        import trackio

        trackio.init(
            project=self.project,
            name=self.name or own_name(out),
            resume="allow",
            config={**record},
            space_id=self.space_id,
        )
        return _Hosted(trackio, trackio.log, trackio.finish)


class _Nowhere:
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def pictures(self, step: int, files: Sequence[Path]) -> None:
        pass

    def close(self) -> None:
        pass


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def pictures(self, step: int, files: Sequence[Path]) -> None:
        import numpy as np

        for file in files:
            with Image.open(file) as image:
                self.writer.add_image(_series(file), np.asarray(image.convert("RGB")), step, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class _Hosted:
    """Weights & Biases and Trackio, which speak alike."""

    def __init__(self, package: Any, log: Any, finish: Any) -> None:
        self.package, self.log, self.finish = package, log, finish

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.log({**values}, step=step)

    def pictures(self, step: int, files: Sequence[Path]) -> None:
        if files:
            self.log({_series(file): self.package.Image(str(file)) for file in files}, step=step)

    def close(self) -> None:
        self.finish()


def _series(file: Path) -> str:
    """The name that sheets of one kind share at all steps."""
    return file.stem.partition("step-")[0].strip("-") or "samples"


def own_name(out: Path) -> str:
    """A run's name by its folder and the one above, of which runs of other families have another."""
    folder = out.resolve()
    return f"{folder.parent.name}-{folder.name}".lstrip("-")


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"the tracker {package} is not installed; pip install 'fourstroke[{package}]', or kind: none")
