"""Numbers and texts as callers give them, of Python, numpy or torch, with a plain word for what is neither."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

MAX_GUIDANCE = 100.0
"""The largest guidance scale; the smallest is 0."""


def whole(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """A whole number as an int: an int, a numpy or torch integer, but no float and no bool.

    Raises:
        ValueError: with the name, if it is something else or not between `least` and `most`.
    """
    try:
        found = None if _boolean(value) else operator.index(value)
    except TypeError:
        found = None
    if found is None or (least is not None and found < least) or (most is not None and found > most):
        raise ValueError(f"{name} is {shown(value)}; it must be a whole number{_between(least, most)}")
    return found


def real(name: str, value: Any, least: float, most: float) -> float:
    """A number as a float: one of Python, numpy or torch, but no text and no bool.

    Raises:
        ValueError: with the name, if it is something else, not finite, or not between `least` and `most`.
    """
    try:
        found = None if _boolean(value) or isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # torch raises RuntimeError for several elements
        found = None
    if found is None or not least <= found <= most:
        raise ValueError(f"{name} is {shown(value)}; it must be a number{_between(least, most)}")
    return found


def texts(name: str, value: Any) -> list[str]:
    """One text or several as a list; None is the empty text.

    Raises:
        ValueError: with the name, for what is no text.
    """
    several = isinstance(value, Iterable) and not isinstance(value, str | bytes)
    found = ["" if text is None else text for text in (value if several else [value])]
    for index, text in enumerate(found):
        if not isinstance(text, str):
            place = f"{name}[{index}]" if several else name
            raise ValueError(f"{place} is {shown(text)}; it must be a text")
    return found


def shown(value: Any) -> str:
    """A value in a message of one line: itself if it is short, else what it is."""
    text = repr(value)
    plain = value is None or isinstance(value, int | float | str)
    return text if plain and len(text) <= 60 else f"of the type {type(value).__name__}"


def _boolean(value: Any) -> bool:
    return isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))


def _between(least: float | None, most: float | None) -> str:
    if least is None:
        return ""
    return f", at least {least:g}" if most is None else f" from {least:.0f} to {most:.0f}"
