"""The one training loop: time limit, checkpoints, moving average, resume, progress, samples.

Every random choice of a stage is a function of (seed, step), so a run that was interrupted and resumed goes through
the same states as one that was not. A state is written to a sibling folder, flushed and renamed: complete or absent.
"""

from __future__ import annotations

import json
import math
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fourstroke.checkpoint import atomic_folder, write_json
from fourstroke.train.optimizer import MovingAverage, OptimizerConfig, build_optimizers, learning_rate
from fourstroke.train.recipe import RecipeError


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where a run goes and how long it lasts. `None` minutes: until `steps` are done."""

    out: Path
    steps: int
    max_minutes: float | None = None
    save_minutes: float = 5.0
    sample_minutes: float = 5.0
    log_seconds: float = 15.0
    seed: int = 0


class Stage(Protocol):
    """What a stage gives to the loop."""

    models: dict[str, nn.Module]
    batch_size: int

    def loss(self, step: int) -> dict[str, Tensor]:
        """Scalars of this step; `loss` is the one that is differentiated."""

    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """Draw a sheet into `folder` with the weights now in the models; return scores."""

    def export(self, folder: Path) -> None:
        """Write the finished model with the weights now in the models."""


class DivergedError(RuntimeError):
    """The loss stopped being a number."""


class Trainer:
    """Runs a stage to its end, its time limit or an interrupt, whichever comes first."""

    def __init__(self, stage: Stage, run: RunConfig, optimizer: OptimizerConfig, record: dict[str, Any]) -> None:
        self.stage, self.run_config, self.config, self.record = stage, run, optimizer, record
        named = [(f"{key}.{n}", p) for key, model in stage.models.items() for n, p in model.named_parameters()]
        self.optimizers = build_optimizers(named, optimizer)
        self.parameters = [p for _, p in named if p.requires_grad]
        self.average = MovingAverage(stage.models, optimizer.ema)
        self.step, self.seconds = 0, 0.0
        self._interrupted = False

    def run(self, resume: bool = False) -> Path:
        """Train, and return the folder of the exported model.

        Raises:
            RecipeError: if the output folder already holds a run and `resume` is false.
            DivergedError: if the loss is not finite; the last saved state stays.
        """
        out = self.run_config.out
        if resume and (out / "state").exists():
            self.load(out / "state")
            print(f"resumed {out} at step {self.step}", flush=True)
        elif (out / "state").exists():
            raise RecipeError(f"{out} already holds a run; continue it with --resume, or choose another out=")
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "recipe.json", self.record)
        previous = signal.signal(signal.SIGINT, self._interrupt)
        try:
            self._loop()
        finally:
            signal.signal(signal.SIGINT, previous)
        if self._interrupted:
            print(f"interrupted at step {self.step}; continue with --resume", flush=True)
            raise KeyboardInterrupt
        with self.average.applied():
            self.stage.export(out / "model")
        return out / "model"

    @property
    def progress(self) -> float:
        """How much of the run is done, 0 to 1, by steps or by minutes, whichever is further."""
        limit = self.run_config.max_minutes
        return max(self.step / self.run_config.steps, self.seconds / (60 * limit) if limit else 0.0)

    def save(self, folder: Path) -> None:
        """Write everything that a resume needs, atomically."""
        with atomic_folder(folder) as partial:
            torch.save(
                {
                    "step": self.step,
                    "seconds": self.seconds,
                    "models": {key: model.state_dict() for key, model in self.stage.models.items()},
                    "average": self.average.weights,
                    "optimizers": {key: o.state_dict() for key, o in self.optimizers.items()},
                },
                partial / "state.pt",
            )

    def load(self, folder: Path) -> None:
        """Take up a state written by `save`."""
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
        for key, model in self.stage.models.items():
            model.load_state_dict(state["models"][key])
        for key, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][key])
        for name, weight in state["average"].items():
            self.average.weights[name].copy_(weight)
        self.step, self.seconds = state["step"], state["seconds"]

    def update(self) -> dict[str, Tensor]:
        """One optimiser step on the stage's batch of this step."""
        rate = learning_rate(self.step, self.progress, self.config)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
        scalars = self.stage.loss(self.step)
        scalars["loss"].backward()
        scalars["grad_norm"] = nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        for optimizer in self.optimizers.values():
            optimizer.step()
        self.average.update(self.step)
        self.step += 1
        return {key: value.detach() for key, value in scalars.items()}

    def _loop(self) -> None:
        run = self.run_config
        log = Log(run.out / "log.jsonl", run, self.stage.batch_size)
        saved = sampled = self.seconds
        while self.progress < 1 and not self._interrupted:
            start = time.perf_counter()
            scalars = self.update()
            if self.step % 20 == 0 and not math.isfinite(float(scalars["loss"])):
                raise DivergedError(
                    f"the loss is {float(scalars['loss'])} at step {self.step}; lower optimizer.lr and --resume "
                    f"from the last state in {run.out}"
                )
            self.seconds += time.perf_counter() - start
            log.add(self.step, self.seconds, scalars, self.progress)
            if self.seconds - saved > 60 * run.save_minutes:
                self.save(run.out / "state")
                saved = self.seconds
            if self.seconds - sampled > 60 * run.sample_minutes:
                self._sample(log)
                sampled = self.seconds
        self.save(run.out / "state")
        if not self._interrupted:
            self._sample(log)

    def _sample(self, log: Log) -> None:
        folder = self.run_config.out / "samples"
        folder.mkdir(exist_ok=True)
        with self.average.applied(), torch.no_grad():
            scores = self.stage.sample(folder, self.step)
        log.scores(self.step, self.seconds, scores)

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        print("\ninterrupted: saving after this step (press again to stop at once)", flush=True)


class Log:
    """Averages scalars over a few seconds, prints a line, and appends it to `log.jsonl`."""

    def __init__(self, path: Path, run: RunConfig, batch_size: int) -> None:
        self.path, self.run, self.batch_size = path, run, batch_size
        self.sums: dict[str, Tensor | float] = {}
        self.count, self.since = 0, time.perf_counter()

    def add(self, step: int, seconds: float, scalars: dict[str, Tensor], progress: float) -> None:
        """Count one step in; print when `log_seconds` have passed."""
        for key, value in scalars.items():
            self.sums[key] = self.sums.get(key, 0.0) + value.float()
        self.count += 1
        elapsed = time.perf_counter() - self.since
        if elapsed < self.run.log_seconds and progress < 1:
            return
        means = {key: round(float(value) / self.count, 5) for key, value in self.sums.items()}
        rate = self.count * self.batch_size / elapsed
        left = seconds * (1 - progress) / max(progress, 1e-9)
        self._write({"step": step, "seconds": round(seconds, 1), "rate": round(rate, 2), **means})
        values = "  ".join(f"{key} {value:.4f}" for key, value in means.items())
        print(
            f"{100 * progress:5.1f} %  step {step}  {values}  {rate:.1f} samples/s  "
            f"{_clock(seconds)} gone, {_clock(max(0.0, left))} left",
            flush=True,
        )
        self.sums, self.count, self.since = {}, 0, time.perf_counter()

    def scores(self, step: int, seconds: float, scores: dict[str, float]) -> None:
        """Record the scores of a sample sheet."""
        self._write({"step": step, "seconds": round(seconds, 1), "scores": scores})
        print(f"samples at step {step}: " + "  ".join(f"{k} {v:.4f}" for k, v in scores.items()), flush=True)
        self.since = time.perf_counter() if not self.count else self.since

    def _write(self, row: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
