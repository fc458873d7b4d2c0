"""Pictures as bytes with their recipe inside, and the bodies that carry them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import time
from typing import Any

from PIL import Image, PngImagePlugin

from fourstroke.pictures import RECIPE_KEY
from fourstroke.pipeline import NO_NEGATIVE
from fourstroke.serve.fields import Drawing
from fourstroke.serve.model import Facts
from fourstroke.serve.rows import Order


def recipe(order: Order, facts: Facts) -> dict[str, Any]:
    """All that the picture depends on; drawing it again gives the same picture."""
    found = {
        "prompt": order.prompt, "seed": order.seed, "model": facts.info.name, "version": facts.version,
        "width": order.width, "height": order.height, "num_inference_steps": facts.steps(order),
        "guidance_scale": order.guidance_scale, "negative_prompt": order.negative_prompt,
        "background": "transparent" if order.transparent else "opaque",
    }  # fmt: skip
    if order.request is not None:
        found["request"] = order.request
    if order.mask is not None:
        found["mask"] = hashlib.sha256(order.mask.tobytes()).hexdigest()[:16]
    if order.inputs:
        found["inputs"] = [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in order.inputs]
    return found


def encode(image: Image.Image, drawing: Drawing, note: dict[str, Any] | None = None) -> bytes:
    """The picture in the format asked for; a PNG carries `note`."""
    out = io.BytesIO()
    if drawing.format == "png":
        info = PngImagePlugin.PngInfo()
        if note is not None:
            info.add_itxt(RECIPE_KEY, json.dumps(note, ensure_ascii=False))
        image.save(out, "PNG", pnginfo=info)
    else:
        quality = 100 if drawing.output_compression is None else drawing.output_compression
        image.save(out, drawing.format.upper(), quality=quality)
    return out.getvalue()


class Answer:
    """The bodies for one request.

    Args:
        drawing: the request.
        orders: its pictures.
        text_tokens: of its prompt.
        kind: `image_generation` or `image_edit`, the first word of the events.
    """

    def __init__(self, drawing: Drawing, orders: list[Order], text_tokens: int, kind: str) -> None:
        self.drawing, self.orders, self.kind = drawing, orders, kind
        idle = orders[0].negative_prompt and orders[0].evaluations == 1
        self.warnings = {"warnings": [NO_NEGATIVE]} if idle else {}
        image_tokens = orders[0].image_tokens
        drawn = sum(order.grid[0] * order.grid[1] for order in orders)
        self.usage = {
            "input_tokens": text_tokens + image_tokens,
            "input_tokens_details": {"text_tokens": text_tokens, "image_tokens": image_tokens},
            "output_tokens": drawn,
            "total_tokens": text_tokens + image_tokens + drawn,
        }

    def body(self, pictures: list[bytes]) -> dict[str, Any]:
        """The answer without streaming."""
        data = [self._picture(data) | self._ours(index) for index, data in enumerate(pictures)]
        return {"created": int(time.time()), "data": data, "usage": self.usage, **self._facts(), **self.warnings}

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
        return kind, fields | self._facts() | more

    def _facts(self) -> dict[str, str]:
        order, drawing = self.orders[0], self.drawing
        return {
            "background": "transparent" if drawing.transparent else "opaque",
            "output_format": drawing.format,
            "quality": drawing.quality if drawing.quality in ("low", "medium") else "high",
            "size": f"{order.width}x{order.height}",
        }

    def _ours(self, index: int) -> dict[str, Any]:
        return {"revised_prompt": self.orders[index].prompt, "seed": self.orders[index].seed}

    def _picture(self, data: bytes) -> dict[str, str]:
        encoded = base64.b64encode(data).decode()
        if self.drawing.response_format == "url":
            return {"url": f"data:image/{self.drawing.format};base64,{encoded}"}
        return {"b64_json": encoded}


def sse(name: str, data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
