"""Finds datasets, judges, rewards and the like by the `kind` that a recipe names.

A kind is a frozen dataclass of options with a class variable `kind`; a recipe's other keys fill its fields. Three
sources, in this order: what a package of ours lists with `offer`; what installed packages declare as entry points in
the group `fourstroke.<group>` (the drawn world is such a guest); and `module:Class`, for a file of one's own.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Literal, get_args

Group = Literal[
    "datasets", "filters", "labels", "losses", "judges", "validators", "rewards", "caption_rules", "evaluations",
    "trackers", "suites", "chapters", "objectives",
]  # fmt: skip
GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True)
class Registered:
    """In `Annotated`: a recipe's key whose value is one of a group's kinds, `{kind: folder, path: pictures}`."""

    group: Group


_offered: dict[Group, dict[str, str]] = {group: {} for group in GROUPS}


def offer(group: Group, **kinds: str) -> None:
    """Make kinds known by name; each is where its class stands, `package.module:Class`, imported when first wanted."""
    _offered[group] |= kinds


def kinds(group: Group) -> dict[str, str]:
    """Every kind of a group that is known by name, and where its class stands."""
    guests = {point.name: point.value for point in entry_points(group=f"fourstroke.{group}")}
    return guests | _offered[group]


def find(group: Group, kind: str) -> Any:
    """The class of a kind.

    Raises:
        ValueError: if there is none of the name, or it cannot be imported; the message names the known ones.
    """
    known = kinds(group)
    where = known.get(kind, kind if ":" in kind else "")
    if not where:
        close = difflib.get_close_matches(kind, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known)) or 'none'}"
        raise ValueError(f"there is no {kind!r} among the {group.replace('_', ' ')}; {hint}")
    module, _, name = where.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the kind {kind!r} ({where}) cannot be imported: {error}") from None
