"""A server from its checkpoint to its exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
from types import FrameType
from typing import Any

import uvicorn

from fourstroke.lora import LoraSource, find_lora
from fourstroke.pipeline import Pipeline
from fourstroke.serve.app import create_app
from fourstroke.serve.config import ServeConfig
from fourstroke.serve.engine import Engine, ServingEngine
from fourstroke.serve.model_runner import ModelRunner

BACKLOG = 2048
"""Connections that may wait, as uvicorn has it."""
ELSEWHERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""One of a name's addresses may not be of this machine."""


class Server(uvicorn.Server):
    """uvicorn that drains: on SIGTERM or SIGINT nothing new is taken, what was accepted is finished, the exit is 0."""

    def __init__(self, config: uvicorn.Config, engine: ServingEngine) -> None:
        super().__init__(config)
        self.engine = engine

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; a second SIGINT drops what is left."""
        self.engine.drain()
        super().handle_exit(sig, frame)


def load_pipeline(model: str | None, device: str | None, config: ServeConfig, **memory: Any) -> Pipeline:
    """The model with its adapters, whose files are found before the model is loaded; `memory` says how it is kept."""
    sources = [LoraSource.parse(lora) for lora in config.loras]
    files = [find_lora(source.file) for source in sources]
    pipe = Pipeline.from_pretrained(model, device=device, **memory)
    for source, file in zip(sources, files, strict=True):
        pipe.load_lora(file, source.strength, source.called)
    return pipe


def build_engine(pipe: Pipeline, config: ServeConfig) -> Engine:
    """The engine of a loaded model."""
    runner = ModelRunner(pipe, config.cache_bytes, config.kv_bytes)
    return Engine(runner, queue=config.queue, rows=config.rows, tokens=config.tokens)


def build_server(engine: ServingEngine, config: ServeConfig, *, log_level: str = "info") -> Server:
    """A server in front of an engine, ready to `run()`."""
    settings = uvicorn.Config(
        create_app(engine, config), host=config.host, port=config.port, log_level=log_level, server_header=False,
        timeout_graceful_shutdown=round(config.request_seconds) + 1, lifespan="on",
    )  # fmt: skip
    return Server(settings, engine)


def listen(config: ServeConfig) -> list[socket.socket]:
    """Sockets at all addresses of the host; to be had before anything is loaded, and closed by whoever serves.

    Raises:
        ValueError: the host is unknown here, the port is taken or not ours to use.
    """
    where = f"port {config.port} of {config.host}"
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"cannot listen on {config.host!r}: {error}; name an address of this machine") from None
    sockets: list[socket.socket] = []
    refusals: list[OSError] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        try:
            sockets.append(_bound(socket.socket(family, kind, protocol), address))
        except OSError as error:
            refusals.append(error)
    worst = [error for error in refusals if error.errno not in ELSEWHERE]
    if worst or not sockets:
        for one in sockets:
            one.close()
        reason = (worst or refusals)[0]
        advice = "choose another --port" if worst else "name an address of this machine as --host"
        raise ValueError(f"cannot listen on {where}: {reason.strerror}; {advice}")
    return sockets


def _bound(one: socket.socket, address: tuple[Any, ...]) -> socket.socket:
    """`one`, listening at an address; closed where it cannot."""
    with contextlib.ExitStack() as undo:
        undo.callback(one.close)
        if os.name == "posix":  # elsewhere it would share a port that is taken
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if one.family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        one.listen(BACKLOG)
        undo.pop_all()
    return one


def serve(engine: ServingEngine, config: ServeConfig, sockets: list[socket.socket]) -> None:
    """Serve until SIGTERM or SIGINT; returns once drained."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises the signal again after its shutdown
    build_server(engine, config).run(sockets)
