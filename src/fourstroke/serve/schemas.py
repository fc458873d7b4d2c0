"""The fields of a request: OpenAI's image API and our extensions, and what they mean to the model."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fourstroke.enhance.enhancer import Enhanced
from fourstroke.lora.loader import MAX_STRENGTH
from fourstroke.seeds import MAX_SEED, draw_seed, following
from fourstroke.serve.batch import GenerationRequest, Strengths
from fourstroke.serve.config import ServeConfig
from fourstroke.serve.errors import ApiError
from fourstroke.serve.model_card import ModelCard
from fourstroke.sizes import shaped, sized

SHARES = {"low": 0.25, "medium": 0.5}
"""Share of the model's own steps by quality; a student with fixed levels always takes all of them."""


NO_EFFECT = "accepted for clients of OpenAI's API, without effect"


class Fields(BaseModel):
    """Fields of a request. One that is null was not given; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=False)

    @model_validator(mode="before")
    @classmethod
    def _given(cls, values: Any) -> Any:
        return {k: v for k, v in values.items() if v is not None} if isinstance(values, dict) else values


class LoraStrength(Fields):
    """One of the server's adapters, and how strongly it is in use; 0 is not."""

    name: str
    strength: float | None = Field(default=None, ge=-MAX_STRENGTH, le=MAX_STRENGTH, allow_inf_nan=False)


class ImageRequest(Fields):
    """What to draw."""

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
    moderation: str | None = Field(default=None, max_length=256, description=NO_EFFECT)
    style: str | None = Field(default=None, max_length=256, description=NO_EFFECT)
    input_fidelity: str | None = Field(default=None, max_length=256, description=NO_EFFECT)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    num_inference_steps: int | None = Field(default=None, ge=1)
    guidance_scale: float | None = Field(default=None, ge=0, le=100, allow_inf_nan=False)
    negative_prompt: str | None = Field(default=None, max_length=32_000)
    step_cache: float | None = Field(
        default=None, ge=0, le=1, allow_inf_nan=False,
        description="skip most of a step that changes less than this, for models of many steps; null is the server's",
    )  # fmt: skip
    enhance: bool | None = Field(default=False, description="have the prompt rewritten first; see revised_prompt")
    lora: list[LoraStrength] | None = Field(
        default=None, description="the adapters in use, of those that /v1/models lists; null are those listed with it"
    )

    @property
    def format(self) -> str:
        """png, jpeg or webp."""
        return self.output_format or "png"

    @property
    def transparent(self) -> bool:
        """Whether an alpha channel is asked for; "auto" is opaque."""
        return self.background == "transparent"

    def check(self, card: ModelCard, config: ServeConfig) -> None:
        """Refuse what this model or server cannot do.

        Raises:
            ApiError: with the reason and the field.
        """
        if self.model is not None and self.model != card.info.name:
            message = f"there is no model {self.model!r} here; this server draws with {card.info.name!r}"
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
        if self.format == "png" and self.output_compression not in (None, 100):
            message = "png is lossless and takes no output_compression; ask for jpeg or webp"
            raise ApiError(400, message, param="output_compression")
        if self.partial_images and not self.stream:
            raise ApiError(400, "partial_images needs stream=true", param="partial_images")
        if self.enhance and not card.enhances:
            raise no_enhancer(card)
        if self.step_cache is None:
            self.step_cache = config.step_cache
        named = [lora.name for lora in self.lora or ()]
        for name in named:
            if name not in card.loras:
                message = f"lora: there is no adapter {name!r} here; there is {', '.join(card.loras) or 'none'}"
                raise ApiError(400, message, param="lora", code="lora_not_found")
            if named.count(name) > 1:
                raise ApiError(400, f"lora: {name!r} is named twice", param="lora")

    def requests(
        self,
        card: ModelCard,
        inputs: Sequence[Image.Image],
        mask: Image.Image | None = None,
        rewrite: Enhanced | None = None,
    ) -> list[GenerationRequest]:
        """One request for each of the n pictures, with the seeds from `seed` on.

        Raises:
            ApiError: for a size that the model does not draw, or one that is not the masked picture's.
        """
        width = height = None
        if self.size and self.size != "auto":
            if not (match := re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", self.size)):
                raise ApiError(400, f'size is {self.size!r}; write "auto" or "WIDTHxHEIGHT"', param="size")
            width, height = int(match[1]), int(match[2])
            if not width or not height:
                raise ApiError(400, f"size is {self.size!r}; both sides must be positive", param="size")
        elif mask is not None:
            width, height = mask.size
        try:
            if width is None and rewrite is not None and not inputs:
                width, height = shaped(rewrite.ratio, card.info)
            width, height = sized(card.info, width, height, inputs)
        except ValueError as error:
            raise ApiError(400, str(error), param="size") from None
        if mask is not None and mask.size != (width, height):
            own = f"{mask.width}x{mask.height}"
            raise ApiError(
                400, f"size is {self.size}; with a mask it is the picture's own, {own}, or auto", param="size"
            )
        assert self.seed is not None, "drawn by `settle`"
        scale = card.info.guidance_scale if self.guidance_scale is None else self.guidance_scale
        prompt = self.prompt if rewrite is None else rewrite.prompt
        return [
            GenerationRequest(
                prompt=prompt, width=width, height=height, seed=following(self.seed, j),
                num_inference_steps=self._steps(card), guidance_scale=scale,
                negative_prompt=self.negative_prompt or "", transparent=self.transparent,
                inputs=tuple(inputs), mask=mask, original_prompt=self.prompt if prompt != self.prompt else None,
                factor=card.info.factor, lora=self._lora(card), step_cache=self.step_cache or 0.0,
            )
            for j in range(self.n)
        ]  # fmt: skip

    def settle(self) -> int:
        """The seed, drawn now where none was asked for."""
        if self.seed is None:
            self.seed = draw_seed()
        return self.seed

    def _lora(self, card: ModelCard) -> Strengths:
        """The adapters in use; one that is named without a strength has its own, or 1 where that is 0."""
        used = card.loras
        if self.lora is not None:
            used = {}
            for lora in self.lora:
                used[lora.name] = (card.loras[lora.name] or 1.0) if lora.strength is None else lora.strength
        return tuple((name, used[name]) for name in card.loras if used.get(name))

    def _steps(self, card: ModelCard) -> int | None:
        if self.num_inference_steps or card.info.sample_sigmas or self.quality not in SHARES:
            return self.num_inference_steps
        return math.ceil(card.info.num_inference_steps * SHARES[self.quality])


class EnhanceRequest(Fields):
    """A prompt to be rewritten."""

    prompt: str = Field(min_length=1, max_length=32_000)
    seed: int | None = Field(default=0, ge=0, le=MAX_SEED)


class EnhanceResponse(BaseModel):
    """A rewritten prompt, to be looked at before it is drawn."""

    object: Literal["prompt"] = "prompt"
    created: int
    request: str
    prompt: str = Field(description="what to draw: the rewrite, or the request where there is a warning")
    size: str = Field(description='the shape that the enhancer chose, or "auto"')
    reasoning: str
    warning: str | None


def no_enhancer(card: ModelCard) -> ApiError:
    """What a model without an enhancer answers."""
    message = f"{card.info.name} has no prompt enhancer; serve with --endpoint to use one elsewhere"
    return ApiError(400, message, param="enhance", code="no_enhancer")
