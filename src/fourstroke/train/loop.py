"""The one training loop: time limit, checkpoints, moving average, resume, progress, samples.

Every random choice of a stage is a function of (seed, step), so a run that was interrupted and resumed goes through
the same states as one that was not. A state is written to a sibling folder, flushed and renamed: complete or absent.

Most stages have one loss for all their models. A stage whose models have losses of their own (distillation: student
and fake score) yields them in turns; each loss moves its own model, with its own optimiser and schedule.

Under torchrun the same loop runs on every rank (see `parallel`): they agree on the time and on interrupts, and the
first alone samples, exports and writes. A state is written whole, so that any number of ranks can take it up.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fourstroke.checkpoint import CheckpointError, read_pickle
from fourstroke.files import append_line, atomic_folder
from fourstroke.parallel.checkpoint import gather_state, load_model_state, load_optimizer_state
from fourstroke.parallel.collectives import all_reduce_max, on_rank0
from fourstroke.parallel.mesh import ShardedStage, rank, require_sharded, world_size
from fourstroke.parallel.sharding import distribute_like
from fourstroke.ranges import Count, NonNegative, TrainingSeed, check_ranges
from fourstroke.recipe import RecipeError
from fourstroke.train import session
from fourstroke.train.optimizer import MovingAverage, OptimizerConfig, OptimizerGroup, Scalars

STATE = {"step": int, "seconds": float, "updates": dict, "models": dict, "average": dict, "optimizers": dict}
"""What a saved state holds."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where a run goes and how long it lasts. `None` minutes: until `steps` are done; 0 minutes: at once.

    `out` is new, empty, or holds this run; one process, or the ranks of one run, write there at a time.

    `sample_first` draws a sheet of the untrained models too: the floor that a run starts from.
    """

    out: Path
    steps: Count
    max_minutes: NonNegative | None = None
    save_minutes: NonNegative = 5.0
    sample_minutes: NonNegative = 5.0
    sample_first: bool = False
    log_seconds: NonNegative = 15.0
    seed: TrainingSeed = 0

    def __post_init__(self) -> None:
        check_ranges(self)


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


class DivergedError(RuntimeError):
    """The loss stopped being a number."""


class Trainer:
    """Runs a stage to its end, its time limit or an interrupt, whichever comes first.

    `optimizer` moves all models of the stage together, or, given by model, each by a loss of its own; then the first
    is what the run is for, and only its weights are averaged.
    """

    def __init__(
        self,
        stage: Stage | AlternatingStage,
        run: RunConfig,
        optimizer: OptimizerConfig | Mapping[str, OptimizerConfig],
        record: dict[str, Any],
    ) -> None:
        require_sharded(stage)
        self.stage, self.run_config, self.record = stage, run, record
        if isinstance(optimizer, OptimizerConfig):
            self.optimizer_groups = {"": OptimizerGroup(stage.models, optimizer)}
        else:
            self.optimizer_groups = {
                key: OptimizerGroup({key: stage.models[key]}, config) for key, config in optimizer.items()
            }
        first = next(iter(self.optimizer_groups.values()))
        self.average = MovingAverage(first.models, first.config.ema)
        self.step, self.seconds = 0, 0.0
        self._interrupted = False

    def run(self, resume: bool = False) -> Path:
        """Train, and return the folder of the exported model.

        Raises:
            RecipeError: if the output folder holds anything but a run, one that `resume` does not fit, or one that
                is still going on.
            WriteError: if the disk is full; the last saved state stays.
            DivergedError: if a loss or its gradient is not finite; the last saved state stays.
        """
        out = self.run_config.out
        with session.opened(out, resume):
            if resume:
                self.load(out / "state")
                told = on_rank0(lambda: session.listed(session.changes(out, self.record)))
                print(f"resumed {out} at step {self.step}" + (f"; changed: {told}" if told else ""), flush=True)
            on_rank0(self._open)
            ends = signal.SIGINT, signal.SIGTERM  # Ctrl-C, and how schedulers and containers end a process
            previous = [signal.signal(end, self._interrupt) for end in ends]
            try:
                self._loop()
            finally:
                for end, handler in zip(ends, previous, strict=True):
                    signal.signal(end, handler)
            if self._stopped():
                print(f"interrupted at step {self.step}; continue with --resume", flush=True)
                raise KeyboardInterrupt
            with self.average.applied(), self._gathered():
                on_rank0(self._export)
        return out / "model"

    @property
    def progress(self) -> float:
        """How much of the run is done, 0 to 1, by steps or by minutes, whichever is further."""
        minutes = self.run_config.max_minutes
        limit = math.inf if minutes is None else 60 * minutes
        return max(self.step / self.run_config.steps, self.seconds / limit if self.seconds < limit else 1.0)

    def save(self, folder: Path) -> None:
        """Write everything that a resume needs, atomically."""
        state = gather_state(self._state())

        def write() -> None:
            with atomic_folder(folder) as partial, (partial / "state.pt").open("wb") as file:
                torch.save(state, file)

        on_rank0(write)

    def load(self, folder: Path) -> None:
        """Take up a state written by `save`, on however many ranks.

        Raises:
            CheckpointError: if the file is no state.
            RecipeError: if it is that of other models or optimisers; the message names the keys that differ.
        """
        several = world_size() > 1  # then each reads from the file no more than its part
        file = folder / "state.pt"
        state = read_pickle(file, mmap=several)
        for key, kind in STATE.items():
            if not isinstance(state.get(key), kind):
                raise CheckpointError(
                    f"{file} is no state of a run, its {key!r} is missing; start anew in another folder"
                )
        if _outline(state) != _outline(self._state()):
            found = session.listed(session.changes(folder.parent, self.record)) or "another recipe"
            raise RecipeError(f"{folder} is not of these models and optimisers; what differs: {found}")
        for key, model in self.stage.models.items():
            load_model_state(model, state["models"][key])
        for key, optimizer in self._optimizers():
            load_optimizer_state(optimizer, state["optimizers"][key])
        for name, weight in state["average"].items():
            own = self.average.weights[name]
            own.copy_(distribute_like(weight, own))
        self.step, self.seconds = state["step"], state["seconds"]
        for key, group in self.optimizer_groups.items():
            group.updates = state["updates"][key]

    def update(self) -> Scalars:
        """One optimiser step for each loss of this step; where models take turns, scalars bear their names."""
        scalars: Scalars = {}
        for name, values in self._losses():
            progress = self.progress
            if isinstance(self.stage, AlternatingStage):
                progress = self.stage.lr_progress(name, self.step, progress)
            done = self.optimizer_groups[name].update(values, progress)
            scalars |= {f"{name}_{key}" if name else key: value for key, value in done.items()}
        self.average.update(self.step)
        self.step += 1
        return scalars

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "seconds": self.seconds,
            "updates": {key: group.updates for key, group in self.optimizer_groups.items()},
            "models": {key: model.state_dict() for key, model in self.stage.models.items()},
            "average": self.average.weights,
            "optimizers": {key: optimizer.state_dict() for key, optimizer in self._optimizers()},
        }

    def _losses(self) -> Iterable[tuple[str, Scalars]]:
        if isinstance(self.stage, AlternatingStage):
            return self.stage.losses(self.step)
        return [("", self.stage.loss(self.step))]

    def _optimizers(self) -> Iterator[tuple[str, torch.optim.Optimizer]]:
        for name, group in self.optimizer_groups.items():
            for key, optimizer in group.optimizers.items():
                yield f"{name}.{key}" if name else key, optimizer

    def _loop(self) -> None:
        run = self.run_config
        log = Log(run.out / "log.jsonl", run, self.seconds)
        saved = sampled = self.seconds
        scalars: Scalars = {}
        if run.sample_first and self.step == 0:
            self._sample(log)
        while self.progress < 1 and not self._stopped():
            start = time.perf_counter()
            scalars = self.update()
            if self.step % 20 == 0:
                self._check_finite(scalars)
            self.seconds = all_reduce_max(self.seconds + time.perf_counter() - start)
            log.add(self.step, self.seconds, scalars, self.progress, self.stage.batch_size * world_size())
            if self.progress >= 1:
                break  # the last state and look are taken below, whatever the clock says
            if self.seconds - saved > 60 * run.save_minutes:
                self._check_finite(scalars)
                self.save(run.out / "state")
                saved = self.seconds
            if self.seconds - sampled > 60 * run.sample_minutes:
                self._sample(log)
                sampled = self.seconds
        self._check_finite(scalars)
        self.save(run.out / "state")
        if not self._stopped():
            self._sample(log)

    def _open(self) -> None:
        out = self.run_config.out
        if self.step == 0:
            (out / "log.jsonl").unlink(missing_ok=True)  # of a run that never saved
        session.write_record(out, self.record)

    def _export(self) -> None:
        with atomic_folder(self.run_config.out / "model") as partial:
            self.stage.export(partial)

    def _stopped(self) -> bool:
        """Whether any rank was interrupted; all ask at the same places."""
        return all_reduce_max(self._interrupted) > 0

    def _gathered(self) -> contextlib.AbstractContextManager[None]:
        """The models in one piece on the first rank, where there are several."""
        stage: object = self.stage
        if world_size() > 1 and isinstance(stage, ShardedStage):
            return stage.gathered()
        return contextlib.nullcontext()

    def _check_finite(self, scalars: Scalars) -> None:
        for key, value in scalars.items():
            if key.endswith(("loss", "grad_norm")) and not math.isfinite(float(value)):
                raise DivergedError(
                    f"the {key} is {float(value)} at step {self.step}; lower the learning rate and --resume from the "
                    f"last state in {self.run_config.out}"
                )

    def _sample(self, log: Log) -> None:
        folder = self.run_config.out / "samples"
        with self.average.applied(), torch.no_grad(), self._gathered():
            scores = on_rank0(lambda: self._draw(folder))
        log.scores(self.step, self.seconds, scores)

    def _draw(self, folder: Path) -> dict[str, float]:
        folder.mkdir(exist_ok=True)
        return self.stage.sample(folder, self.step)

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        if self._interrupted and world_size() > 1:
            return  # torchrun passes on an interrupt that the terminal has sent to everybody
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        print("\ninterrupted: saving after this step (press again to stop at once)", flush=True)


class Log:
    """Averages scalars over a few seconds of training, prints a line, and appends it to `log.jsonl`."""

    def __init__(self, path: Path, run: RunConfig, seconds: float) -> None:
        self.path, self.run, self.since = path, run, seconds
        self.values: dict[str, list[Tensor]] = {}
        self.samples = 0

    def add(self, step: int, seconds: float, scalars: Scalars, progress: float, batch_size: int) -> None:
        """Count one step in; print when `log_seconds` of training have passed."""
        for key, value in scalars.items():
            self.values.setdefault(key, []).append(value.float())
        self.samples += batch_size
        elapsed = seconds - self.since
        if elapsed < self.run.log_seconds and progress < 1:
            return
        means = {key: round(float(torch.stack(found).mean()), 5) for key, found in self.values.items()}
        rate = self.samples / max(elapsed, 1e-9)
        left = seconds * (1 - progress) / max(progress, 1e-9)
        self._write({"step": step, "seconds": round(seconds, 1), "rate": round(rate, 2), **means})
        values = "  ".join(f"{key} {value:.4f}" for key, value in means.items())
        print(
            f"{100 * progress:5.1f} %  step {step}  {values}  {rate:.1f} samples/s  "
            f"{_clock(seconds)} gone, {_clock(max(0.0, left))} left",
            flush=True,
        )
        self.values, self.samples, self.since = {}, 0, seconds

    def scores(self, step: int, seconds: float, scores: dict[str, float]) -> None:
        """Record the scores of a sample sheet."""
        self._write({"step": step, "seconds": round(seconds, 1), "scores": scores})
        print(f"samples at step {step}: " + "  ".join(f"{k} {v:.4f}" for k, v in scores.items()), flush=True)

    def _write(self, row: dict[str, Any]) -> None:
        if rank() > 0:
            return
        append_line(self.path, json.dumps(row))


def _outline(state: dict[str, Any]) -> dict[str, Any]:
    """What has to agree in a state: names and shapes of weights, kinds of optimisers and how much each moves."""
    weights = state["models"] | {"average": state["average"]}
    optimizers = state["optimizers"].items()
    return {
        "weights": {key: {name: tuple(x.shape) for name, x in part.items()} for key, part in weights.items()},
        "optimizers": {key: [len(group["params"]) for group in part["param_groups"]] for key, part in optimizers},
    }


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
