"""Any OpenAI-compatible endpoint (vLLM, SGLang, a gateway) for words and pictures, with the standard library alone.

A call is bounded in time and in size, and tried again where that can help: no connection, 408, 409, 429 and 5xx.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from fourstroke.image_io import to_rgb
from fourstroke.ranges import Natural, Positive, check_ranges

KEY_VARIABLE = "FOURSTROKE_ENDPOINT_KEY"
MAX_BYTES, MAX_PICTURE_BYTES = 8 * 2**20, 128 * 2**20
RETRIED = frozenset((408, 409, 429, 500, 502, 503, 504))
LONGEST_WAIT = 20.0
MAX_PIXELS = 1024 * 1024
"""Input images of an editing request are sent no larger (Qwen-Image-2.1, prompt enhancer protocol)."""


class EndpointError(RuntimeError):
    """The endpoint gave no answer that can be used; the message says what it said, `code` is that of HTTP if any."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class NoWordsError(EndpointError):
    """The endpoint answered, but without words: a model that refuses."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """A server that answers JSON with JSON. `url` is what paths are appended to, for example http://localhost:8000/v1.

    `timeout` is in seconds, of each wait for the connection in one try; `retries` are tries after the first one. The
    key is read from the environment variable FOURSTROKE_ENDPOINT_KEY unless it is given.
    """

    url: str
    timeout: Positive = 120.0
    retries: Natural = 2
    key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"the endpoint {self.url!r} should read http://host:port/v1")

    def post(self, path: str, body: Any, limit: int = MAX_BYTES) -> Any:
        """The JSON that `url/path` answers a body with, of at most `limit` bytes.

        Raises:
            EndpointError: after the last try, or at once for an error that another try does not mend.
        """
        data = self.send(path, json.dumps(body).encode(), limit=limit)
        try:
            return json.loads(data)
        except ValueError:
            raise EndpointError(f"{self.url} answered with something else than JSON") from None

    def send(self, path: str, body: bytes, content_type: str = "application/json", limit: int = MAX_BYTES) -> bytes:
        """The bytes that `url/path` answers with, `url` itself for an empty path; raises EndpointError as `post`."""
        for attempt in range(self.retries + 1):
            try:
                return self._ask(path, body, content_type, limit)
            except urllib.error.HTTPError as error:
                reason = f"{error.code} {_excerpt(error)}"
                wait = error.headers.get("Retry-After") or ""
                if error.code not in RETRIED:
                    raise EndpointError(f"{self.url} answered {reason}", error.code) from None
            except (OSError, http.client.HTTPException) as error:
                reason, wait = str(getattr(error, "reason", error)) or type(error).__name__, ""
            if attempt < self.retries:
                time.sleep(min(LONGEST_WAIT, float(wait) if wait.isdigit() else 0.5 * 2**attempt))
        raise EndpointError(f"{self.url} failed {self.retries + 1} times, at last with: {reason}")

    def _ask(self, path: str, body: bytes, content_type: str, limit: int) -> bytes:
        key = self.key or os.environ.get(KEY_VARIABLE, "")
        headers = {"Content-Type": content_type} | ({"Authorization": f"Bearer {key}"} if key else {})
        address = f"{self.url.rstrip('/')}/{path}" if path else self.url
        request = urllib.request.Request(address, body, headers)
        with urllib.request.urlopen(request, timeout=self.timeout) as response:
            data: bytes = response.read(limit + 1)
        if len(data) > limit:
            raise EndpointError(f"{self.url} answered with more than {limit} bytes")
        return data


@dataclass(frozen=True, kw_only=True)
class Endpoint(Service):
    """A language model that a server serves; `url` ends before `/chat/completions`."""

    model: str

    def chat(self, messages: Sequence[dict[str, Any]], **options: Any) -> str:
        """The assistant's words on a conversation, thoughts included; `options` are fields of OpenAI's API.

        Raises:
            EndpointError: as `post` does, and for an answer without words.
        """
        answer = self.post("chat/completions", {"model": self.model, "messages": list(messages), **options})
        try:
            message = answer["choices"][0]["message"]
            content = message["content"]
            refusal = message.get("refusal")
            thoughts = message.get("reasoning_content") or message.get("reasoning")
        except (KeyError, IndexError, TypeError, AttributeError):
            raise EndpointError(f"{self.url} answered with something else than a chat completion") from None
        if not isinstance(content, str):
            why = f": {refusal[:200]}" if isinstance(refusal, str) else ""
            raise NoWordsError(f"{self.url} answered without words{why}")
        turn = f"<think>{thoughts}</think>{content}" if isinstance(thoughts, str) else content
        return turn.encode(errors="replace").decode()  # JSON can spell lone surrogates, which no file holds


@dataclass(frozen=True, kw_only=True)
class ImagesEndpoint(Service):
    """A model that draws, behind OpenAI's images API; `url` ends before `/images/generations`."""

    model: str

    def draw(self, prompt: str, width: int, height: int, seed: int) -> Image.Image:
        """One picture; `seed` is an extension that ours, vLLM-Omni and SGLang know.

        Raises:
            EndpointError: as `post` does, and for an answer without a picture.
        """
        body = {"model": self.model, "prompt": prompt, "n": 1, "size": f"{width}x{height}", "seed": seed}
        answer = self.post("images/generations", body | {"response_format": "b64_json"}, MAX_PICTURE_BYTES)
        try:
            data = base64.b64decode(answer["data"][0]["b64_json"], validate=True)
            return Image.open(io.BytesIO(data)).convert("RGB")
        except (KeyError, IndexError, TypeError, ValueError, OSError):
            raise EndpointError(f"{self.url} answered without a picture") from None


def data_url(image: Image.Image) -> str:
    """A picture as a `data:` URL, as `as_sent` makes it; raises ImageError as `image_io.to_rgb`."""
    stream = io.BytesIO()
    as_sent(image).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def as_sent(image: Image.Image) -> Image.Image:
    """A picture upright and scaled down to `MAX_PIXELS`, as models see it in training and in use."""
    image = to_rgb(image)
    shrink = min(1.0, (MAX_PIXELS / (image.width * image.height)) ** 0.5)
    if shrink == 1:
        return image
    return image.resize((max(1, int(image.width * shrink)), max(1, int(image.height * shrink))))


def _excerpt(error: urllib.error.HTTPError) -> str:
    """The first words of an error's body."""
    try:
        return " ".join(error.read(400).decode("utf-8", errors="replace").split())
    except (OSError, http.client.HTTPException):
        return ""
