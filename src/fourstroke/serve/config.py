"""Every number of a server."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass


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

    def __post_init__(self) -> None:
        if not all(self.api_keys):
            raise ValueError("an API key is empty")
        if not 1 <= self.replicas[0] <= self.replicas[1]:
            raise ValueError(f"replicas are {self.replicas[0]} to {self.replicas[1]}; say MIN:MAX with 1 <= MIN <= MAX")
        if self.max_n > self.queue:
            object.__setattr__(self, "max_n", self.queue)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
