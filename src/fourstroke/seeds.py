"""Seeds of pictures: one range at every door, Python, the command line, the server and its page."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, SupportsIndex

from fourstroke.arguments import whole

MAX_SEED = 2**53 - 1
"""The largest seed, the smallest is 0. JSON's numbers are exact up to here in every client, a browser's too."""

Seeds = SupportsIndex | Sequence[SupportsIndex]
"""One seed, or one for each prompt."""


def check_seed(seed: Any, name: str = "seed") -> int:
    """A seed as an int: an int, a numpy or torch integer.

    Raises:
        ValueError: if it is something else, or out of the range.
    """
    return whole(name, seed, 0, MAX_SEED)


def draw_seed() -> int:
    """A seed where none was asked for, short enough to be typed again."""
    return secrets.randbelow(2**31)


def following(seed: int, steps: int = 1) -> int:
    """The seed `steps` after another; after the largest comes 0, so that what is answered can be asked for."""
    return (seed + steps) % (MAX_SEED + 1)


def seeds_of(seed: Seeds | None, prompts: int) -> list[int]:
    """The seed of each of so many prompts: one for all, a drawn one for None, or one each.

    Raises:
        ValueError: if a seed is out of the range, or their number is another.
    """
    if seed is None:
        return [draw_seed()] * prompts
    several = getattr(seed, "ndim", 0) == 1 or (isinstance(seed, Sequence) and not isinstance(seed, str | bytes))
    if not several:
        return [check_seed(seed)] * prompts
    seeds: list[Any] = list(seed)  # type: ignore[arg-type]
    if len(seeds) != prompts:
        raise ValueError(f"{len(seeds)} seeds for {prompts} prompts; give one for each prompt, or one for all")
    return [check_seed(one, f"seed[{index}]") for index, one in enumerate(seeds)]
