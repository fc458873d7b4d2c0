"""How the front of a cluster follows its replicas, with replicas that fail on cue in place of Ray's."""

from __future__ import annotations

import asyncio
import queue
import threading

import pytest

pytest.importorskip("ray")

from PIL import Image
from ray.exceptions import GetTimeoutError, RayActorError

from fourstroke.serve import ServeConfig
from fourstroke.serve.cluster import ATTEMPTS, Cluster, Remote
from fourstroke.serve.errors import ApiError
from fourstroke.serve.jobs import Done, Failed, Job, Preview
from fourstroke.serve.scheduler import Draining, QueueFull

from .conftest import wait_until
from .test_engine import request

IMAGE = Image.new("RGB", (64, 32))
PREVIEWS = [Preview(IMAGE, step, 4) for step in (1, 2)]


class Handle:
    """Ray Serve's handle: each call of `draw` plays the next script; an exception in it is a replica's death."""

    def __init__(self, *scripts) -> None:
        self.scripts, self.calls, self.hold, self.cancelled = list(scripts), 0, threading.Event(), 0
        self.draw = self
        self.hold.set()

    def options(self, stream):
        assert stream
        return self

    def remote(self, request, previews, user):
        script = self.scripts[min(self.calls, len(self.scripts) - 1)]
        self.calls += 1
        return Response(script, self)


class Response:
    def __init__(self, script, handle) -> None:
        self.script, self.handle = script, handle

    async def __aiter__(self):
        while not self.handle.hold.is_set():
            await asyncio.sleep(0.01)
        for event in self.script:
            if isinstance(event, Exception):
                raise event
            yield event

    def cancel(self) -> None:
        self.handle.cancelled += 1


class Behind:
    def __init__(self, handle) -> None:
        self.handle = handle


@pytest.fixture
def front():
    made = []

    def build(handle, **config):
        cluster = Cluster("local", None, None, ServeConfig(**config))
        threading.Thread(target=cluster._loop.run_forever, daemon=True).start()
        cluster._remote = Behind(handle)
        made.append(cluster)
        return cluster

    yield build
    for cluster in made:
        assert cluster.close(10)


def drawn(cluster, asked=None):
    inbox = queue.Queue()
    job = Job(asked or request(), inbox.put, previews=2)
    cluster.submit([job])
    events = [inbox.get(timeout=10)]
    while isinstance(events[-1], Preview):
        events.append(inbox.get(timeout=10))
    return events


def test_a_picture_whose_replica_dies_is_drawn_again_and_no_preview_comes_twice(front):
    handle = Handle([PREVIEWS[0], RayActorError()], [RayActorError()], [*PREVIEWS, Done(IMAGE)])
    cluster = front(handle)
    events = drawn(cluster)
    assert [getattr(event, "step", None) for event in events] == [1, 2, None]
    assert isinstance(events[-1], Done)
    assert (handle.calls, cluster.retried) == (3, 2)
    assert cluster.metrics.pictures.value(outcome="done") == 1


def test_it_gives_up_where_every_replica_dies(front):
    handle = Handle([RayActorError()])
    (event,) = drawn(front(handle))
    assert isinstance(event, Failed)
    assert "were lost" in str(event.error)
    assert handle.calls == ATTEMPTS


def test_cancelling_ends_the_remote_work_and_counts(front):
    handle = Handle([Done(IMAGE)])
    handle.hold.clear()
    cluster, told = front(handle), []
    job = Job(request(), told.append)
    cluster.submit([job])
    wait_until(lambda: handle.calls == 1)
    cluster.cancel([job])
    cluster.cancel([job])
    wait_until(lambda: not cluster._tasks)
    wait_until(lambda: handle.cancelled == 1)
    assert not told
    assert cluster.metrics.pictures.value(outcome="cancelled") == 1


def test_what_is_under_way_is_bounded_and_draining_takes_no_more(front):
    handle = Handle([Done(IMAGE)])
    handle.hold.clear()
    cluster, told = front(handle, queue=2, replicas=(1, 2)), []
    cluster.submit([Job(request(), told.append) for _ in range(4)])
    with pytest.raises(QueueFull):
        cluster.submit([Job(request(), told.append)])
    cluster.drain()
    with pytest.raises(Draining):
        cluster.submit([Job(request(), told.append)])
    handle.hold.set()
    assert cluster.close(10)
    assert [type(event) for event in told] == [Done] * 4


def test_replicas_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="MIN:MAX"):
        ServeConfig(replicas=(3, 2))


class Answers:
    """A call whose replica dies as often as it is told to."""

    def __init__(self, *outcomes) -> None:
        self.outcomes, self.count_tokens = list(outcomes), self

    def remote(self, prompt):
        return self

    def result(self, timeout_s):
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def test_questions_are_asked_again_where_a_replica_dies_over_them(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert Remote(Answers(RayActorError(), RayActorError(), 7), None, 1).count_tokens("a cat") == 7
    with pytest.raises(ValueError, match="empty"):
        Remote(Answers(RayActorError(), "the prompt is empty"), None, 1).count_tokens("")
    with pytest.raises(ApiError, match="lost"):
        Remote(Answers(*[RayActorError()] * ATTEMPTS), None, 1).count_tokens("a cat")
    slow = Answers(GetTimeoutError(), 7)
    with pytest.raises(TimeoutError):
        Remote(slow, None, 1).count_tokens("a cat")
    assert slow.outcomes == [7]
