"""What the API must know of a model, wherever that model runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from fourstroke.enhance.enhancer import Enhanced
from fourstroke.folder import ModelInfo
from fourstroke.serve.batch import GenerationRequest
from fourstroke.serve.kv_cache import KVBudget


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """A model in words and numbers; small enough to send."""

    info: ModelInfo
    version: str
    max_prompt_tokens: int
    enhances: bool
    kv_budget: KVBudget
    loras: dict[str, float] = field(default_factory=dict)
    """The adapters by name, with the strengths of requests that say nothing of adapters; 0 is not in use."""

    def steps(self, request: GenerationRequest) -> int:
        """How many steps a picture takes."""
        return request.num_inference_steps or self.info.own_steps


class ServedModel(Protocol):
    """A loaded model, here or elsewhere. The methods may be called from any thread, and block."""

    @property
    def card(self) -> ModelCard:
        """What it is; changes with its weights."""

    def count_tokens(self, prompt: str) -> int:
        """Tokens of a prompt in its template; `ValueError` for an empty prompt, or one over the limit."""

    def prefix_tokens(self, prompt: str, slots: Sequence[int]) -> int:
        """Tokens before the target, for a prompt of any length and input images of so many vision slots."""

    def enhance(self, prompt: str, images: Sequence[Image.Image], seed: int, transparent: bool = False) -> Enhanced:
        """The rewrite of a prompt; `ValueError` where the model has no enhancer."""
