"""The serving engine: one thread that draws step by step what the scheduler lets in.

Between any two steps pictures may join or leave: newcomers are admitted as soon as there is room, and whoever has been
cancelled is gone before the next step. Batches of different keys take turns. Everything a caller hears comes as
events, called from the engine's thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from fourstroke.serve.batch import Batch, BatchKey, GenerationRequest
from fourstroke.serve.jobs import Done, Failed, Job, Preview
from fourstroke.serve.metrics import Metrics
from fourstroke.serve.model_card import ServedModel
from fourstroke.serve.model_runner import ModelRunner
from fourstroke.serve.scheduler import QueueFull, Scheduler

log = logging.getLogger(__name__)
Decode = Callable[[Sequence[Tensor], Sequence[GenerationRequest]], list[Image.Image]]


class ServingEngine(Protocol):
    """What the API needs of whoever draws: an engine here, or replicas elsewhere."""

    metrics: Metrics
    ready: threading.Event
    error: Exception | None

    @property
    def draining(self) -> bool:
        """Whether it takes no new work."""

    @property
    def model(self) -> ServedModel:
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


class Engine:
    """Draws requests with one model runner; `queue`, `rows` and `tokens` are limits of its `Scheduler`."""

    def __init__(
        self,
        runner: ModelRunner,
        *,
        queue: int = 64,
        rows: int = 32,
        tokens: int = 2**15,
        metrics: Metrics | None = None,
    ) -> None:
        self.runner, self.metrics = runner, metrics or Metrics()
        self.scheduler = Scheduler(runner.kv_budget, runner.prefix_tokens, queue, rows, tokens)
        self.ready = threading.Event()
        self.error: Exception | None = None
        self._batches: OrderedDict[BatchKey, list[Job]] = OrderedDict()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def model(self) -> ServedModel:
        """What is served."""
        return self.runner

    @property
    def draining(self) -> bool:
        """Whether it takes no new work."""
        return self.scheduler.draining

    def start(self) -> None:
        """Warm up and begin to draw, in a thread of its own; `ready` is set once warm."""
        self._thread.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue all of `jobs`, or none.

        Raises:
            QueueFull: there is no room for all of them.
            Draining: the server is going away.
        """
        try:
            self.scheduler.submit(jobs)
        except QueueFull:
            self.metrics.pictures.add(len(jobs), outcome="refused")
            raise

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Stop drawing: those that wait are gone at once, those that run before their next step."""
        if gone := self.scheduler.cancel(jobs):
            self.metrics.pictures.add(gone, outcome="cancelled")

    def drain(self) -> None:
        """Take no new work; what has been accepted will be finished, then the thread ends."""
        self.scheduler.draining = True  # this alone: a signal handler may hold any lock already

    def close(self, timeout: float | None = None) -> bool:
        """Drain and wait; true when all is done."""
        self.drain()
        self.scheduler.wake()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def gauge(self) -> None:
        """Bring the gauges up to date."""
        store = self.runner.prefixes
        self.metrics.waiting.set(self.scheduler.waiting)
        self.metrics.running.set(len(self._running()))
        self.metrics.ready.set(float(self.ready.is_set() and not self.draining))
        self.metrics.prefix_hits.set(store.hits)
        self.metrics.prefix_misses.set(store.misses)
        self.metrics.prefix_bytes.set(store.nbytes)

    @torch.inference_mode()
    def _run(self) -> None:
        try:
            self.runner.warm_up()
        except Exception as error:  # the thread's edge: /health tells what is wrong
            log.exception("the warm-up failed")
            self.error = error
        else:
            self.ready.set()
        while self._batches or self.scheduler.wait_for_work():
            while (job := self.scheduler.next_job(self._running())) is not None:
                self._begin(job)
            self._tick()

    def _running(self) -> list[Job]:
        return [job for jobs in list(self._batches.values()) for job in jobs]

    def _begin(self, job: Job) -> None:
        job.started = time.monotonic()
        self.metrics.wait_seconds.observe(job.started - job.created)
        if job.cancelled:
            self.scheduler.release(job)
            self.metrics.pictures.add(outcome="cancelled")
            return
        try:
            need = self.scheduler.kv_bytes(job.group)
            self.runner.kv_budget.check(job.request, need, self.runner.prefix_tokens)
            job.sequence = self.runner.begin(job.request, job.group.conditions)
        except Exception as error:  # the thread's edge: one bad request must not stop the others
            self.scheduler.release(job)
            self._fail([job], error)
            return
        self._batches.setdefault(job.sequence.key, []).append(job)

    def _tick(self) -> None:
        """One step of the batch whose turn it is."""
        if not self._batches:
            return
        key, jobs = next(iter(self._batches.items()))
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
            self._batches.move_to_end(key)
        else:
            del self._batches[key]

    def _step(self, jobs: Sequence[Job]) -> tuple[list[tuple[Job, Tensor]], list[tuple[Job, Exception]]]:
        """One step of sequences of one key together: their latents, and those that failed with their errors.

        Where all together fail, for want of memory as a rule, each half tries alone: nobody fails with the others.
        """
        self.runner.use_lora(jobs[0].request.lora)
        batch = Batch(self.runner.pipe)
        for job in jobs:
            assert job.sequence is not None
            batch.add(job.sequence)
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
        """Show what a step made, where someone wants to see it: rough previews, pictures, then decoded previews."""
        rough, pictures, previews = [], [], []
        for job, latent in stepped:
            sequence = job.sequence
            assert sequence is not None
            shown = preview_steps(sequence.steps, job.previews)
            if sequence.step == sequence.steps:
                self._leave(job, jobs)
                pictures.append((job, latent))
            elif shown and sequence.step == shown[0] and self.runner.prefers_latent_preview(sequence):
                rough.append((job, latent))
            elif sequence.step in shown:
                previews.append((job, latent))
        for group in (rough, pictures, previews):
            size = self.runner.at_once(group[0][0].request) if group else 1
            decode = self.runner.latent_previews if group is rough else self.runner.pictures
            for start in range(0, len(group), size):
                self._show(group[start : start + size], decode, jobs)

    def _show(self, group: list[tuple[Job, Tensor]], decode: Decode, jobs: list[Job]) -> None:
        """Decode some pictures of one size together and hand them out."""
        for job in [job for job, _ in group if job.cancelled]:
            if job not in jobs:  # it was finished; one that runs is counted when it leaves
                self.metrics.pictures.add(outcome="cancelled")
        group = [(job, latent) for job, latent in group if not job.cancelled]
        if not group:
            return
        try:
            images = decode([latent for _, latent in group], [job.request for job, _ in group])
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
                self._show([one], decode, jobs)

    def _tell(self, job: Job, image: Image.Image) -> None:
        sequence, now = job.sequence, time.monotonic()
        assert sequence is not None
        if sequence.step < sequence.steps:
            if sequence.step == preview_steps(sequence.steps, job.previews)[0]:
                self.metrics.preview_seconds.observe(now - job.created)
            job.listen(Preview(image, sequence.step, sequence.steps))
            return
        seconds = now - job.started
        self.scheduler.finished(seconds)
        self.metrics.draw_seconds.observe(seconds)
        self.metrics.pictures.add(outcome="done")
        job.listen(Done(image))

    def _leave(self, job: Job, jobs: list[Job]) -> None:
        jobs.remove(job)
        self.scheduler.release(job)

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
