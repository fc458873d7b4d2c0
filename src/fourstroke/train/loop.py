"""The one training loop: time limit, Ctrl-C, states, moving average, resume, progress, samples.

Every random choice of a stage is a function of (seed, step), so a run that was interrupted and resumed goes through
the same states as one that was not. States are written while training goes on (see `parallel.checkpoint`), each to a
sibling folder that is flushed and renamed: complete or absent.

Most stages have one loss for all their models. A stage whose models have losses of their own (distillation: student
and fake score) yields them in turns; each loss moves its own model, with its own optimiser and schedule. With
`accumulate` a step has several micro-batches, whose gradients it adds up before it moves.

Under torchrun the same loop runs on every rank (see `parallel`): once a step they agree on the time and on interrupts;
the first alone samples, exports and logs. Any number of ranks can take a state up.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from fourstroke.checkpoint import pick
from fourstroke.device import Precision, precision_note, training_precision, trim_heap
from fourstroke.evaluate.validation import BestCheckpoint
from fourstroke.files import atomic_folder, write_json
from fourstroke.parallel.checkpoint import VALUES, Checkpointer, load_tensors, load_values, stored_tensors
from fourstroke.parallel.collectives import all_reduce_max, on_rank0
from fourstroke.parallel.mesh import ShardedStage, micro_batch, require_sharded, world_size
from fourstroke.progress import say
from fourstroke.ranges import Count, NonNegative, TrainingSeed, check_ranges
from fourstroke.recipe import RecipeError
from fourstroke.train import session
from fourstroke.train.log import Log
from fourstroke.train.optimizer import MovingAverage, OptimizerConfig, OptimizerGroup, Scalars
from fourstroke.train.stage import (
    AccumulatingStage,
    AlternatingStage,
    MeasuredStage,
    ReadingStage,
    Stage,
    ValidatedStage,
)
from fourstroke.train.trackers import Tracking

STATE = {"step": int, "seconds": float, "updates": dict[str, int], "optimizers": dict[str, int]}
"""What stands in a saved state beside its tensors; `optimizers` counts the weights that each moves."""

REPORT = "data.json"
"""In a run's folder: which samples were skipped, and why."""
BEST = "best"
"""In a run's folder: the checkpoint that a stage's policy keeps."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where a run goes and how long it lasts. `None` minutes: until `steps` are done; 0 minutes: at once.

    `out` is new, empty, or holds this run; one process, or the ranks of one run, write there at a time.

    Before the first step the held-out scores are told, where a stage has such samples; `sample_first` draws a sheet of
    the untrained models too. `accumulate` is the number of micro-batches a step: so many times the batch in the memory
    of one. `precision` is that of matrix products, of which `auto` is bf16 on GPUs; weights stay float32. CPUs that
    would emulate `bf16` (`emulates_bf16`) multiply in float32 instead, which is told.
    """

    out: Path
    steps: Count
    max_minutes: NonNegative | None = None
    save_minutes: NonNegative = 5.0
    sample_minutes: NonNegative = 5.0
    sample_first: bool = False
    log_seconds: NonNegative = 15.0
    seed: TrainingSeed = 0
    accumulate: Count = 1
    precision: Precision = "auto"
    tracker: Tracking | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.tracker is not None:
            self.tracker.check()


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
        if run.accumulate > 1 and not (isinstance(stage, AccumulatingStage) and stage.accumulates):
            name = type(stage).__name__.removesuffix("Stage").lower()
            raise RecipeError(f"train {name} has one batch a step; leave run.accumulate at 1 and raise batch_size")
        self.stage, self.run_config, self.record = stage, run, record
        if isinstance(optimizer, OptimizerConfig):
            self.optimizer_groups = {"": OptimizerGroup(stage.models, optimizer)}
        else:
            self.optimizer_groups = {
                key: OptimizerGroup({key: stage.models[key]}, config) for key, config in optimizer.items()
            }
        first = next(iter(self.optimizer_groups.values()))
        self.average = MovingAverage(first.models, first.config.ema)
        policy = stage.policy if isinstance(stage, ValidatedStage) else None
        self.best = BestCheckpoint(policy) if policy is not None else None
        self.step, self.seconds = 0, 0.0
        self.checkpointer = Checkpointer()
        self._interrupted = self._stopped = False

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
            if note := precision_note(self.run_config.precision):
                on_rank0(lambda: print(note, flush=True))
            ends = signal.SIGINT, signal.SIGTERM  # Ctrl-C, and how schedulers and containers end a process
            previous = [signal.signal(end, self._interrupt) for end in ends]
            try:
                self._loop()
            finally:
                self.checkpointer.close()
                for end, handler in zip(ends, previous, strict=True):
                    signal.signal(end, handler)
            if self._stopped:
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

    def save(self, folder: Path, wait: bool = True) -> None:
        """Write everything that a resume needs, atomically; without `wait` it is written while training goes on.

        Raises:
            WriteError: if this save, or the one before it, could not be written.
        """
        self.checkpointer.save(folder, self._tensors(), self._values(), wait)

    def load(self, folder: Path) -> None:
        """Take up a state written by `save`, on however many ranks.

        Raises:
            CheckpointError: if a file of it is missing or damaged.
            RecipeError: if it is that of other models or optimisers; the message names the keys that differ.
        """
        file = folder / VALUES
        values = load_values(folder)
        found = {key: pick(values, key, kind, file) for key, kind in STATE.items()}
        stored = stored_tensors(folder)
        weights = dict(self._weights())
        moments = {name: kind for name, kind in stored.items() if name.startswith("optimizer.")}
        shapes = {name: kind[0] for name, kind in stored.items() if name not in moments}
        if found["optimizers"] != self._values()["optimizers"] or shapes != {k: x.shape for k, x in weights.items()}:
            told = session.listed(session.changes(folder.parent, self.record)) or "another recipe"
            raise RecipeError(f"{folder} is not of these models and optimisers; what differs: {told}")
        load_tensors(folder, weights)
        for key, group in self.optimizer_groups.items():
            prefix = _prefix(key)
            own = {name.removeprefix(prefix): kind for name, kind in moments.items() if name.startswith(prefix)}
            room = group.room_for(own)
            load_tensors(folder, {prefix + name: x for name, x in room.items()})
            group.restore(room)
            group.updates = found["updates"][key]
        self.step, self.seconds = found["step"], found["seconds"]
        if self.best is not None:
            self.best.load(folder.parent / f"{BEST}.json")

    def update(self) -> Scalars:
        """One optimiser step for each loss of this step; returns this rank's scalars.

        Where models take turns, scalars bear their names.
        """
        scalars: Scalars = {}
        count = self.run_config.accumulate
        batches = [self._losses() for _ in range(count)]
        while (found := [self._next(batch, index) for index, batch in enumerate(batches)])[0] is not None:
            name, progress = found[0][0], self.progress
            if isinstance(self.stage, AlternatingStage):
                progress = self.stage.lr_progress(name, self.step, progress)
            means = {key: torch.stack([part[1][key] for part in found if part]).mean(0) for key in found[0][1]}
            with training_precision(self.run_config.precision):
                means["grad_norm"] = self.optimizer_groups[name].step(progress)
            scalars |= {f"{name}_{key}" if name else key: value for key, value in means.items()}
        self.average.update(self.step)
        self.step += 1
        return scalars

    def _next(self, losses: Iterator[tuple[str, Scalars]], index: int) -> tuple[str, Scalars] | None:
        """The next loss of a micro-batch, whose gradient is added to those of the others."""
        count = self.run_config.accumulate
        with micro_batch(index, count), training_precision(self.run_config.precision):
            found = next(losses, None)
        if found is None:
            return None
        name, scalars = found
        if index == 0:
            self.optimizer_groups[name].zero_grad()
        (scalars["loss"] / count if count > 1 else scalars["loss"]).backward()
        return name, {key: value.detach() for key, value in scalars.items()}

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        seen = set()
        for key, model in self.stage.models.items():
            for name, x in model.state_dict(keep_vars=True).items():
                if id(x) not in seen:  # tied weights, and models under two names, are there once
                    seen.add(id(x))
                    yield f"model.{key}.{name}", x.detach()
        for name, x in self.average.weights.items():
            yield f"average.{name}", x

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._weights()
        for key, group in self.optimizer_groups.items():
            for name, x in group.state():
                yield _prefix(key) + name, x

    def _values(self) -> dict[str, Any]:
        groups = self.optimizer_groups.items()
        return {
            "step": self.step,
            "seconds": self.seconds,
            "updates": {key: group.updates for key, group in groups},
            "optimizers": {_prefix(key) + kind: n for key, group in groups for kind, n in group.counts().items()},
        }

    def _losses(self) -> Iterator[tuple[str, Scalars]]:
        if isinstance(self.stage, AlternatingStage):
            yield from self.stage.losses(self.step)
        else:
            yield "", self.stage.loss(self.step)

    def _loop(self) -> None:
        run = self.run_config
        with Log(run.out, run.log_seconds, self.seconds, run.tracker, self.record) as log:
            saved = sampled = self.seconds
            scalars: Scalars = {}
            self._agree(0.0)
            if run.sample_first and self.step == 0:
                self._sample(log)
            elif self.step == 0 and self.progress < 1:
                self._measure(log)
            while self.progress < 1 and not self._stopped:
                start = time.perf_counter()
                scalars = self.update()
                if self.step % 20 == 0:
                    self._check_finite(scalars)
                    trim_heap()
                self._agree(time.perf_counter() - start)
                rows = self.stage.batch_size * world_size() * run.accumulate
                log.add(self.step, self.seconds, scalars, self.progress, rows, self._rates())
                if self.progress >= 1:
                    break  # the last state and look are taken below, whatever the clock says
                if self.seconds - saved > 60 * run.save_minutes:
                    self._check_finite(scalars)
                    self.save(run.out / "state", wait=False)
                    saved = self.seconds
                if self.seconds - sampled > 60 * run.sample_minutes:
                    self._sample(log)
                    sampled = self.seconds
            self._check_finite(scalars)
            self.save(run.out / "state")
            if not self._stopped:
                self._sample(log)

    def _agree(self, seconds: float) -> None:
        """What all ranks have to know at the same step: the time, an interrupt of one, a save that failed."""
        told = all_reduce_max(self.seconds + seconds, self._interrupted, self.checkpointer.failed)
        self.seconds, self._stopped = told[0], told[1] > 0
        if told[2]:
            self.checkpointer.wait()

    def _rates(self) -> dict[str, float]:
        return {f"{key}_lr" if key else "lr": group.rate for key, group in self.optimizer_groups.items()}

    def _open(self) -> None:
        out = self.run_config.out
        if self.step == 0:
            (out / "log.jsonl").unlink(missing_ok=True)  # of a run that never saved
        session.write_record(out, self.record)
        if isinstance(self.stage, ReadingStage):
            for split, report in self.stage.reports.items():
                print(f"{split}: {report}", flush=True)
            print(f"all that is skipped: {out / REPORT}", flush=True)
            self._write_report()

    def _write_report(self) -> None:
        if isinstance(self.stage, ReadingStage):
            reports = {split: report.plain() for split, report in self.stage.reports.items()}
            write_json(self.run_config.out / REPORT, reports)

    def _export(self) -> None:
        out = self.run_config.out
        self._write_report()  # with what turned out to be broken under way
        with atomic_folder(out / "model") as partial:
            if self.best is None or self.best.value is None:
                self.stage.export(partial)
            else:
                shutil.copytree(out / BEST, partial, dirs_exist_ok=True)

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

    def _measure(self, log: Log) -> None:
        """Tell how good the models are before the first step, if the stage can say so without drawing."""
        stage: object = self.stage
        if isinstance(stage, MeasuredStage):
            with self.average.applied(), torch.no_grad(), self._gathered():
                scores = on_rank0(stage.held_out_scores)
            if scores:
                log.scores(self.step, self.seconds, scores, "held out, before training")

    def _sample(self, log: Log) -> None:
        folder = self.run_config.out / "samples"
        with self.average.applied(), torch.no_grad(), self._gathered():
            scores = on_rank0(lambda: self._draw(folder))
        log.scores(self.step, self.seconds, scores)

    def _draw(self, folder: Path) -> dict[str, float]:
        folder.mkdir(exist_ok=True)
        scores = self.stage.sample(folder, self.step)
        if self.best is not None and self.best.update(scores, self.step):
            with atomic_folder(self.run_config.out / BEST) as partial:
                self.stage.export(partial)
            self.best.save(self.run_config.out / f"{BEST}.json", scores)
        return scores

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        if self._interrupted and world_size() > 1:
            return  # torchrun passes on an interrupt that the terminal has sent to everybody
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        say("\ninterrupted: saving after this step (press again to stop at once)")


def _prefix(group: str) -> str:
    """How names of an optimiser group's state begin."""
    return f"optimizer.{group}." if group else "optimizer."
