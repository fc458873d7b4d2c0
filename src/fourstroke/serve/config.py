"""Every number of a server."""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass, fields
from urllib.parse import urlsplit

from fourstroke.arguments import real
from fourstroke.lora import LoraSource

LEAST = {"port": 0, "cache_bytes": 0, "max_previews": 0}
"""The smallest value of numbers that may be less than one; seconds and loads must only be above zero."""
MOST = {"port": 65_535}


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Where to listen, who may ask, and how much."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()  # none: anyone who reaches the port may draw
    cors_origins: tuple[str, ...] = ()  # web pages of other origins that may call
    queue: int = 64  # pictures that may wait
    rows: int = 32  # pictures under way together; a guided one counts twice
    tokens: int = 2**15  # latents of all that is under way, so that large pictures are drawn one after the other
    kv_bytes: int | None = None  # keys and values of all that is under way; None: half of what is free on a GPU
    cache_bytes: int = 2**29  # for prefixes that may come again
    body_bytes: int = 64 * 2**20
    body_seconds: float = 60.0  # for the whole body to arrive
    input_images: int = 10
    input_pixels: int = 32_000_000  # of one input image
    max_n: int = 10
    max_steps: int = 100
    max_previews: int = 10
    request_seconds: float = 600.0  # waiting and drawing together
    keep_alive_seconds: float = 10.0  # between comments of a silent stream
    replicas: tuple[int, int] = (1, 4)  # fewest and most, where Ray Serve runs them
    replica_load: float = 8.0  # pictures under way in each that call for another one
    replica_cpus: float = 1.0  # set aside for each, beside a GPU where there are some
    step_cache: float = 0.0  # of requests that name none, see `Pipeline`
    loras: tuple[str, ...] = ()  # adapters, each [NAME=]FILE[:STRENGTH]

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_range(field.name, getattr(self, field.name))
        if not all(key.isascii() and key.isprintable() and key.split() == [key] for key in self.api_keys):
            raise ValueError("an API key is empty, or has spaces or letters that no header carries; use plain ASCII")
        for origin in self.cors_origins:
            _check_origin(origin)
        if not 1 <= self.replicas[0] <= self.replicas[1]:
            raise ValueError(f"replicas are {self.replicas[0]} to {self.replicas[1]}; say MIN:MAX with 1 <= MIN <= MAX")
        names = [LoraSource.parse(lora).called for lora in self.loras]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two adapters are called {name}; give one another name, as in --lora other=FILE")
        if self.max_n > self.queue:
            object.__setattr__(self, "max_n", self.queue)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def _check_range(name: str, value: object) -> None:
    if isinstance(value, int) and not LEAST.get(name, 1) <= value <= MOST.get(name, value):
        most = f" and at most {MOST[name]}" if name in MOST else ""
        raise ValueError(f"{name} is {value}; it must be at least {LEAST.get(name, 1)}{most}")
    if name == "step_cache":
        real(name, value, 0, 1)
    elif isinstance(value, float) and not 0 < value < math.inf:
        raise ValueError(f"{name} is {value:g}; it must be a finite number above 0")


def _check_origin(origin: str) -> None:
    """Refuse an origin that no browser sends: they write it in one way, and it is compared letter by letter."""
    if origin in ("*", "null"):
        return
    try:
        parts = urlsplit(origin)
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port
    except ValueError as error:
        raise ValueError(f"the origin {origin!r} cannot be read: {error}") from None
    if not parts.scheme or not re.fullmatch(r"[a-z0-9._:-]+", host):
        raise ValueError(f"the origin {origin!r} is none; write scheme and host, such as https://a.example, or * alone")
    host = f"[{host}]" if ":" in host else host
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    sent = f"{parts.scheme}://{host}" + ("" if port in (None, usual) else f":{port}")
    if origin != sent:
        raise ValueError(f"no browser sends the origin {origin!r}; write {sent}")
