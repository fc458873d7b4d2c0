"""What the enhancer learns from: an annotation, and what taking it apart gives (short prompt, reasoning, rich caption).

Who takes annotations apart is a kind of `caption_rules` in the registry: `chat` asks a language model, the drawn world
offers rules over its scene graphs. Further ones need a `open() -> Degrader` and a line in the registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Protocol

from fourstroke.enhance.checks import Lexicon
from fourstroke.registry import Registered

Kind = Literal["generate", "edit"]
CATEGORIES = ("General", "Portrait", "Text", "Complex Text")


class RejectedError(ValueError):
    """An annotation that cannot be taken apart; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """The rich caption of a picture, or the long description of an edit."""

    text: str
    kind: Kind = "generate"
    width: int | None = None
    height: int | None = None
    """Pixels of the picture, for its shape; None where unknown."""
    inputs: tuple[str, ...] = ()
    """Files of the images that an edit starts from, in order."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Anything that rules may want, such as a scene graph."""


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
    source: str = "rules"
    """What took it apart: rules, or the name of a language model."""
    inputs: tuple[str, ...] = ()
    """Files of the images that an edit starts from, in order."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Plain data by which pictures of the short prompt can be judged; who made the triplet reads it again."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON; `Triplet.from_dict` reads it back."""
        return asdict(self) | {"steps": [asdict(step) for step in self.steps], "inputs": list(self.inputs)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Triplet:
        """The triplet that `to_dict` wrote."""
        steps = tuple(Step(**step) for step in plain.get("steps", ()))
        return cls(**{**plain, "steps": steps, "inputs": tuple(plain.get("inputs", ()))})


class Degrader(Protocol):
    """Takes annotations apart; the same one and seed give the same triplet as far as it can promise that."""

    lexicon: Lexicon
    """All things that its captions can name, for a small generator's enhancer; empty where they are not known."""

    def degrade(self, annotation: Annotation, seed: int) -> Triplet:
        """The triplet of an annotation. Raises `RejectedError`."""


class CaptionRules(Protocol):
    """A kind of degrader in a recipe: a frozen dataclass of its options."""

    kind: ClassVar[str]

    def open(self) -> Degrader:
        """The degrader; raises ValueError, in one line, if there is none to be had."""


Rules = Annotated[CaptionRules, Registered("caption_rules")]
"""A recipe's key that names a degrader: `rules: {kind: chat, endpoint: {url: …, model: …}}`."""
