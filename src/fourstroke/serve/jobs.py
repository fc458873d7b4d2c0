"""Requests on their way through the engine, and what callers hear of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from PIL import Image

from fourstroke.serve.batch import Conditions, GenerationRequest, Sequence
from fourstroke.serve.kv_cache import KVBytes


@dataclass(frozen=True)
class Preview:
    """What the picture will be, as predicted after `step` of `steps`."""

    image: Image.Image
    step: int
    steps: int


@dataclass(frozen=True)
class Done:
    """The picture."""

    image: Image.Image


@dataclass(frozen=True)
class Failed:
    """The picture could not be drawn."""

    error: Exception


Event = Preview | Done | Failed


@dataclass(eq=False)
class RequestGroup:
    """What the pictures of one request share: conditions, the memory that they take, and who needs them."""

    request: GenerationRequest  # of the first of them
    conditions: Conditions = field(default_factory=Conditions)
    need: KVBytes | None = None  # measured when its turn comes
    jobs: int = 0  # not yet done, nor given up

    @property
    def has_prefix(self) -> bool:
        """Whether its keys and values are there."""
        return self.conditions.positive is not None


@dataclass(eq=False)
class Job:
    """A request on its way; `listen` is called from the engine's thread and must return at once."""

    request: GenerationRequest
    listen: Callable[[Event], None]
    user: str = ""
    previews: int = 0
    cancelled: bool = False
    created: float = field(default_factory=time.monotonic)
    started: float = 0.0
    sequence: Sequence | None = None
    group: RequestGroup = field(init=False)

    def __post_init__(self) -> None:
        self.group = RequestGroup(self.request)
