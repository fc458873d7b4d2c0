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
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from fourstroke.serve.jobs import Claim, Done, Failed, Job, Preview
from fourstroke.serve.memory import Need
from fourstroke.serve.metrics import Metrics
from fourstroke.serve.model import Model
from fourstroke.serve.painter import Painter
from fourstroke.serve.rows import Batch, Order, Shape

log = logging.getLogger(__name__)
Maker = Callable[[Sequence[Tensor], Sequence[Order]], list[Image.Image]]


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
        self._batches: OrderedDict[Shape, list[Job]] = OrderedDict()
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
            claims: dict[tuple[object, ...], Claim] = {}
            for job in jobs:
                job.claim = claims.setdefault(job.order.source, job.claim)
                job.claim.jobs += 1
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
                    self._take(job)
                    self._release(job)
                    self.metrics.pictures.add(outcome="cancelled")

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
        self.metrics.running.set(sum(map(len, list(self._batches.values()))))
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
        """The next job that fits, users in turn.

        Where it must wait for memory, pictures whose prefix is there already go before it: they take little more, and
        the memory is free when the last of them is done.
        """
        if not self._users:
            return None
        first = next(iter(self._users.values()))[0]
        waiting = [job for jobs in self._users.values() for job in jobs]
        running = [job for jobs in self._batches.values() for job in jobs]
        if not self._has_room(first, running):
            return None
        held = {job.claim for job in (*waiting, *running) if job.claim.held}
        for job in (first, *(job for job in waiting if job.claim in held)):
            if self._has_room(job, running) and self._has_memory(job, running, held):
                self._take(job)
                if job.user in self._users:
                    self._users.move_to_end(job.user)
                return job
        return None

    def _take(self, job: Job) -> None:
        """Take a job out of the queue."""
        self._users[job.user].remove(job)
        self._waiting -= 1
        if not self._users[job.user]:
            del self._users[job.user]

    def _has_room(self, job: Job, running: Sequence[Job]) -> bool:
        """Whether rows and latents are left for it; one alone may be as large as it likes."""
        orders = [job.order, *(job.order for job in running)]
        rows, latents = (sum(sizes) for sizes in zip(*((o.evaluations, o.evaluations * o.tokens) for o in orders)))
        return not running or (rows <= self.rows and latents <= self.tokens)

    def _has_memory(self, job: Job, running: Sequence[Job], held: set[Claim]) -> bool:
        """Whether its keys and values fit beside those that are there; what fits nowhere may begin, and is refused."""
        need, budget = self._need(job.claim), self.painter.space.budget
        kept = sum(self._need(claim).kept for claim in held | {job.claim})
        steps = sum(self._need(other.claim).step for other in (job, *running))
        return kept + steps <= budget or sum(need) > budget

    def _need(self, claim: Claim) -> Need:
        if claim.need is None:
            claim.need = self.painter.space.need(claim.order, self.painter.prefix_tokens)
        return claim.need

    def _begin(self, job: Job) -> None:
        job.started = time.monotonic()
        self.metrics.wait_seconds.observe(job.started - job.created)
        if job.cancelled:
            self._release(job)
            self.metrics.pictures.add(outcome="cancelled")
            return
        try:
            self.painter.space.check(job.order, self._need(job.claim))
            job.row = self.painter.begin(job.order, job.claim.conditions)
        except Exception as error:  # the thread's edge: one bad order must not stop the others
            self._release(job)
            self._fail([job], error)
            return
        self._batches.setdefault(job.row.shape, []).append(job)

    def _tick(self) -> None:
        """One step of the batch whose turn it is."""
        if not self._batches:
            return
        shape, jobs = next(iter(self._batches.items()))
        for job in [job for job in jobs if job.cancelled]:
            self.metrics.pictures.add(outcome="cancelled")
            self._leave(job, jobs)
        if jobs:
            stepped, failed = self._step(list(jobs))
            for job, error in failed:
                self._leave(job, jobs)
                self._fail([job], error)
            if stepped:
                self.metrics.steps.add()
                self.metrics.rows.add(len(stepped))
                self._deliver(stepped, jobs)
        if jobs:
            self._batches.move_to_end(shape)
        else:
            del self._batches[shape]

    def _step(self, jobs: Sequence[Job]) -> tuple[list[tuple[Job, Tensor]], list[tuple[Job, Exception]]]:
        """One step of rows of one shape together: their latents, and those that failed with their errors.

        Where all together fail, for want of memory as a rule, each half tries alone: nobody fails with the others.
        """
        batch = Batch(self.painter.pipe)
        for job in jobs:
            assert job.row is not None
            batch.add(job.row)
        try:
            return list(zip(jobs, batch.step())), []
        except Exception as error:  # the thread's edge
            if len(jobs) == 1:
                return [], [(jobs[0], error)]
        # out of the handler: the error's frames held the memory that the halves need
        half = len(jobs) // 2
        (first, lost), (second, more) = self._step(jobs[:half]), self._step(jobs[half:])
        return [*first, *second], [*lost, *more]

    def _deliver(self, stepped: list[tuple[Job, Tensor]], jobs: list[Job]) -> None:
        """Show what a step made of the rows, where someone wants to see it: sketches, pictures, then previews."""
        sketches, pictures, previews = [], [], []
        for job, latent in stepped:
            row = job.row
            assert row is not None
            shown = preview_steps(row.steps, job.previews)
            if row.step == row.steps:
                self._leave(job, jobs)
                pictures.append((job, latent))
            elif shown and row.step == shown[0] and self.painter.hurried(row):
                sketches.append((job, latent))
            elif row.step in shown:
                previews.append((job, latent))
        for group in (sketches, pictures, previews):
            size = self.painter.at_once(group[0][0].order) if group else 1
            make = self.painter.sketched if group is sketches else self.painter.pictures
            for start in range(0, len(group), size):
                self._show(group[start : start + size], make, jobs)

    def _show(self, group: list[tuple[Job, Tensor]], make: Maker, jobs: list[Job]) -> None:
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
            images = []
            if len(group) == 1:
                job = group[0][0]
                if job in jobs:
                    self._leave(job, jobs)
                self._fail([job], error)
                return
        for (job, _), image in zip(group, images):
            self._tell(job, image)
        if not images:  # one bad picture must not spoil the others
            for one in group:
                self._show([one], make, jobs)

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

    def _leave(self, job: Job, jobs: list[Job]) -> None:
        jobs.remove(job)
        self._release(job)

    def _release(self, job: Job) -> None:
        """Let the prefix go with the last picture that needs it, whoever still holds on to the job."""
        with self._changed:
            job.claim.jobs -= 1
            if not job.claim.jobs:
                job.claim.conditions.clear()

    def _fail(self, jobs: Sequence[Job], error: Exception) -> None:
        if not isinstance(error, ValueError):
            log.error("drawing failed", exc_info=error)
        error = error.with_traceback(None)  # its frames hold tensors, and may wait long for a client
        for job in jobs:
            self.metrics.pictures.add(outcome="failed")
            job.listen(Failed(error))


def preview_steps(steps: int, previews: int) -> list[int]:
    """After which steps to show a partial image: evenly spread, the first within a third of the way."""
    shown: list[int] = []
    for index in range(min(previews, steps - 1)):
        shown.append(max(shown[-1] + 1 if shown else 1, steps * (index + 1) // (previews + 2)))
    return shown
