"""Pictures as bytes with a note inside that tells how they were drawn, and the bodies that carry them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

from PIL import Image, PngImagePlugin

from fourstroke.pictures import NOTE_KEY
from fourstroke.pipeline import NO_NEGATIVE
from fourstroke.serve.batch import GenerationRequest
from fourstroke.serve.model_card import ModelCard
from fourstroke.serve.schemas import ImageRequest


def picture_note(request: GenerationRequest, card: ModelCard) -> dict[str, Any]:
    """All that the picture depends on; drawing it again gives the same picture."""
    found = {
        "prompt": request.prompt, "seed": request.seed, "model": card.info.name, "version": card.version,
        "width": request.width, "height": request.height, "num_inference_steps": card.steps(request),
        "guidance_scale": request.guidance_scale, "negative_prompt": request.negative_prompt,
        "background": "transparent" if request.transparent else "opaque",
    }  # fmt: skip
    if request.original_prompt is not None:
        found["request"] = request.original_prompt
    if request.lora:
        found["lora"] = [{"name": name, "strength": strength} for name, strength in request.lora]
    if request.mask is not None:
        found["mask"] = hashlib.sha256(request.mask.tobytes()).hexdigest()[:16]
    if request.inputs:
        found["inputs"] = [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in request.inputs]
    return found


def encode(image: Image.Image, asked: ImageRequest, note: dict[str, Any] | None = None) -> bytes:
    """The picture in the format asked for; a PNG carries `note`."""
    out = io.BytesIO()
    if asked.format == "png":
        info = PngImagePlugin.PngInfo()
        if note is not None:
            info.add_itxt(NOTE_KEY, json.dumps(note, ensure_ascii=False))
        image.save(out, "PNG", pnginfo=info)
    else:
        quality = 100 if asked.output_compression is None else asked.output_compression
        image.save(out, asked.format.upper(), quality=quality)
    return out.getvalue()


class ImageResponse:
    """The bodies for one request.

    Args:
        asked: the request.
        requests: its pictures.
        text_tokens: of its prompt.
        kind: `image_generation` or `image_edit`, the first word of the events.
    """

    def __init__(self, asked: ImageRequest, requests: list[GenerationRequest], text_tokens: int, kind: str) -> None:
        self.asked, self.requests, self.kind = asked, requests, kind
        idle = requests[0].negative_prompt and requests[0].evaluations == 1
        self.warnings = {"warnings": [NO_NEGATIVE]} if idle else {}
        image_tokens = requests[0].image_tokens
        drawn = sum(request.grid[0] * request.grid[1] for request in requests)
        self.usage = {
            "input_tokens": text_tokens + image_tokens,
            "input_tokens_details": {"text_tokens": text_tokens, "image_tokens": image_tokens},
            "output_tokens": drawn,
            "total_tokens": text_tokens + image_tokens + drawn,
        }

    def body(self, pictures: list[bytes]) -> tuple[int, Iterator[bytes]]:
        """The response without streaming, as JSON: its length, and its parts, one picture after another.

        As one string, base64 and JSON would hold four large pictures many times over.
        """
        place = uuid.uuid4().hex  # of a picture
        data = [self._picture(place) | self._ours(index) for index in range(len(pictures))]
        whole = {"created": int(time.time()), "data": data, "usage": self.usage, **self._settings(), **self.warnings}
        around = json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode().split(place.encode())
        length = sum(map(len, around)) + sum((len(picture) + 2) // 3 * 4 for picture in pictures)
        return length, self._parts(around, pictures)

    @staticmethod
    def _parts(around: list[bytes], pictures: list[bytes]) -> Iterator[bytes]:
        yield around[0]
        for picture, after in zip(pictures, around[1:], strict=True):
            yield base64.b64encode(picture)
            yield after

    def partial(self, index: int, number: int, data: bytes, step: int, steps: int) -> tuple[str, dict[str, Any]]:
        """The event of a partial image: its name and data."""
        more = {"partial_image_index": number, "step": step, "steps": steps, "image_index": index}
        return self._event("partial_image", data, more)

    def completed(self, index: int, data: bytes) -> tuple[str, dict[str, Any]]:
        """The event of a finished picture."""
        more = {"usage": self.usage, "image_index": index, **self._ours(index), **self.warnings}
        return self._event("completed", data, more)

    def _event(self, name: str, data: bytes, more: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        kind = f"{self.kind}.{name}"
        fields = {"type": kind, "b64_json": base64.b64encode(data).decode(), "created_at": int(time.time())}
        return kind, fields | self._settings() | more

    def _settings(self) -> dict[str, str]:
        request, asked = self.requests[0], self.asked
        return {
            "background": "transparent" if asked.transparent else "opaque",
            "output_format": asked.format,
            "quality": asked.quality if asked.quality in ("low", "medium") else "high",
            "size": f"{request.width}x{request.height}",
        }

    def _ours(self, index: int) -> dict[str, Any]:
        return {"revised_prompt": self.requests[index].prompt, "seed": self.requests[index].seed}

    def _picture(self, encoded: str) -> dict[str, str]:
        if self.asked.response_format == "url":
            return {"url": f"data:image/{self.asked.format};base64,{encoded}"}
        return {"b64_json": encoded}


def sse(name: str, data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
