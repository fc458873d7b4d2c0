"""What a run tells while it goes on: lines on the terminal, `log.jsonl`, a tracker, a page with curves and sheets."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourstroke.files import append_line
from fourstroke.parallel.collectives import all_reduce_mean
from fourstroke.parallel.mesh import rank
from fourstroke.progress import Progress, clock, say
from fourstroke.train.report import write_report
from fourstroke.train.trackers import Tracker, TrackerConfig


class Log:
    """Averages scalars over a few seconds of training and over the ranks; the first rank prints and writes them.

    Use it as a context, so that the tracker is closed. `seconds` is the time that the run has gone on before.
    """

    def __init__(
        self,
        out: Path,
        log_seconds: float,
        seconds: float = 0.0,
        tracker: TrackerConfig | None = None,
        record: dict[str, Any] | None = None,
    ) -> None:
        self.out, self.log_seconds, self.since = out, log_seconds, seconds
        self.tracker: Tracker | None = None
        if tracker is not None and rank() == 0:
            self.tracker = tracker.open(out, record or {})
        self.sums: dict[str, tuple[Tensor, int]] = {}
        self.samples = 0
        self.bar = Progress("training", 1.0, "", lines=False)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()
        if self.tracker is not None:
            self.tracker.close()

    def add(
        self,
        step: int,
        seconds: float,
        scalars: dict[str, Tensor],
        progress: float,
        samples: int,
        rates: dict[str, float] | None = None,
    ) -> None:
        """Count one step of so many samples in; tell when `log_seconds` of training have passed, or at the end.

        `progress` is that of the run, 0 to 1. `rates` are learning rates by name, told as they are now. All ranks come
        here after every step, with the same `seconds` and `progress`.
        """
        for key, value in scalars.items():
            total, count = self.sums.get(key, (0.0, 0))
            self.sums[key] = value.detach().float() + total, count + 1
        self.samples += samples
        if rank() == 0:
            self.bar.to(progress, f"step {step}")
        elapsed = seconds - self.since
        if elapsed < self.log_seconds and progress < 1:
            return
        found = all_reduce_mean({key: total / count for key, (total, count) in self.sums.items()})
        means = {key: round(float(value), 5) for key, value in found.items()}
        rate = round(self.samples / max(elapsed, 1e-9), 2)
        left = seconds * (1 - progress) / max(progress, 1e-9)
        self.sums, self.samples, self.since = {}, 0, seconds
        values = "  ".join(f"{key} {value:.4f}" for key, value in means.items())
        say(
            f"{100 * progress:5.1f} %  step {step}  {values}  {rate:.1f} samples/s  "
            f"{clock(seconds)} gone, {clock(max(0.0, left))} left"
        )
        row = {"rate": rate, **means, **(rates or {}), "memory": memory()}
        self._write({"step": step, "seconds": round(seconds, 1), **row}, row)

    def scores(self, step: int, seconds: float, scores: dict[str, float], what: str = "") -> None:
        """Tell scores: those of the samples of a step, if nothing else is said."""
        say(f"{what or f'samples at step {step}'}: " + "  ".join(f"{k} {v:.4f}" for k, v in scores.items()))
        self._write({"step": step, "seconds": round(seconds, 1), "scores": scores}, scores)
        if rank() == 0:
            write_report(self.out)
            if self.tracker is not None:
                self.tracker.pictures(step, sheets(self.out, step))

    def _write(self, row: dict[str, Any], scalars: dict[str, float]) -> None:
        if rank() == 0:
            append_line(self.out / "log.jsonl", json.dumps(row))
            if self.tracker is not None:
                self.tracker.scalars(row["step"], scalars)


def sheets(out: Path, step: int) -> list[Path]:
    """The pictures in a run's folder that were drawn at a step."""
    return sorted((out / "samples").glob(f"*step-{step:06d}.png"))


def memory() -> float:
    """The most memory that this process has held so far, in GiB: of the GPU where there is one."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**30, 2)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 2)
