"""What the API must know of a model, wherever that model runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from fourstroke.enhance.enhancer import Enhanced
from fourstroke.folder import ModelInfo
from fourstroke.serve.memory import Space
from fourstroke.serve.rows import Order


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A model in words and numbers; small enough to send."""

    info: ModelInfo
    version: str
    max_prompt_tokens: int
    enhances: bool
    space: Space

    def steps(self, order: Order) -> int:
        """How many steps a picture takes."""
        return order.num_inference_steps or self.info.own_steps


class Model(Protocol):
    """A loaded model, here or elsewhere. The methods may be called from any thread, and block."""

    @property
    def facts(self) -> Facts:
        """What it is; changes with its weights."""

    def count_tokens(self, prompt: str) -> int:
        """Tokens of a prompt in its template; `ValueError` for an empty prompt, or one over the limit."""

    def prefix_tokens(self, prompt: str, slots: Sequence[int]) -> int:
        """Tokens before the target, for a prompt of any length and input images of so many vision slots."""

    def enhance(self, prompt: str, images: Sequence[Image.Image], seed: int) -> Enhanced:
        """The rewrite of a prompt; `ValueError` where the model has no enhancer."""
