"""A run's folder: whose it is, that one run at a time writes into it, and what may be resumed there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import reprlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fourstroke.checkpoint import read_json
from fourstroke.files import OLD, PARTIAL, clear_partials, has_key, write_json
from fourstroke.parallel.collectives import on_rank0
from fourstroke.recipe import RecipeError
from fourstroke.terminal import outlived
from fourstroke.version import __version__

LOCK, RECORD = ".lock", "recipe.json"
NAMED = 6
"""So many keys that differ are named in a message."""

_held: set[str] = set()


@contextlib.contextmanager
def opened(out: Path, resume: bool) -> Iterator[None]:
    """Make the run's folder and hold it, for all ranks; within the block the run outlives its terminal.

    Raises:
        RecipeError: if the folder holds something else, another run writes there, or `resume` does not fit it.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(outlived())
        if threading.current_thread() is threading.main_thread():
            stack.callback(signal.signal, signal.SIGHUP, signal.signal(signal.SIGHUP, signal.SIG_IGN))
        on_rank0(lambda: stack.enter_context(_claimed(out, resume)))
        yield


def check_folder(out: Path, resume: bool) -> None:
    """Refuse a folder that a run may not start or go on in.

    Raises:
        RecipeError: if it holds anything but a run, has one already that is not resumed, or none that could be.
    """
    check_owner(out)
    saved = saved_states(out)
    if resume and not saved:
        if out.is_dir():
            with _locked(out):  # a run that goes on there and has not saved yet is told first
                pass
        raise RecipeError(f"there is nothing to resume: {out} holds no saved state; leave --resume out to start there")
    if saved and not resume:
        raise RecipeError(f"{out} already holds a run; continue it with --resume, or choose another run.out")
    if (out / "model").exists() and not resume:
        raise RecipeError(f"{out} already holds a finished model; choose another run.out")


def saved_states(out: Path) -> list[Path]:
    """What a run in this folder could be resumed from, a state that `clear_partials` brings back included."""
    return [*(out / "state").glob("state.json"), *out.glob(f".state{PARTIAL}*{OLD}/state.json"), *checkpoints(out)]


def checkpoints(out: Path) -> list[Path]:
    """What transformers' trainers saved, oldest first; a checkpoint is complete when its `trainer_state.json` is."""
    found = [file.parent for file in (out / "state").glob("checkpoint-*/trainer_state.json")]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def check_owner(out: Path) -> None:
    """Refuse a folder that is neither new nor empty nor that of a run.

    Raises:
        RecipeError: for a file, or a folder that holds other things.
    """
    if out.exists() and not out.is_dir():
        raise RecipeError(f"{out} is a file; choose a folder as run.out")
    held = [path.name for path in out.iterdir()] if out.exists() else []
    if any(name != LOCK and PARTIAL not in name for name in held) and not has_key(out / RECORD, "fourstroke"):
        raise RecipeError(f"{out} is not empty and holds no run; choose an empty or a new folder as run.out")


def write_record(out: Path, record: dict[str, Any]) -> None:
    """Write what the run is made of; by it the folder is known to hold a run."""
    write_json(out / RECORD, {"fourstroke": __version__, **record})


def changes(out: Path, record: dict[str, Any]) -> dict[str, str]:
    """By key, the recipe's values in the folder and in `record` where they differ; the run's own keys are left out."""
    before, now = (_flat(tree.get("recipe", {})) for tree in (read_json(out / RECORD), record))
    return {
        key: f"{key} {reprlib.repr(before.get(key))} -> {reprlib.repr(now.get(key))}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith("run.")
    }


def listed(found: dict[str, str]) -> str:
    """The first of some changes, and how many more there are."""
    first, more = list(found.values())[:NAMED], len(found) - NAMED
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")


@contextlib.contextmanager
def _claimed(out: Path, resume: bool) -> Iterator[None]:
    check_folder(out, resume)
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        check_folder(out, resume)  # again: a run may have ended here meanwhile
        clear_partials(out)
        yield


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the folder for this process: its death ends that, and processes that it forks have no part in it."""
    name = os.path.realpath(out)
    if name in _held:  # to open and close the file once more would let go of it
        raise RecipeError(f"another run of this process writes to {out}; choose another run.out")
    with (out / LOCK).open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                owner = file.read().strip()
                raise RecipeError(f"another run (process {owner}) writes to {out}; choose another run.out") from None
            print(f"{out} cannot be locked ({error.strerror}): let no second run write there", flush=True)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        _held.add(name)
        try:
            yield
        finally:
            _held.discard(name)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
