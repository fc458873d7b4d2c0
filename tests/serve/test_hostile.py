"""What our own OpenAPI schema allows, and 200 uploads that are not what they say: never a 5xx, never slow."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import time
import zlib
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

from .conftest import Live, running

UPLOADS = 200
SLOW = 5.0
"""Seconds; a refusal takes milliseconds, the rest is for a busy machine."""


@pytest.fixture(scope="module")
def wary(tiny) -> Iterator[Live]:
    with running(tiny, input_pixels=200_000, body_bytes=2**21, queue=8) as live:
        yield live


def encoded(kind: str, size=(90, 90), mode="RGB", seed=0) -> bytes:
    channels = {"RGB": 3, "RGBA": 4}[mode]
    values = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], channels), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(values).save(out, kind)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int, depth: int = 8) -> bytes:
    """A PNG of a few bytes that groups to be huge."""
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(4096))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def malformed() -> Iterator[tuple[str, dict, dict]]:
    """Name, form fields and files; each is wrong in one way."""
    rng = random.Random(0)
    good = encoded("PNG")
    whole = {kind: encoded(kind, seed=1) for kind in ("PNG", "JPEG", "WEBP")}
    for kind, data in whole.items():
        for _ in range(30):
            cut = rng.randrange(1, len(data) * 3 // 4)
            yield f"{kind} cut at {cut}", {}, {"image": ("x", data[:cut])}
    for kind, data in whole.items():
        for _ in range(8):
            at = rng.randrange(0, 3)
            yield (
                f"{kind} without its magic",
                {},
                {"image": ("x", data[:at] + b"\x00\x01\x02\x03\x04" + data[at + 5 :])},
            )
    strange = [
        b"",
        b"GIF89a" + bytes(50),
        b"%PDF-1.7",
        b"<svg xmlns='x'/>",
        b"BM" + bytes(60),
        b"PK\x03\x04",
        b"\x7fELF",
        b"II*\x00",
    ]
    strange += [bytes(rng.randrange(256) for _ in range(n)) for n in (1, 7, 64, 500, 4000)]
    for data in strange:
        yield f"starts with {data[:8]!r}", {}, {"image": ("x.png", data, "image/png")}
    for width, height in (
        (50_000, 50_000),
        (2**31 - 1, 1),
        (1, 2**31 - 1),
        (2**31 - 1, 2**31 - 1),
        (20_000, 11),
        (0, 5),
    ):
        for depth in (8, 16):
            yield f"groups {width}x{height}", {}, {"image": ("x", bomb(width, height, depth))}
    for width, height in ((500, 401), (2000, 200)):
        yield f"is {width}x{height}", {}, {"image": ("x", encoded("JPEG", (width, height)))}
    transparent = encoded("PNG", mode="RGBA")
    for number in range(20):
        fields = {"background": "transparent", "output_format": "jpeg", "seed": str(number)}
        yield "RGBA to JPEG", fields, {"image": ("x", transparent)}
    for mask in (encoded("PNG"), encoded("PNG", (10, 10), "RGBA"), good[:200], b"", bomb(50_000, 50_000)):
        yield "a mask that is none", {}, {"image": ("x", good), "mask": ("m", mask)}
    for name in ("file", "images", "image[0]", "Image", "mask"):
        yield f"a file called {name}", {}, {name: ("x", good)}
    wrong = "n=0 n=a size=1x1 size=9e9x1 seed=-1 quality=best stream=perhaps partial_images=3 guidance_scale=nan "
    wrong += (
        "guidance_scale=inf prompt= num_inference_steps=10000 output_format=gif output_compression=101 enhance=true "
    )
    wrong += f"model=../../etc colour=red seed={2**70}"
    for field, value in (pair.split("=") for pair in wrong.split()):
        yield f"{field}={value}", {field: value}, {"image": ("x", good)}
    for size in ("31x31", "100x100", "4096x4096", "x", "32x", "-32x32", "32X32", "32x32x32", " 32x32", "٣٢x٣٢"):
        yield f"size={size}", {"size": size}, {"image": ("x", good)}
    yield "more than it may weigh", {}, {"image": ("x", bytes(2**21 + 10))}


def test_two_hundred_malformed_uploads_are_refused_with_a_reason(wary):
    cases = list(malformed())
    assert len(cases) >= UPLOADS
    with httpx.Client(base_url=wary.url, timeout=30) as web:
        for name, fields, files in cases:
            start = time.monotonic()
            answer = web.post("/v1/images/edits", data={"prompt": "a cat"} | fields, files=files)
            assert 400 <= answer.status_code < 500, (name, answer.status_code, answer.text[:200])
            error = answer.json()["error"]
            assert len(error["message"]) > 8, name
            assert "Traceback" not in error["message"], name
            assert time.monotonic() - start < SLOW, name
        assert wary.engine.metrics.pictures.value(outcome="done") == 0
        good = web.post("/v1/images/edits", data={"prompt": "a cat"}, files={"image": ("x", encoded("WEBP"))})
        assert good.status_code == 200, good.text[:200]


def test_nothing_that_the_schema_allows_breaks_the_server(wary):
    schemathesis = pytest.importorskip("schemathesis")
    hypothesis = pytest.importorskip("hypothesis")
    schema = schemathesis.openapi.from_dict(httpx.get(f"{wary.url}/openapi.json").json())
    calm = hypothesis.settings(
        max_examples=25,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    tried: dict[str, int] = {}

    def holds(case):
        answer = case.call(base_url=wary.url, timeout=30)
        tried[case.operation.path] = tried.get(case.operation.path, 0) + 1
        assert answer.status_code < 500, (case.method, case.path, case.body, answer.text[:300])

    for operation in (result.ok() for result in schema.get_all_operations()):
        for mode in schemathesis.GenerationMode:
            with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # a GET without parameters has no wrong form
                calm(hypothesis.given(operation.as_strategy(generation_mode=mode))(holds))()
    assert httpx.get(f"{wary.url}/health").status_code == 200
    assert {"/v1/images/generations", "/v1/images/edits", "/v1/prompts/enhance", "/v1/models"} <= tried.keys()
    assert tried["/v1/images/generations"] >= 25
