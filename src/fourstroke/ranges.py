"""Ranges of configuration values, stated in the types of dataclass fields and held by `check_ranges`."""

from __future__ import annotations

import dataclasses
import math
import numbers
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin


@dataclass(frozen=True)
class Range:
    """Values from `least` to `most`; `above` and `below` leave out the end itself."""

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Whether a finite number lies within; no other does."""
        low = value > self.least if self.above else value >= self.least
        high = value < self.most if self.below else value <= self.most
        return abs(value) < math.inf and low and high

    def __str__(self) -> str:
        ends = []
        if not math.isinf(self.least):
            ends.append(f"{'above' if self.above else 'at least'} {self.least:.12g}")
        if not math.isinf(self.most):
            ends.append(f"{'below' if self.below else 'at most'} {self.most:.12g}")
        if len(ends) == 2 and not self.above and not self.below:
            return f"between {self.least:.12g} and {self.most:.12g}"
        return " and ".join(ends) or "finite"


Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Finite = Annotated[float, Range()]
Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
PositiveFraction = Annotated[float, Range(0, 1, above=True)]
"""A share that is not nothing."""
Decay = Annotated[float, Range(0, 1, below=True)]
"""How much of what was remains at each step."""
TrainingSeed = Annotated[int, Range(0, 2**32 - 1)]
"""What NumPy's generators take, and leaves room for the seeds that stages make of it."""


def check_ranges(config: Any) -> None:
    """Hold the values of a dataclass to the ranges in its fields' types; None has none.

    Raises:
        ValueError: for a value outside its range, or one that is no number; the message names the field.
    """
    hints = typing.get_type_hints(type(config), include_extras=True)
    for name in (field.name for field in dataclasses.fields(config)):
        for value, kind, allowed in _numbers(hints[name], getattr(config, name)):
            if isinstance(value, bool) or not isinstance(value, kind) or not allowed.holds(value):
                number = "a whole number" if kind is numbers.Integral else "a number"
                raise ValueError(f"{name}={getattr(config, name)!r}: it must be {number}, {allowed}")


def _numbers(hint: Any, value: Any) -> list[tuple[Any, Any, Range]]:
    """Each value within `value` that has a range, with its kind of number and the range."""
    origin, arguments = get_origin(hint), get_args(hint)
    if value is None:
        return []
    if origin is Annotated:
        kind = numbers.Integral if arguments[0] is int else numbers.Real
        return [(value, kind, extra) for extra in arguments[1:] if isinstance(extra, Range)]
    if origin in (Union, types.UnionType):
        return [pair for option in arguments for pair in _numbers(option, value)]
    if origin is tuple and isinstance(value, (list, tuple)):
        inner = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        return [pair for kind, item in zip(inner, value, strict=False) for pair in _numbers(kind, item)]
    return []
