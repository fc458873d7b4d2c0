"""The fields of a request: OpenAI's image API and our extensions, and what they mean to the model."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Sequence
from typing import Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from fourstroke.pipeline import Pipeline
from fourstroke.serve.config import ServeConfig
from fourstroke.serve.errors import ApiError
from fourstroke.serve.painter import Order

SHARES = {"low": 0.25, "medium": 0.5}
"""Share of the model's own steps by quality; a student with fixed levels always takes all of them."""


class Drawing(BaseModel):
    """What to draw. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=False)

    prompt: str = Field(min_length=1, max_length=32_000)
    model: str | None = None
    n: int = Field(default=1, ge=1)
    size: str | None = Field(default="auto", description='"auto", or width x height in pixels such as "1024x1024"')
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = "auto"
    background: Literal["transparent", "opaque", "auto"] | None = "auto"
    output_format: Literal["png", "jpeg", "webp"] | None = "png"
    output_compression: int | None = Field(default=None, ge=0, le=100)
    response_format: Literal["b64_json", "url"] | None = "b64_json"
    stream: bool | None = False
    partial_images: int | None = Field(default=0, ge=0)
    user: str | None = Field(default=None, max_length=256)
    safety_identifier: str | None = Field(default=None, max_length=256)
    moderation: Literal["auto", "low"] | None = Field(default=None, description="accepted, without effect")
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    num_inference_steps: int | None = Field(default=None, ge=1)
    guidance_scale: float | None = Field(default=None, ge=0, le=100, allow_inf_nan=False)
    negative_prompt: str | None = Field(default=None, max_length=32_000)

    @property
    def format(self) -> str:
        """png, jpeg or webp."""
        return self.output_format or "png"

    @property
    def transparent(self) -> bool:
        """Whether an alpha channel is asked for; "auto" is opaque."""
        return self.background == "transparent"

    def check(self, pipe: Pipeline, config: ServeConfig) -> None:
        """Refuse what this model or server cannot do.

        Raises:
            ApiError: with the reason and the field.
        """
        if self.model is not None and self.model != pipe.info.name:
            message = f"there is no model {self.model!r} here; this server draws with {pipe.info.name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")
        for name, value, most in (
            ("n", self.n, config.max_n),
            ("num_inference_steps", self.num_inference_steps or 1, config.max_steps),
            ("partial_images", self.partial_images or 0, config.max_previews),
        ):
            if value > most:
                raise ApiError(400, f"{name} is {value}; this server allows at most {most}", param=name)
        if self.transparent and self.format == "jpeg":
            message = "jpeg cannot hold a transparent background; ask for output_format png or webp"
            raise ApiError(400, message, param="output_format", code="transparent_jpeg")
        if self.format == "png" and (self.output_compression or 100) < 100:
            message = "png is lossless and takes no output_compression; ask for jpeg or webp"
            raise ApiError(400, message, param="output_compression")
        if self.partial_images and not self.stream:
            raise ApiError(400, "partial_images needs stream=true", param="partial_images")

    def orders(self, pipe: Pipeline, inputs: Sequence[Image.Image]) -> list[Order]:
        """One order for each of the n pictures; picture j has the seed `seed + j`.

        Raises:
            ValueError: for a size that the model does not draw.
        """
        width = height = None
        if self.size and self.size != "auto":
            if not (match := re.fullmatch(r"(\d{1,5})x(\d{1,5})", self.size)):
                raise ApiError(400, f'size is {self.size!r}; write "auto" or "WIDTHxHEIGHT"', param="size")
            width, height = int(match[1]), int(match[2])
            if not width or not height:
                raise ApiError(400, f"size is {self.size!r}; both sides must be positive", param="size")
        try:
            width, height = pipe._size(width, height, inputs)
        except ValueError as error:
            raise ApiError(400, str(error), param="size") from None
        seed = secrets.randbelow(2**31) if self.seed is None else self.seed
        scale = pipe.info.guidance_scale if self.guidance_scale is None else self.guidance_scale
        return [
            Order(
                prompt=self.prompt, width=width, height=height, seed=seed + j, num_inference_steps=self._steps(pipe),
                guidance_scale=scale, negative_prompt=self.negative_prompt or "", transparent=self.transparent,
                inputs=tuple(inputs),
            )
            for j in range(self.n)
        ]  # fmt: skip

    def _steps(self, pipe: Pipeline) -> int | None:
        if self.num_inference_steps or pipe.info.sample_sigmas or self.quality not in SHARES:
            return self.num_inference_steps
        return math.ceil(pipe.info.num_inference_steps * SHARES[self.quality])
