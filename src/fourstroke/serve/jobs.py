"""Orders on their way through the engine, and what callers hear of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from PIL import Image

from fourstroke.serve.memory import Need
from fourstroke.serve.rows import Conditions, Order, Row


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
class Claim:
    """What the pictures of one request hold together: conditions, the memory that they take, and who needs them."""

    order: Order  # of the first of them
    conditions: Conditions = field(default_factory=Conditions)
    need: Need | None = None  # measured when its turn comes
    jobs: int = 0  # not yet done, nor given up

    @property
    def held(self) -> bool:
        """Whether the prefix is there."""
        return self.conditions.positive is not None


@dataclass(eq=False)
class Job:
    """An order on its way; `listen` is called from the drawing thread and must return at once."""

    order: Order
    listen: Callable[[Event], None]
    user: str = ""
    previews: int = 0
    cancelled: bool = False
    created: float = field(default_factory=time.monotonic)
    started: float = 0.0
    row: Row | None = None
    claim: Claim = field(init=False)

    def __post_init__(self) -> None:
        self.claim = Claim(self.order)
