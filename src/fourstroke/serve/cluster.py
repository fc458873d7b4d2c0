"""More than one machine: replicas of the engine under Ray Serve, behind the same API.

The API runs where `fourstroke serve --ray` was started and loads no weights; Ray Serve places the replicas, restarts
those that die and adds or removes some with the load. A picture depends on its request alone, so one whose replica died
is drawn again by another, and its client sees nothing but a later answer. Ray speaks pickle between its own machines:
whoever reaches its ports may run code there, so they belong into a closed network (Ray's own advice).
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import ray
from PIL import Image
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from fourstroke.enhance.enhancer import Enhanced
from fourstroke.serve import errors
from fourstroke.serve.batch import GenerationRequest
from fourstroke.serve.config import ServeConfig
from fourstroke.serve.jobs import Done, Event, Failed, Job, Preview
from fourstroke.serve.metrics import Metrics
from fourstroke.serve.model_card import ModelCard
from fourstroke.serve.scheduler import Draining, QueueFull
from fourstroke.serve.server import build_engine, load_pipeline

log = logging.getLogger(__name__)
APP = "fourstroke"
ATTEMPTS = 4
"""How often a picture is begun at most; each time after the first because a replica died."""


class Replica:
    """One engine in a process of Ray's."""

    def __init__(self, model: str | None, device: str | None, config: ServeConfig) -> None:
        self.engine = build_engine(load_pipeline(model, device, config), config)
        self.engine.start()
        while not self.engine.ready.wait(0.05):
            self.check_health()

    def check_health(self) -> None:
        """Asked by Ray Serve, which replaces a replica that raises."""
        if self.engine.error is not None:
            raise RuntimeError(f"the model cannot draw: {self.engine.error}")

    def card(self) -> ModelCard:
        """What is served."""
        return self.engine.model.card

    async def count_tokens(self, prompt: str) -> int | str:
        """Tokens, or why the prompt is refused."""
        try:
            return await asyncio.to_thread(self.engine.model.count_tokens, prompt)
        except ValueError as error:
            return str(error)

    async def prefix_tokens(self, prompt: str, slots: Sequence[int]) -> int:
        """As `ModelRunner.prefix_tokens`."""
        return await asyncio.to_thread(self.engine.model.prefix_tokens, prompt, slots)

    async def enhance(
        self, prompt: str, images: Sequence[Image.Image], seed: int, transparent: bool = False
    ) -> Enhanced:
        """The rewrite of a prompt."""
        return await asyncio.to_thread(self.engine.model.enhance, prompt, images, seed, transparent)

    async def draw(self, request: GenerationRequest, previews: int, user: str) -> AsyncIterator[Event]:
        """The events of one picture; whoever stops listening cancels it."""
        loop, inbox = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def listen(event: Event) -> None:
            loop.call_soon_threadsafe(inbox.put_nowait, event)

        job = Job(request, listen, user, previews)
        try:
            self.engine.submit([job])
        except QueueFull as error:
            yield Failed(error)
            return
        try:
            while True:
                event = await inbox.get()
                yield event
                if not isinstance(event, Preview):
                    return
        finally:
            self.engine.cancel([job])


class Remote:
    """The model behind the replicas."""

    def __init__(self, handle: DeploymentHandle, card: ModelCard, seconds: float) -> None:
        self.handle, self.card, self.seconds = handle, card, seconds

    def count_tokens(self, prompt: str) -> int:
        """As `ModelRunner.count_tokens`."""
        found = self._ask(lambda: self.handle.count_tokens.remote(prompt))
        if isinstance(found, str):
            raise ValueError(found)
        return int(found)

    def prefix_tokens(self, prompt: str, slots: Sequence[int]) -> int:
        """As `ModelRunner.prefix_tokens`."""
        return int(self._ask(lambda: self.handle.prefix_tokens.remote(prompt, list(slots))))

    def enhance(self, prompt: str, images: Sequence[Image.Image], seed: int, transparent: bool = False) -> Enhanced:
        """As `ModelRunner.enhance`."""
        found: Enhanced = self._ask(lambda: self.handle.enhance.remote(prompt, list(images), seed, transparent))
        return found

    def _ask(self, call: Callable[[], DeploymentResponse]) -> Any:
        """What a replica answers; where it dies over it, what another does."""
        for attempt in range(ATTEMPTS):
            try:
                return call().result(timeout_s=self.seconds)
            except (RayTaskError, TimeoutError):  # of our own code in the replica, or too slow: no other does better
                raise
            except RayError as error:
                log.warning("a replica was lost (%s); asking again", type(error).__name__)
                time.sleep(0.2 * 2**attempt)
        raise errors.ApiError(503, "the replicas were lost; try again soon", code="replicas")


class Cluster:
    """Draws with replicas; to the API it is an engine.

    Args:
        address: of a Ray cluster, `auto` for the one this machine belongs to, `local` to start one here.
        model, device: what each replica loads.
        config: limits, also of each replica; `replicas` and `replica_load` drive the autoscaling.
    """

    def __init__(self, address: str, model: str | None, device: str | None, config: ServeConfig) -> None:
        self.address, self.config, self.metrics = address, config, Metrics()
        self._what = (model, device, config)
        self.ready, self.draining = threading.Event(), False
        self.error: Exception | None = None
        self.retried = 0  # pictures begun again because their replica was lost
        self._tasks: dict[Job, Future[None]] = {}
        self._lock, self._loop = threading.Lock(), asyncio.new_event_loop()
        self._remote: Remote | None = None
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="replicas", daemon=True)

    @property
    def model(self) -> Remote:
        """What is served."""
        if self._remote is None:
            raise errors.of_engine(Draining("the replicas are starting; try again soon"))
        return self._remote

    def start(self) -> None:
        """Deploy the replicas and wait for the first, in a thread; `ready` or `error` says how it went."""
        threading.Thread(target=self._loop.run_forever, name="cluster", daemon=True).start()
        self._keeper.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Send out all of `jobs`, or none. Raises `QueueFull` or `Draining`."""
        with self._lock:
            if self.draining or self._remote is None:
                raise Draining("the server is starting or shutting down; try another")
            under_way = len(self._tasks)
            if under_way + len(jobs) > self.config.queue * self.config.replicas[1]:
                self.metrics.pictures.add(len(jobs), outcome="refused")
                raise QueueFull(f"{under_way} pictures are under way already", 5)
            handle = self._remote.handle.options(stream=True)
            for job in jobs:
                self._tasks[job] = asyncio.run_coroutine_threadsafe(self._follow(job, handle), self._loop)
            started = [(job, self._tasks[job]) for job in jobs]
        for job, task in started:  # not under the lock: a task that has ended calls back at once
            task.add_done_callback(partial(self._ended, job))

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Stop drawing them; finished ones are passed over."""
        for job in jobs:
            job.cancelled = True
            with self._lock:
                task = self._tasks.get(job)
            if task is not None:
                task.cancel()

    def drain(self) -> None:
        """Take no new work."""
        self.draining = True

    def close(self, timeout: float | None = None) -> bool:
        """Let what is under way finish, then take the replicas down."""
        self.drain()
        until = time.monotonic() + (self.config.request_seconds if timeout is None else timeout)
        while self._tasks and time.monotonic() < until:
            time.sleep(0.05)
        self._over.set()
        if self._keeper.is_alive():
            self._keeper.join(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        return not self._tasks

    def gauge(self) -> None:
        """Bring the gauges up to date."""
        self.metrics.running.set(len(self._tasks))
        self.metrics.ready.set(float(self.ready.is_set() and not self.draining))

    def _keep(self) -> None:
        """Bring the replicas up, and down at the end. One thread for both: a Ray that was started here dies with the
        thread that started it (Linux tells a child of the death of its parent's thread).
        """
        try:
            self._remote = self._connected()
        except Exception as error:  # the thread's edge: /health tells what is wrong
            log.exception("the replicas could not be started")
            self.error = error
        else:
            self.ready.set()
        self._over.wait()
        if ray.is_initialized():
            serve.delete(APP)
            if self.address == "local":
                serve.shutdown()
            ray.shutdown()

    def _connected(self) -> Remote:
        alone = {"include_dashboard": False, "object_store_memory": 2**28}
        ray.init(
            self.address, ignore_reinit_error=True, log_to_driver=False, **(alone if self.address == "local" else {})
        )
        serve.start(proxy_location="Disabled")  # the API in front is ours
        with_gpu = ray.cluster_resources().get("GPU", 0) > 0
        least, most = self.config.replicas
        deployment = serve.deployment(
            name="Replica",
            ray_actor_options={"num_cpus": self.config.replica_cpus, "num_gpus": 1 if with_gpu else 0},
            max_ongoing_requests=self.config.queue + self.config.rows,
            autoscaling_config={
                "min_replicas": least, "max_replicas": most, "initial_replicas": least,
                "target_ongoing_requests": self.config.replica_load, "upscale_delay_s": 10, "downscale_delay_s": 300,
            },
            health_check_period_s=2, health_check_timeout_s=30,
            graceful_shutdown_timeout_s=self.config.request_seconds,
        )(Replica)  # fmt: skip
        handle = serve.run(deployment.bind(*self._what), name=APP, route_prefix=None)
        card: ModelCard = handle.card.remote().result(timeout_s=self.config.request_seconds)
        return Remote(handle, card, self.config.request_seconds)

    async def _follow(self, job: Job, handle: DeploymentHandle) -> None:
        """Pass a job's events on; where its replica dies, let another draw it from the beginning."""
        shown = 0
        for attempt in range(ATTEMPTS):
            number = 0
            response = handle.draw.remote(job.request, job.previews, job.user)
            try:
                async for event in response:
                    if isinstance(event, Preview):
                        number += 1
                        if number <= shown:  # the client has seen it from the replica that died
                            continue
                        shown = number
                    self._tell(job, event)
                    if not isinstance(event, Preview):
                        return
            except asyncio.CancelledError:
                response.cancel()  # Ray lets the replica go on otherwise
                raise
            except RayTaskError as error:  # of our own code in the replica: another would fail as well
                self._tell(job, Failed(error))
                return
            except RayError as error:
                self.retried += 1
                log.warning("a replica was lost (%s); drawing again", type(error).__name__)
                await asyncio.sleep(0.2 * 2**attempt)
        self._tell(job, Failed(RuntimeError("the replicas that drew it were lost")))

    def _tell(self, job: Job, event: Event) -> None:
        if isinstance(event, Done):
            self.metrics.pictures.add(outcome="done")
            self.metrics.draw_seconds.observe(time.monotonic() - job.created)
        elif isinstance(event, Failed):
            self.metrics.pictures.add(outcome="failed")
        job.listen(event)

    def _ended(self, job: Job, future: Future[None]) -> None:
        with self._lock:
            self._tasks.pop(job, None)
        if future.cancelled():
            self.metrics.pictures.add(outcome="cancelled")


def cluster(address: str, model: str | None, device: str | None, config: ServeConfig) -> Cluster:
    """A cluster's engine; replicas load the same bundled models as this process."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anyone
    os.environ.setdefault("RAY_worker_niceness", "0")  # where Ray is started here: replicas serve, they do not wait
    return Cluster(address, model, device, config)
