"""What the enhancer learns from: a caption, and what taking it apart gives (short prompt, reasoning, rich caption)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from fourstroke.world.graph import Scene

Kind = Literal["generate", "edit"]
CATEGORIES = ("General", "Portrait", "Text", "Complex Text")


class RejectedError(ValueError):
    """A caption that cannot be taken apart; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A rich caption, or the long annotation of an edit; `scene` is its graph, if it is one of the drawn world."""

    text: str
    kind: Kind = "generate"
    scene: Scene | None = None
    width: int | None = None
    height: int | None = None
    """Pixels of the picture, for its shape; None where unknown."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One degradation: its strategy, the probability it was sampled with, and the thought that undoes it."""

    strategy: str
    probability: float
    thought: str


@dataclass(frozen=True, kw_only=True)
class Triplet:
    """(P_short, CoT, P_fine) of the report, with how it came about. The thoughts undo `steps` from last to first."""

    short: str
    reasoning: str
    rich: str
    category: str
    kind: Kind = "generate"
    wh_ratio: str = "1:1"
    steps: tuple[Step, ...] = ()
    seed: int = 0
    engine: str = "rules"
    facts: Scene | None = None
    """The scene with only the objects and relations that the short prompt states, for judging pictures by it."""
    states_background: bool = False
    """Whether the short prompt states the background's colours."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON; `Triplet.from_dict` reads it back."""
        plain = asdict(self) | {"steps": [asdict(step) for step in self.steps]}
        return plain | {"facts": None if self.facts is None else self.facts.to_dict()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Triplet:
        """The triplet that `to_dict` wrote."""
        facts = plain.get("facts")
        steps = tuple(Step(**step) for step in plain.get("steps", ()))
        return cls(**{**plain, "steps": steps, "facts": None if facts is None else Scene.from_dict(facts)})


class Engine(Protocol):
    """Takes captions apart; the same caption and seed give the same triplet as far as the engine can promise it."""

    def degrade(self, caption: Caption, seed: int) -> Triplet:
        """The triplet of a caption. Raises `RejectedError`."""
