"""What draws the rewrites: a frozen generator in this process, or a server of pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from fourstroke.chance import stable_fraction
from fourstroke.enhance.checks import wants_transparent
from fourstroke.enhance.endpoint import ImagesEndpoint
from fourstroke.flow.sampler import seeded_noise
from fourstroke.pipeline import Pipeline
from fourstroke.sizes import sized
from fourstroke.text import PromptTooLong
from fourstroke.text.templates import transparent


class Generator(Protocol):
    """Captions to pictures."""

    width: int
    height: int

    def draw(self, captions: Sequence[str], seeds: Sequence[int]) -> list[np.ndarray]:
        """A picture (height, width, 3) uint8 for each caption from the noise of its seed.

        One with a transparent background has four channels, straight alpha last.
        """


class PipelineGenerator:
    """A pipeline whose weights take no gradient; `width` and `height` are in pixels, by default the model's own.

    Raises ValueError for a size that the model does not draw.
    """

    def __init__(
        self, pipe: Pipeline, width: int | None = None, height: int | None = None, batch_size: int = 16
    ) -> None:
        for part in (pipe.transformer, pipe.autoencoder, pipe.text_encoder):
            part.eval().requires_grad_(False)
        self.pipe, self.batch_size = pipe, batch_size
        self.width, self.height = sized(pipe.info, width, height, None)

    def draw(self, captions: Sequence[str], seeds: Sequence[int]) -> list[np.ndarray]:
        """As `Generator.draw`; the picture of a caption that is empty or too long to draw is black."""
        pictures = [np.zeros((self.height, self.width, 3), np.uint8) for _ in captions]
        asked = [wants_transparent(caption) for caption in captions]
        fitting = [index for index, text in enumerate(captions) if text.strip() and self._fits(text, asked[index])]
        grid, channels = self.pipe.info.grid(self.width, self.height), self.pipe.transformer.config.in_channels
        for clear in (False, True):
            same = [index for index in fitting if asked[index] == clear]
            for start in range(0, len(same), self.batch_size):
                part = same[start : start + self.batch_size]
                noise = seeded_noise([seeds[index] for index in part], math.prod(grid), channels)
                texts = [captions[index] for index in part]
                out = self.pipe(texts, width=self.width, height=self.height, latents=noise, seed=0, transparent=clear)
                for index, image in zip(part, out.images, strict=True):
                    pictures[index] = np.asarray(image)
        return pictures

    def _fits(self, caption: str, clear: bool) -> bool:
        try:
            self.pipe.text_encoder.tokenize([transparent(caption) if clear else caption])
        except (PromptTooLong, ValueError):
            return False
        return True


class EndpointGenerator:
    """A server of pictures, asked for several at a time."""

    def __init__(self, endpoint: ImagesEndpoint, width: int = 1024, height: int = 1024, parallel: int = 8) -> None:
        self.endpoint, self.width, self.height, self.parallel = endpoint, width, height, parallel

    def draw(self, captions: Sequence[str], seeds: Sequence[int]) -> list[np.ndarray]:
        """As `Generator.draw`. Raises EndpointError if the server fails for one of them."""

        def one(caption: str, seed: int) -> np.ndarray:
            known = int(stable_fraction("noise", str(seed)) * 2**31)  # what every server takes
            return np.asarray(self.endpoint.draw(caption, self.width, self.height, known))

        with ThreadPoolExecutor(self.parallel) as pool:
            return list(pool.map(one, captions, seeds))
