"""What the stages of the enhancer share: TRL's trainers kept in a run's folder, with our clock, log and resuming."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState

from fourstroke.checkpoint import pick, read_json, read_rows
from fourstroke.device import precision_note, products_dtype, training_precision
from fourstroke.files import append_line, write_text
from fourstroke.progress import Progress, clock, say
from fourstroke.ranges import Count, Decay, check_ranges
from fourstroke.recipe import RecipeError
from fourstroke.train import session
from fourstroke.train.loop import DivergedError, RunConfig
from fourstroke.train.trackers import Tracker


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Low-rank adapters (PEFT) on the linear layers; they are merged into the exported model."""

    rank: Count = 32
    alpha: Count = 64
    dropout: Decay = 0.0

    def __post_init__(self) -> None:
        check_ranges(self)

    def peft(self) -> Any:
        """PEFT's configuration; raises RuntimeError if PEFT is not installed."""
        try:
            from peft import LoraConfig
        except ModuleNotFoundError:
            raise RuntimeError("low-rank adapters need peft: pip install '.[enhance]'") from None
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )


def arguments(run: RunConfig, batch: int, lr: float, warmup: int, weight_decay: float, beta2: float) -> dict[str, Any]:
    """The fields of transformers' `TrainingArguments` that all stages of the enhancer share."""
    gpu = torch.cuda.is_available()
    if note := precision_note(run.precision):
        print(note, flush=True)
    with training_precision(run.precision):
        dtype = products_dtype(torch.device("cuda" if gpu else "cpu"))
    return {
        "output_dir": str(run.out / "state"),
        "max_steps": run.steps,
        "per_device_train_batch_size": batch,
        "learning_rate": lr,
        "warmup_steps": warmup,
        "weight_decay": weight_decay,
        "adam_beta2": beta2,
        "max_grad_norm": 1.0,
        "seed": run.seed,
        "use_cpu": not gpu,
        "bf16": dtype == torch.bfloat16,
        "logging_strategy": "no",  # `RunCallback` asks for it by the clock
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "save_total_limit": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": gpu,
    }


def refuse_accumulate(run: RunConfig, instead: str) -> None:
    """Raise ValueError for a step of several batches, which is not the run's to ask for here; `instead` says whose."""
    if run.accumulate > 1:
        raise ValueError(f"run.accumulate={run.accumulate}: leave it at 1 and {instead}")


class RunCallback(TrainerCallback):
    """Time limit, checkpoints and scores by the clock, and the run's `log.jsonl`, as the other stages have them.

    Close it, so that the run's tracker is closed.
    """

    tracker: Tracker | None = None

    def __init__(self, run: RunConfig, score: Any) -> None:
        self.run, self.score = run, score
        if run.tracker is not None:
            self.tracker = run.tracker.open(run.out, read_json(run.out / session.RECORD))
        self.before = seconds_of(run.out / "log.jsonl")
        self.bar = Progress("training", 1.0, "", lines=False)
        self.start = self.saved = self.sampled = self.logged = time.perf_counter()

    def close(self) -> None:
        """Send what is left to the tracker."""
        if self.tracker is not None:
            self.tracker.close()

    @property
    def seconds(self) -> float:
        """Of training, those before a resume included."""
        return self.before + time.perf_counter() - self.start

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The clock starts here, after the data are made."""
        self.start = self.saved = self.sampled = self.logged = time.perf_counter()
        if self.run.sample_first and state.global_step == 0:
            self.look(state)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log, save, score or stop when it is time."""
        now = time.perf_counter()
        minutes = self.run.max_minutes
        share = 0.0 if minutes is None else self.seconds / max(1e-9, 60 * minutes)
        self.bar.to(min(1.0, max(share, state.global_step / self.run.steps)), f"step {state.global_step}")
        if now - self.logged >= self.run.log_seconds:
            control.should_log, self.logged = True, now
        if now - self.saved > 60 * self.run.save_minutes:
            control.should_save = control.should_log = True  # the loss is looked at first
            self.saved = now
        if self.run.max_minutes is not None and self.seconds > 60 * self.run.max_minutes:
            control.should_training_stop = True
        last = control.should_training_stop or state.global_step >= self.run.steps
        if last:
            control.should_save = control.should_log = True
        if last or now - self.sampled > 60 * self.run.sample_minutes:
            self.look(state)
            self.sampled = time.perf_counter()

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """A row of the log."""
        values = {key: round(value, 5) for key, value in (logs or {}).items() if isinstance(value, (int, float))}
        if "train_runtime" not in values:
            self.write(state, values)
        if not math.isfinite(values.get("loss", 0.0)):
            control.should_save, control.should_training_stop = False, True  # the last state is from before

    def look(self, state: TrainerState) -> None:
        """Score the model as it is."""
        self.write(state, {"scores": self.score()})

    def write(self, state: TrainerState, values: dict[str, Any]) -> None:
        """Append a row to `log.jsonl` and print it."""
        row = {"step": state.global_step, "seconds": round(self.seconds, 1), **values}
        append_line(self.run.out / "log.jsonl", json.dumps(row))
        if self.tracker is not None:
            self.tracker.scalars(state.global_step, values.get("scores", values))
        flat = values.get("scores") or {
            k: v for k, v in values.items() if k in ("loss", "mean_token_accuracy", "reward", "kl")
        }
        share = 100 * state.global_step / max(1, self.run.steps)
        told = "  ".join(f"{key} {value:.4f}" for key, value in flat.items())
        say(f"{share:5.1f} %  step {state.global_step}  {told}  {clock(self.seconds)} gone")


@contextlib.contextmanager
def started(out: Path, resume: bool, record: dict[str, Any], fixed: Sequence[str]) -> Iterator[str | None]:
    """Hold the run's folder; yields the checkpoint to go on from, None for a new run.

    Raises:
        RecipeError: if the folder is not to be had (`session.opened`), or keys of the groups `fixed`, which say what
            the model is, differ from those of the checkpoint.
    """
    with session.opened(out, resume):
        changed = session.changes(out, record) if resume else {}
        if wrong := {key: told for key, told in changed.items() if key.split(".")[0] in fixed}:
            raise RecipeError(f"{out / 'state'} is of another model; what differs: {session.listed(wrong)}")
        if changed:
            print(f"resumed {out}; changed: {session.listed(changed)}", flush=True)
        found = session.checkpoints(out)
        if not found:
            (out / "log.jsonl").unlink(missing_ok=True)  # of a run that never saved
        session.write_record(out, record)
        yield str(found[-1]) if found else None


def finish(state: TrainerState, run: RunConfig) -> None:
    """Refuse a run whose loss was no number."""
    losses = [row["loss"] for row in state.log_history if "loss" in row]
    if any(loss != loss or abs(loss) == float("inf") for loss in losses):
        raise DivergedError(f"the loss was not finite; lower lr and --resume from the last state in {run.out}")


def seconds_of(log: Path) -> float:
    """Seconds of training that a log records."""
    rows = read_rows(log) if log.exists() else []
    return max((pick(row, "seconds", float, log) for row in rows), default=0.0)


def show(folder: Path, step: int, requests: list[str], turns: list[str]) -> None:
    """Write the first requests with what became of them."""
    text = "\n\n".join(
        f"> {request}\n{turn}" for request, turn in itertools.islice(zip(requests, turns, strict=True), 16)
    )
    write_text(folder / f"step-{step:06d}.txt", text + "\n")


def import_trl() -> Any:
    """TRL, or one line that says how to get it."""
    try:
        import datasets
        import trl
    except ModuleNotFoundError as error:
        raise RuntimeError(f"training the enhancer needs {error.name}: pip install '.[enhance]'") from None
    datasets.disable_progress_bars()
    return trl
