"""Draws a suite here, on several processes, under torchrun, or on the machines of a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing.sharedctypes import Synchronized
from typing import Any

import torch

from fourstroke import progress
from fourstroke.evaluate.drawn import RECIPE, ROWS
from fourstroke.evaluate.suites.draw import DrawOptions, Plan, draw_share, finish, plan, prepare, share_of_launcher
from fourstroke.evaluate.suites.drawers import REMOTE, remote
from fourstroke.files import clear_partials, user_path
from fourstroke.folder import ENHANCER, find_model, lineage, part
from fourstroke.progress import OnPicture
from fourstroke.terminal import collect_rarely

POLL = 1.0
"""Seconds between looks at how far other processes are."""


def draw_suite(options: DrawOptions, processes: int = 1, ray: str | None = None) -> dict[str, Any]:
    """Draw a suite; what was drawn before is left as it is.

    Args:
        options: what, by whom, how and where.
        processes: that draw at a time, here or on the cluster.
        ray: address of a Ray cluster whose machines see the same files, `auto`, or `local`; None draws here.

    Raises:
        ValueError: before anything is drawn, if the suite, the model or the folder cannot be used.
        RuntimeError: if a process ends, an endpoint fails, or many pictures in a row cannot be drawn.
    """
    options = _absolute(options)
    planned = plan(options)
    _check_model(options)
    rank, ranks = share_of_launcher()
    if ranks > 1 and (processes > 1 or ray is not None):
        raise ValueError("torchrun has started several processes already; leave --processes and --ray out")
    if rank == 0:
        prepare(options, planned)
    else:
        _await_recipe(options)
    if planned.skipped and rank == 0:
        for why, count in planned.skipped.items():
            print(f"fourstroke: {count} rows of the suite are passed over: {why}", file=sys.stderr)
    if ranks == 1 and ray is None:
        for folder in options.folders():
            clear_partials(folder)
    on_picture = progress.pictures(planned.suite.kind) if rank == 0 else None
    if ray is not None:
        _on_ray(options, processes, ray, on_picture, planned)
    elif processes > 1:
        _on_processes(options, processes, on_picture, planned)
    else:
        draw_share(options, rank, ranks, on_picture)
    return {
        "suite": planned.suite.kind,
        "skipped": planned.skipped,
        "folders": finish(options, planned),
        "scorer": {str(folder): planned.suite.scorer.format(folder=folder) for folder in options.folders()},
    }


def _absolute(options: DrawOptions) -> DrawOptions:
    """With paths that mean the same in every process, on every machine."""
    source = options.source.resolve() if options.source else None
    model = options.model
    if model is not None and not model.startswith(REMOTE) and (user_path(model) / "model_index.json").exists():
        model = str(user_path(model).resolve())
    return replace(options, out=options.out.resolve(), source=source, model=model)


def _check_model(options: DrawOptions) -> None:
    """Raise ValueError now for what would end every process."""
    if options.model is not None and options.model.startswith(REMOTE):
        remote(options.model)
        if options.enhance:
            raise ValueError("a model behind an endpoint rewrites prompts itself, or not at all; leave --enhance out")
        return
    folder = find_model(options.model)
    if options.enhance and not (part(lineage(folder), ENHANCER) / "config.json").exists():
        raise ValueError(f"{folder} has no {ENHANCER} folder; leave --enhance out")


def _await_recipe(options: DrawOptions) -> None:
    """Until the first process has looked at the folders."""
    deadline = time.monotonic() + 600
    while not all((folder / RECIPE).is_file() for folder in options.folders()):
        if time.monotonic() > deadline:
            raise RuntimeError("the first process has not begun within ten minutes")
        time.sleep(0.2)


class _Counter:
    """Numbers from 0 on, each given once, to whichever process asks."""

    shared: Synchronized[int]
    """Of the pool that this process belongs to."""

    @classmethod
    def set(cls, shared: Synchronized[int]) -> None:
        """Once in each process."""
        collect_rarely()
        cls.shared = shared

    @classmethod
    def claim(cls) -> int:
        """The next one."""
        with cls.shared.get_lock():
            cls.shared.value += 1
            return cls.shared.value - 1


def _share(options: DrawOptions, rank: int, ranks: int, threads: int, claim: Callable[[], int] | None = None) -> None:
    """What one of the other processes does."""
    if threads:
        torch.set_num_threads(threads)
    parent = os.getppid()

    def alone(done: int, total: int) -> None:
        if os.getppid() != parent:  # it was killed, and the next run draws the same
            raise SystemExit

    draw_share(_placed(options, rank), rank, ranks, alone, claim)


def _placed(options: DrawOptions, rank: int) -> DrawOptions:
    """Processes take turns at the GPUs."""
    gpus = torch.cuda.device_count()
    return options if options.device is not None or gpus < 2 else replace(options, device=f"cuda:{rank % gpus}")


def _on_processes(options: DrawOptions, processes: int, on_picture: OnPicture | None, planned: Plan) -> None:
    """All take batch after batch, this process too; the others are started first, for they import for seconds."""
    threads = torch.get_num_threads()
    share = max(1, threads // processes)
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    _Counter.set(counter)
    pool = ProcessPoolExecutor(processes - 1, mp_context=context, initializer=_Counter.set, initargs=(counter,))
    with pool:
        others = [pool.submit(_share, options, n, processes, share, _Counter.claim) for n in range(1, processes)]
        told = _Told(others, options, planned, on_picture)
        try:
            torch.set_num_threads(share)
            draw_share(_placed(options, 0), 0, processes, lambda done, total: told.look(), _Counter.claim)
            told.wait()
        except BrokenProcessPool:
            raise RuntimeError("a process has ended before its time; the same command goes on from here") from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list((pool._processes or {}).values()):
                process.terminate()
            raise
        finally:
            torch.set_num_threads(threads)


class _Told:
    """How far all processes are, by the rows that they have written."""

    def __init__(
        self, shares: Sequence[Future[None]], options: DrawOptions, planned: Plan, on_picture: OnPicture | None
    ) -> None:
        self.waiting, self.options, self.on_picture = set(shares), options, on_picture
        self.before = _rows(options)
        self.left = len(planned.jobs) * len(options.folders()) - self.before

    def look(self, timeout: float = 0) -> None:
        """Say it; raises what a process has raised."""
        done, self.waiting = wait(self.waiting, timeout=timeout)
        for share in done:
            share.result()
        if self.on_picture is not None and self.left and (drawn := _rows(self.options) - self.before) > 0:
            self.on_picture(min(drawn, self.left), self.left)

    def wait(self) -> None:
        """Say it until all are done."""
        while self.waiting:
            self.look(POLL)


def _rows(options: DrawOptions) -> int:
    files = [folder / ROWS for folder in options.folders()]
    return sum(file.read_bytes().count(b"\n") for file in files if file.is_file())


def _on_ray(options: DrawOptions, processes: int, address: str, on_picture: OnPicture | None, planned: Plan) -> None:
    try:
        import ray
    except ImportError:
        raise ValueError("--ray needs Ray: pip install 'fourstroke[cluster]'") from None
    if not ray.is_initialized():
        ray.init(address=None if address == "local" else address, log_to_driver=False)
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    share = ray.remote(num_gpus=gpus, max_retries=1)(_share)
    places = [share.remote(options, rank, processes, 0).future() for rank in range(processes)]
    _Told(places, options, planned, on_picture).wait()
