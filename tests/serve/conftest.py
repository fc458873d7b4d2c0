"""A live server on loopback with the tiny pipeline."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from fourstroke.pipeline import Pipeline
from fourstroke.serve import Engine, ModelRunner, ServeConfig
from fourstroke.serve.server import Server, build_engine, build_server


@dataclass
class Live:
    url: str
    server: Server

    @property
    def engine(self):
        return self.server.engine


class Brake:
    """Holds the engine's thread before every step while it is on, and counts the steps."""

    def __init__(self, live: Live) -> None:
        self.gate, self.steps = threading.Event(), 0
        self.gate.set()
        runner = live.engine.runner
        self.begin, self.runner = runner.begin, runner

        def begin(*asked):
            assert self.gate.wait(20)
            return self.begin(*asked)

        runner.begin = begin

    def on(self) -> None:
        self.gate.clear()

    def off(self) -> None:
        self.gate.set()


@contextlib.contextmanager
def running(pipe: Pipeline, **config) -> Iterator[Live]:
    settings = ServeConfig(port=0, **config)
    server = build_server(build_engine(pipe, settings), settings, log_level="error")
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not (server.started and server.engine.ready.is_set()):
        assert thread.is_alive()
        assert time.monotonic() < until
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Live(f"http://127.0.0.1:{port}", server)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def wait_until(condition, seconds=10.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def live(tiny: Pipeline) -> Iterator[Live]:
    with running(tiny, keep_alive_seconds=0.2, body_bytes=2**20, input_pixels=10_000) as server:
        yield server


@pytest.fixture
def engine_of_tiny(tiny: Pipeline) -> Iterator[Engine]:
    engine = Engine(ModelRunner(tiny), queue=16, rows=4)
    engine.start()
    yield engine
    assert engine.close(20)
