"""A server from its checkpoint to its exit code."""

from __future__ import annotations

import signal
from types import FrameType

import uvicorn

from fourstroke.pipeline import Pipeline
from fourstroke.serve.api import create_app
from fourstroke.serve.config import ServeConfig
from fourstroke.serve.engine import Engine, Studio
from fourstroke.serve.painter import Painter


class Server(uvicorn.Server):
    """uvicorn that drains: on SIGTERM or SIGINT nothing new is taken, what was accepted is finished, the exit is 0."""

    def __init__(self, config: uvicorn.Config, engine: Studio) -> None:
        super().__init__(config)
        self.engine = engine

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; a second SIGINT drops what is left."""
        self.engine.drain()
        super().handle_exit(sig, frame)


def build_engine(pipe: Pipeline, config: ServeConfig) -> Engine:
    """The engine of a loaded model."""
    painter = Painter(pipe, config.cache_bytes, config.kv_bytes)
    return Engine(painter, queue=config.queue, rows=config.rows, tokens=config.tokens)


def build_server(engine: Studio, config: ServeConfig, *, log_level: str = "info") -> Server:
    """A server in front of an engine, ready to `run()`."""
    settings = uvicorn.Config(
        create_app(engine, config), host=config.host, port=config.port, log_level=log_level, server_header=False,
        timeout_graceful_shutdown=round(config.request_seconds) + 1, lifespan="on",
    )  # fmt: skip
    return Server(settings, engine)


def serve(engine: Studio, config: ServeConfig) -> None:
    """Serve until SIGTERM or SIGINT; returns once drained."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises the signal again after its shutdown
    build_server(engine, config).run()
