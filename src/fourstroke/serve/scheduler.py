"""Who is drawn next: a bounded queue, fair between users, and what may be under way at once.

Its methods may be called from any thread; the engine's thread asks `next_job` between two steps.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

from fourstroke.serve.jobs import Job, RequestGroup
from fourstroke.serve.kv_cache import KVBudget, KVBytes

SMOOTHING = 0.2
"""Share of the latest picture in the running mean of their seconds."""


class QueueFull(RuntimeError):  # noqa: N818 - reads as the sentence it is
    """No room in the queue; `retry_after` is when there may be, in seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type[QueueFull], tuple[str, int]]:
        return type(self), (str(self), self.retry_after)  # from a replica to its front


class Draining(RuntimeError):  # noqa: N818 - reads as the sentence it is
    """The server is going away and takes no new work."""


class Scheduler:
    """Jobs that wait, and the limits for those that run.

    Args:
        kv_budget: memory for keys and values.
        count: how many tokens a prompt and images of so many vision slots have.
        queue: how many pictures may wait.
        rows: how many rows may be under way over all batches; a guided picture counts twice.
        tokens: how many latents those may have in all. Small pictures gain by company; large ones fill the machine
            alone, and sharing would only make all of them late.
    """

    def __init__(
        self, kv_budget: KVBudget, count: Callable[[str, Sequence[int]], int], queue: int, rows: int, tokens: int
    ) -> None:
        if min(queue, rows, tokens) < 1:
            raise ValueError(f"queue is {queue}, rows is {rows} and tokens is {tokens}; all must be at least 1")
        self.kv_budget, self.count = kv_budget, count
        self.capacity, self.rows, self.tokens = queue, rows, tokens
        self.draining = False
        self.waiting = 0
        self._users: OrderedDict[str, deque[Job]] = OrderedDict()
        self._seconds = 1.0
        self._changed = threading.Condition()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue all of `jobs`, or none.

        Raises:
            QueueFull: there is no room for all of them.
            Draining: the server is going away.
        """
        with self._changed:
            if self.draining:
                raise Draining("the server is shutting down; try another")
            if self.waiting + len(jobs) > self.capacity:
                seconds = round(self._seconds * self.waiting / self.rows)
                raise QueueFull(f"{self.waiting} pictures are waiting already", min(60, max(1, seconds)))
            groups: dict[tuple[object, ...], RequestGroup] = {}
            for job in jobs:
                job.group = groups.setdefault(job.request.source, job.group)
                job.group.jobs += 1
                self._users.setdefault(job.user, deque()).append(job)
            self.waiting += len(jobs)
            self._changed.notify()

    def cancel(self, jobs: Sequence[Job]) -> int:
        """Mark jobs as cancelled and take those that wait out of the queue; returns how many waited."""
        gone = 0
        with self._changed:
            for job in jobs:
                if job.cancelled:
                    continue
                job.cancelled = True
                if (waiting := self._users.get(job.user)) and job in waiting:
                    self._take(job)
                    self._release(job)
                    gone += 1
        return gone

    def wake(self) -> None:
        """Let whoever sleeps in `wait_for_work` look again."""
        with self._changed:
            self._changed.notify()

    def wait_for_work(self) -> bool:
        """Sleep until a job waits; false where none ever will."""
        with self._changed:
            while not self.waiting:
                if self.draining:
                    return False
                self._changed.wait(timeout=0.5)
        return True

    def next_job(self, running: Sequence[Job]) -> Job | None:
        """Take out the next job that fits beside those that run, users in turn.

        Where it must wait for memory, pictures whose prefix is there already go before it: they take little more, and
        the memory is free when the last of them is done.
        """
        with self._changed:
            if not self._users:
                return None
            first = next(iter(self._users.values()))[0]
            waiting = [job for jobs in self._users.values() for job in jobs]
            if not self._has_room(first, running):
                return None
            computed = {job.group for job in (*waiting, *running) if job.group.has_prefix}
            for job in (first, *(job for job in waiting if job.group in computed)):
                if self._has_room(job, running) and self._has_memory(job, running, computed):
                    self._take(job)
                    if job.user in self._users:
                        self._users.move_to_end(job.user)
                    return job
            return None

    def release(self, job: Job) -> None:
        """Let the prefix go with the last picture that needs it, whoever still holds on to the job."""
        with self._changed:
            self._release(job)

    def finished(self, seconds: float) -> None:
        """Take note of how long a picture took, for `QueueFull.retry_after`."""
        self._seconds += SMOOTHING * (seconds - self._seconds)

    def kv_bytes(self, group: RequestGroup) -> KVBytes:
        """What the pictures of a request take, measured once."""
        if group.need is None:
            group.need = self.kv_budget.need(group.request, self.count)
        return group.need

    def _take(self, job: Job) -> None:
        """Take a job out of the queue."""
        self._users[job.user].remove(job)
        self.waiting -= 1
        if not self._users[job.user]:
            del self._users[job.user]

    def _release(self, job: Job) -> None:
        job.group.jobs -= 1
        if not job.group.jobs:
            job.group.conditions.clear()

    def _has_room(self, job: Job, running: Sequence[Job]) -> bool:
        """Whether rows and latents are left for it; one alone may be as large as it likes."""
        requests = [job.request, *(other.request for other in running)]
        rows = sum(request.evaluations for request in requests)
        latents = sum(request.evaluations * request.tokens for request in requests)
        return not running or (rows <= self.rows and latents <= self.tokens)

    def _has_memory(self, job: Job, running: Sequence[Job], computed: set[RequestGroup]) -> bool:
        """Whether its keys and values fit beside those that are there; what fits nowhere may begin, and is refused."""
        need, budget = self.kv_bytes(job.group), self.kv_budget.budget
        kept = sum(self.kv_bytes(group).kept for group in computed | {job.group})
        steps = sum(self.kv_bytes(other.group).step for other in (job, *running))
        return kept + steps <= budget or sum(need) > budget
