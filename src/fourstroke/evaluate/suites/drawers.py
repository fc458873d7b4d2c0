"""Who draws a suite: a model of ours, or one behind an OpenAI-compatible images endpoint."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from fourstroke.enhance.endpoint import ImagesEndpoint

if TYPE_CHECKING:
    from fourstroke.pipeline import Pipeline  # models take seconds to import, in which other processes can be started

REMOTE = "openai:"
"""Begins the name of a model behind an endpoint: `openai:http://host:8000/v1#model`."""
REMOTE_SIDE = 1024
"""Of a picture that nobody asked a size for."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How pictures are drawn; None is the model's own."""

    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None


class Drawer(Protocol):
    """Draws pictures of one size that share their input images."""

    name: str
    steps: int | None
    guidance: float | None

    def draw(
        self,
        texts: Sequence[str],
        seeds: Sequence[int],
        size: tuple[int, int] | None,
        inputs: Sequence[Image.Image],
        transparent: bool,
    ) -> list[Image.Image]:
        """A picture for each text, from its seed.

        Raises:
            ValueError: for what the model does not draw.
            RuntimeError: if it could not be drawn.
        """

    def rewrite(self, text: str, inputs: Sequence[Image.Image], seed: int) -> str:
        """What the model's enhancer makes of a prompt; raises ValueError if it has none."""


def open_drawer(model: str | None, device: str | None, look: Look) -> Drawer:
    """Load a model, or take an endpoint's name apart; raises ValueError if there is none, or for a size it cannot."""
    if model is not None and model.startswith(REMOTE):
        return RemoteDrawer(remote(model), look)
    from fourstroke.pipeline import Pipeline

    return PipelineDrawer(Pipeline.from_pretrained(model, device=device), look)


def remote(model: str) -> ImagesEndpoint:
    """The endpoint of a name; raises ValueError for one that is none."""
    url, _, name = model.removeprefix(REMOTE).partition("#")
    if not name:
        raise ValueError(f"{model} names no model: write {REMOTE}http://host:8000/v1#MODEL")
    return ImagesEndpoint(url=url, model=name)


class PipelineDrawer:
    """A model here."""

    def __init__(self, pipe: Pipeline, look: Look) -> None:
        from fourstroke.sizes import sized

        sized(pipe.info, look.width, look.height, None)
        self.pipe, self.look, self.name = pipe, look, pipe.info.name
        self.steps: int | None = pipe.info.own_steps if look.steps is None else look.steps
        self.guidance: float | None = pipe.info.guidance_scale if look.guidance is None else look.guidance
        self._rewrite = functools.lru_cache(maxsize=4096)(self._rewritten)

    def draw(
        self,
        texts: Sequence[str],
        seeds: Sequence[int],
        size: tuple[int, int] | None,
        inputs: Sequence[Image.Image],
        transparent: bool,
    ) -> list[Image.Image]:
        """As `Drawer.draw`; the same picture whatever else is drawn with it."""
        width, height = size or (None, None)
        return self.pipe(
            list(texts),
            images=list(inputs) or None,
            seed=list(seeds),
            width=self.look.width or width,
            height=self.look.height or height,
            num_inference_steps=self.look.steps,
            guidance_scale=self.look.guidance,
            transparent=transparent,
        ).images

    def rewrite(self, text: str, inputs: Sequence[Image.Image], seed: int) -> str:
        """The enhancer's prompt, or the request itself where it warns; its shape is left aside."""
        return self._rewrite(text, seed) if not inputs else self._rewritten(text, seed, inputs)

    def _rewritten(self, text: str, seed: int, inputs: Sequence[Image.Image] = ()) -> str:
        from fourstroke.enhance.enhancer import EnhancerWarning

        if self.pipe.enhancer is None:
            raise ValueError(f"{self.name} has no prompt_enhancer folder; leave --enhance out")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EnhancerWarning)  # such pictures are counted at the end
            found = self.pipe.enhancer(text, list(inputs), seed=seed)
        return found.prompt or text


class RemoteDrawer:
    """A model behind an endpoint, which draws with steps and guidance of its own."""

    def __init__(self, endpoint: ImagesEndpoint, look: Look) -> None:
        if look.steps is not None or look.guidance is not None:
            raise ValueError("a model behind an endpoint has its own steps and guidance; leave --steps, --guidance out")
        self.endpoint, self.look, self.name = endpoint, look, endpoint.model
        self.steps: int | None = None
        self.guidance: float | None = None

    def draw(
        self,
        texts: Sequence[str],
        seeds: Sequence[int],
        size: tuple[int, int] | None,
        inputs: Sequence[Image.Image],
        transparent: bool,
    ) -> list[Image.Image]:
        """As `Drawer.draw`, all at a time; raises EndpointError."""
        if inputs:
            raise ValueError("edits cannot be drawn through an endpoint; draw them there, and name the folder")
        width, height = size or (REMOTE_SIDE, REMOTE_SIDE)
        width, height = self.look.width or width, self.look.height or height

        def one(text: str, seed: int) -> Image.Image:
            return self.endpoint.draw(text, width, height, seed)

        with ThreadPoolExecutor(len(texts)) as pool:
            return list(pool.map(one, texts, seeds))

    def rewrite(self, text: str, inputs: Sequence[Image.Image], seed: int) -> str:
        """Raises ValueError: the endpoint rewrites or does not."""
        raise ValueError("a model behind an endpoint rewrites prompts itself, or not at all; leave --enhance out")
