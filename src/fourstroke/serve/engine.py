"""The engine: a bounded queue, fair between users, in front of one thread that draws step by step.

Between any two steps pictures may join or leave: newcomers are admitted as soon as there is room, and whoever has been
cancelled is gone before the next step. Batches of different shapes take turns. Everything a caller hears comes as
events, called from the drawing thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from fourstroke.serve.metrics import Metrics
from fourstroke.serve.model import Model
from fourstroke.serve.painter import Painter
from fourstroke.serve.rows import Batch, Order, Row, Shape

log = logging.getLogger(__name__)
Maker = Callable[[Sequence[Tensor], Sequence[Order]], list[Image.Image]]


@dataclass(frozen=True)
class Preview:
    """What the picture will be, as predicted after `step` of `steps`."""

    image: Image.Image
    step: int
    steps: int


@dataclass(frozen=True)
class Done:
    """The picture."""

    image: Image.Image


@dataclass(frozen=True)
class Failed:
    """The picture could not be drawn."""

    error: Exception


Event = Preview | Done | Failed


@dataclass(eq=False)
class Job:
    """An order on its way; `listen` is called from the drawing thread and must return at once."""

    order: Order
    listen: Callable[[Event], None]
    user: str = ""
    previews: int = 0
    cancelled: bool = False
    created: float = field(default_factory=time.monotonic)
    started: float = 0.0
    row: Row | None = None


class Studio(Protocol):
    """What the API needs of whoever draws: an engine here, or replicas elsewhere."""

    metrics: Metrics
    ready: threading.Event
    draining: bool
    error: Exception | None

    @property
    def model(self) -> Model:
        """What is served."""

    def start(self) -> None:
        """Begin; `ready` is set once pictures can be drawn, `error` if that failed."""

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue all of `jobs`, or none. Raises `QueueFull` or `Draining`."""

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Stop drawing them; finished ones are passed over."""

    def drain(self) -> None:
        """Take no new work; may be called from a signal handler."""

    def close(self, timeout: float | None = None) -> bool:
        """Drain and wait; true when all is done."""

    def gauge(self) -> None:
        """Bring the gauges up to date."""


class QueueFull(RuntimeError):  # noqa: N818 - reads as the sentence it is
    """No room in the queue; `retry_after` is when there may be, in seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type[QueueFull], tuple[str, int]]:
        return type(self), (str(self), self.retry_after)  # from a replica to its front


class Draining(RuntimeError):  # noqa: N818 - reads as the sentence it is
    """The server is going away and takes no new work."""


class Engine:
    """Draws orders with one painter.

    Args:
        painter: the model.
        queue: how many pictures may wait.
        rows: how many rows may be under way over all batches; a guided picture counts twice.
        tokens: how many latents those may have in all. Small pictures gain by company; large ones fill the machine
            alone, and sharing would only make all of them late.
        metrics: where to count.
    """

    def __init__(
        self, painter: Painter, *, queue: int = 64, rows: int = 32, tokens: int = 2**15, metrics: Metrics | None = None
    ) -> None:
        if min(queue, rows, tokens) < 1:
            raise ValueError(f"queue is {queue}, rows is {rows} and tokens is {tokens}; all must be at least 1")
        self.painter, self.capacity, self.rows, self.tokens = painter, queue, rows, tokens
        self.metrics = metrics or Metrics()
        self.ready, self.draining = threading.Event(), False
        self.error: Exception | None = None
        self._users: OrderedDict[str, deque[Job]] = OrderedDict()
        self._batches: OrderedDict[Shape, tuple[Batch, list[Job]]] = OrderedDict()
        self._waiting, self._seconds = 0, 1.0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="painter", daemon=True)

    @property
    def model(self) -> Model:
        """What is served."""
        return self.painter

    def start(self) -> None:
        """Warm up and begin to draw, in a thread of its own; `ready` is set once warm."""
        self._thread.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue all of `jobs`, or none.

        Raises:
            QueueFull: there is no room for all of them.
            Draining: the server is going away.
        """
        with self._changed:
            if self.draining:
                raise Draining("the server is shutting down; try another")
            if self._waiting + len(jobs) > self.capacity:
                self.metrics.pictures.add(len(jobs), outcome="refused")
                seconds = round(self._seconds * self._waiting / self.rows)
                raise QueueFull(f"{self._waiting} pictures are waiting already", min(60, max(1, seconds)))
            for job in jobs:
                self._users.setdefault(job.user, deque()).append(job)
            self._waiting += len(jobs)
            self._changed.notify()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Stop drawing: those that wait are gone at once, those that run before their next step."""
        with self._changed:
            for job in jobs:
                if job.cancelled:
                    continue
                job.cancelled = True
                if (waiting := self._users.get(job.user)) and job in waiting:
                    waiting.remove(job)
                    self._waiting -= 1
                    self.metrics.pictures.add(outcome="cancelled")
                    if not waiting:
                        del self._users[job.user]

    def drain(self) -> None:
        """Take no new work; what has been accepted will be finished, then the thread ends."""
        self.draining = True  # this alone: a signal handler may hold any lock already

    def close(self, timeout: float | None = None) -> bool:
        """Drain and wait; true when all is done."""
        self.drain()
        with self._changed:
            self._changed.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def gauge(self) -> None:
        """Bring the gauges up to date."""
        store = self.painter.prefixes
        self.metrics.waiting.set(self._waiting)
        self.metrics.running.set(sum(len(jobs) for _, jobs in list(self._batches.values())))
        self.metrics.ready.set(float(self.ready.is_set() and not self.draining))
        self.metrics.prefix_hits.set(store.hits)
        self.metrics.prefix_misses.set(store.misses)
        self.metrics.prefix_bytes.set(store.nbytes)

    @torch.inference_mode()
    def _run(self) -> None:
        try:
            self.painter.warm_up()
        except Exception as error:  # the thread's edge: /health tells what is wrong
            log.exception("the warm-up failed")
            self.error = error
        else:
            self.ready.set()
        while self._admit():
            self._tick()

    def _admit(self) -> bool:
        """Let in whoever fits; sleeps while there is nothing to do, false when there never will be."""
        while True:
            with self._changed:
                while not self._waiting and not self._batches:
                    if self.draining:
                        return False
                    self._changed.wait(timeout=0.5)
                job = self._next()
            if job is None:
                return True
            self._begin(job)

    def _next(self) -> Job | None:
        """The next job that fits, users in turn."""
        if not self._users:
            return None
        user, jobs = next(iter(self._users.items()))
        running = [job.order for _, jobs in self._batches.values() for job in jobs]
        wanted = [*running, jobs[0].order]
        rows = sum(order.evaluations for order in wanted)
        if running and (rows > self.rows or sum(o.evaluations * o.tokens for o in wanted) > self.tokens):
            return None
        job = jobs.popleft()
        self._waiting -= 1
        del self._users[user]
        if jobs:
            self._users[user] = jobs
        return job

    def _begin(self, job: Job) -> None:
        job.started = time.monotonic()
        self.metrics.wait_seconds.observe(job.started - job.created)
        if job.cancelled:
            self.metrics.pictures.add(outcome="cancelled")
            return
        try:
            job.row = self.painter.begin(job.order)
        except Exception as error:  # the thread's edge: one bad order must not stop the others
            self._fail([job], error)
            return
        batch, jobs = self._batches.setdefault(job.row.shape, (Batch(self.painter.pipe), []))
        batch.add(job.row)
        jobs.append(job)

    def _tick(self) -> None:
        """One step of the batch whose turn it is."""
        if not self._batches:
            return
        shape, (batch, jobs) = next(iter(self._batches.items()))
        for job in [job for job in jobs if job.cancelled]:
            self.metrics.pictures.add(outcome="cancelled")
            self._leave(job, batch, jobs)
        if jobs:
            try:
                latents = batch.step()
            except Exception as error:  # the thread's edge
                failed = list(jobs)
                for job in failed:
                    self._leave(job, batch, jobs)
                self._fail(failed, error)
            else:
                self.metrics.steps.add()
                self.metrics.rows.add(len(jobs))
                self._deliver(list(zip(jobs, latents)), batch, jobs)
        if jobs:
            self._batches.move_to_end(shape)
        else:
            del self._batches[shape]

    def _deliver(self, stepped: list[tuple[Job, Tensor]], batch: Batch, jobs: list[Job]) -> None:
        """Show what a step made of the rows, where someone wants to see it: sketches, pictures, then previews."""
        sketches, pictures, previews = [], [], []
        for job, latent in stepped:
            row = job.row
            assert row is not None
            shown = preview_steps(row.steps, job.previews)
            if row.step == row.steps:
                self._leave(job, batch, jobs)
                pictures.append((job, latent))
            elif shown and row.step == shown[0] and self.painter.hurried(row):
                sketches.append((job, latent))
            elif row.step in shown:
                previews.append((job, latent))
        for group in (sketches, pictures, previews):
            size = self.painter.at_once(group[0][0].order) if group else 1
            make = self.painter.sketched if group is sketches else self.painter.pictures
            for start in range(0, len(group), size):
                self._show(group[start : start + size], make, batch, jobs)

    def _show(self, group: list[tuple[Job, Tensor]], make: Maker, batch: Batch, jobs: list[Job]) -> None:
        """Decode some pictures of one shape together and hand them out."""
        for job in [job for job, _ in group if job.cancelled]:
            if job not in jobs:  # it was finished; one that runs is counted when it leaves
                self.metrics.pictures.add(outcome="cancelled")
        group = [(job, latent) for job, latent in group if not job.cancelled]
        if not group:
            return
        try:
            images = make([latent for _, latent in group], [job.order for job, _ in group])
        except Exception as error:  # the thread's edge
            if len(group) > 1:  # one bad picture must not spoil the others
                for one in group:
                    self._show([one], make, batch, jobs)
                return
            job = group[0][0]
            if job in jobs:
                self._leave(job, batch, jobs)
            self._fail([job], error)
            return
        for (job, _), image in zip(group, images):
            self._tell(job, image)

    def _tell(self, job: Job, image: Image.Image) -> None:
        row, now = job.row, time.monotonic()
        assert row is not None
        if row.step < row.steps:
            if row.step == preview_steps(row.steps, job.previews)[0]:
                self.metrics.preview_seconds.observe(now - job.created)
            job.listen(Preview(image, row.step, row.steps))
            return
        seconds = now - job.started
        self._seconds += 0.2 * (seconds - self._seconds)
        self.metrics.draw_seconds.observe(seconds)
        self.metrics.pictures.add(outcome="done")
        job.listen(Done(image))

    def _leave(self, job: Job, batch: Batch, jobs: list[Job]) -> None:
        assert job.row is not None
        batch.discard(job.row)
        jobs.remove(job)

    def _fail(self, jobs: Sequence[Job], error: Exception) -> None:
        if not isinstance(error, ValueError):
            log.error("drawing failed", exc_info=error)
        for job in jobs:
            self.metrics.pictures.add(outcome="failed")
            job.listen(Failed(error))


def preview_steps(steps: int, previews: int) -> list[int]:
    """After which steps to show a partial image: evenly spread, the first within a third of the way."""
    shown: list[int] = []
    for index in range(min(previews, steps - 1)):
        shown.append(max(shown[-1] + 1 if shown else 1, steps * (index + 1) // (previews + 2)))
    return shown
