"""Sentences with gaps, by language and kind of scene; a stable tenth or more of each list is kept from training."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from fourstroke.chance import pick, stable_fraction

Wordings = Literal["trained", "heldout"]
FOLDER = Path(__file__).parent / "wordings"


@functools.lru_cache(maxsize=16)
def read_wordings(name: str) -> dict[str, tuple[str, ...]]:
    """The lists of `wordings/<name>.txt`: lines under a heading in brackets, their kind."""
    found: dict[str, list[str]] = {}
    kind = ""
    for line in (FOLDER / f"{name}.txt").read_text("utf-8").splitlines():
        if line.startswith("["):
            kind = line.strip("[]")
            found[kind] = []
        elif line:
            found[kind].append(line)
    return {kind: tuple(lines) for kind, lines in found.items()}


@functools.lru_cache(maxsize=512)
def wordings_of(name: str, kind: str, wordings: Wordings) -> tuple[str, ...]:
    """The sentences of a list that training uses, or those that it never does: a tenth, rounded up, by stable hash."""
    if wordings not in ("trained", "heldout"):
        raise ValueError(f"wordings={wordings!r}: choose 'trained' or 'heldout'")
    lines = read_wordings(name)[kind]
    held_out = held_out_of(lines)
    return tuple(line for line in lines if (line in held_out) == (wordings == "heldout"))


def held_out_of(lines: Sequence[str]) -> frozenset[str]:
    """The tenth of the lines, rounded up, that have the lowest hashes."""
    ordered = sorted(lines, key=lambda line: stable_fraction("wording", line))
    return frozenset(ordered[: -(-len(lines) // 10)])


def choose_wording(rng: np.random.Generator, name: str, kind: str, wordings: Wordings) -> str:
    """One of the sentences, each equally likely."""
    return pick(rng, wordings_of(name, kind, wordings))
