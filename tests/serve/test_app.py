"""The API, through OpenAI's own client and past it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import struct
import zlib

import httpx
import numpy as np
import pytest
from PIL import Image

from fourstroke.serve.app import STUDIO

from .conftest import Brake, running, wait_until

openai = pytest.importorskip("openai")


def client(live, key="none", **more):
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key=key, max_retries=0, timeout=20, **more)


def opened(b64):
    return Image.open(io.BytesIO(base64.b64decode(b64)))


def png(color="red", size=(64, 32), mode="RGB"):
    out = io.BytesIO()
    Image.new(mode, size, color).save(out, "PNG")
    return out.getvalue()


def assert_same(a, b, most=1):
    assert np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max() <= most


def test_the_official_client_draws_the_pictures_of_the_pipeline(live, tiny):
    answer = client(live).images.generate(
        prompt="a cat", model="tiny", n=3, size="64x32", extra_body={"seed": 7, "guidance_scale": 3.0}
    )
    assert answer.size == "64x32"
    assert answer.background == "opaque"
    assert answer.usage.output_tokens == 3 * 8
    assert answer.usage.input_tokens == answer.usage.input_tokens_details.text_tokens > 0
    for j, picture in enumerate(answer.data):
        image = opened(picture.b64_json)
        assert picture.revised_prompt == "a cat"
        assert_same(image, tiny("a cat", seed=7 + j, guidance_scale=3.0).images[0])
        note = json.loads(image.text["fourstroke"])
        assert note["seed"] == 7 + j
        assert note["version"] == live.engine.runner.version
        assert note["num_inference_steps"] == 3


def test_the_official_client_streams(live):
    events = list(client(live).images.generate(
        prompt="a cat", stream=True, partial_images=3, size="auto", extra_body={"seed": 1, "num_inference_steps": 6}
    ))  # fmt: skip
    assert [e.type.split(".")[1] for e in events] == ["partial_image"] * 3 + ["completed"]
    assert [e.partial_image_index for e in events[:-1]] == [0, 1, 2]
    assert {opened(e.b64_json).size for e in events} == {(64, 32)}
    assert events[-1].usage.total_tokens > 8
    whole = client(live).images.generate(prompt="a cat", extra_body={"seed": 1, "num_inference_steps": 6})
    assert events[-1].b64_json == whole.data[0].b64_json


def test_the_official_async_client_draws_together(live, tiny):
    async def burst():
        async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as asking:
            seeds = range(12)
            answers = [asking.images.generate(prompt="a red circle", extra_body={"seed": s}) for s in seeds]
            return await asyncio.gather(*answers)

    for seed, answer in enumerate(asyncio.run(burst())):
        assert_same(opened(answer.data[0].b64_json), tiny("a red circle", seed=seed).images[0])


def test_a_negative_prompt_without_guidance_is_told(live):
    told = ["the negative prompt has no effect at guidance 1; ask for more guidance, or leave it out"]
    extra = {"negative_prompt": "blue"}
    assert client(live).images.generate(prompt="a cat", extra_body=extra).warnings == told
    (done,) = client(live).images.generate(prompt="a cat", stream=True, extra_body=extra)
    assert done.warnings == told
    guided = client(live).images.generate(prompt="a cat", extra_body=extra | {"guidance_scale": 2})
    assert not hasattr(guided, "warnings")


def test_edits_take_one_image_or_several(live, tiny):
    red, blue = Image.new("RGB", (64, 32), "red"), Image.new("RGB", (64, 32), "blue")
    one = client(live).images.edit(image=("r.png", png()), prompt="make it blue", extra_body={"seed": 3})
    assert_same(opened(one.data[0].b64_json), tiny("make it blue", images=[red], seed=3).images[0])
    assert one.usage.input_tokens_details.image_tokens == 8
    assert one.usage.total_tokens == one.usage.input_tokens + one.usage.output_tokens
    assert one.usage.input_tokens == one.usage.input_tokens_details.text_tokens + 8
    two = list(client(live).images.edit(
        image=[("r.png", png()), ("b.png", png("blue"))], prompt="x", stream=True, extra_body={"seed": 3}
    ))  # fmt: skip
    assert [e.type for e in two] == ["image_edit.completed"]
    assert_same(opened(two[0].b64_json), tiny("x", images=[red, blue], seed=3).images[0])


def test_formats_and_backgrounds(live):
    ask = client(live).images.generate
    assert opened(ask(prompt="a cat", background="transparent").data[0].b64_json).mode == "RGBA"
    webp = ask(prompt="a cat", background="transparent", output_format="webp", output_compression=80)
    assert (opened(webp.data[0].b64_json).format, webp.output_format) == ("WEBP", "webp")
    jpeg = ask(prompt="a cat", output_format="jpeg", response_format="url").data[0].url
    assert jpeg.startswith("data:image/jpeg;base64,")
    assert opened(jpeg.split(",")[1]).format == "JPEG"


def test_models_and_their_limits(live):
    (model,) = client(live).models.list().data
    assert model.id == "tiny"
    assert client(live).models.retrieve("tiny").fourstroke["max_side"] == 96
    with pytest.raises(openai.NotFoundError, match="no model"):
        client(live).models.retrieve("other")


@pytest.mark.parametrize(
    ("fields", "reason", "param"),
    [
        ({"prompt": ""}, "at least 1 character", "prompt"),
        ({"prompt": "  "}, "prompt is empty", "prompt"),
        ({"prompt": "cat " * 60}, "limit is 50", "prompt"),
        ({"prompt": "<|image_pad|>"}, "remove it", "prompt"),
        ({"size": "100x100"}, "multiple of 32", "size"),
        ({"size": "1024x1024"}, "at most 96", "size"),
        ({"size": "0x32"}, "positive", "size"),
        ({"size": "big"}, "WIDTHxHEIGHT", "size"),
        ({"n": 0}, "greater than or equal to 1", "n"),
        ({"n": 11}, "at most 10", "n"),
        ({"n": "x"}, "valid integer", "n"),
        ({"num_inference_steps": 1000}, "at most 100", "num_inference_steps"),
        ({"background": "transparent", "output_format": "jpeg"}, "jpeg cannot hold", "output_format"),
        ({"output_compression": 50}, "png is lossless", "output_compression"),
        ({"partial_images": 2}, "needs stream", "partial_images"),
        ({"seed": -1}, "greater than or equal to 0", "seed"),
        ({"enhanse": True}, "unknown parameter", "enhanse"),
    ],
)
def test_bad_fields_are_400_with_the_reason(live, fields, reason, param):
    with pytest.raises(openai.BadRequestError) as error:
        client(live).post("/images/generations", body={"prompt": "a cat", **fields}, cast_to=object)
    assert reason in error.value.body["message"]
    assert error.value.body["param"] == param
    assert error.value.body["type"] == "invalid_request_error"


def test_an_unknown_model_is_404(live):
    with pytest.raises(openai.NotFoundError, match="draws with 'tiny'"):
        client(live).images.generate(prompt="a cat", model="dall-e-3")


def _bomb(width, height):
    """A PNG of a few bytes that groups to be huge."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(4096))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_malformed_uploads_are_400_with_a_reason(live):
    good, rng = png("red", (90, 90)), random.Random(0)
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8))
    out = io.BytesIO()
    noisy.save(out, "PNG")
    noise = out.getvalue()
    bad = [b"", b"GIF89a", b"hello", b"\x00" * 100, b"<svg/>", _bomb(50_000, 50_000), _bomb(2**31 - 1, 1), good[:20]]
    bad += [noise[: rng.randrange(1, len(noise) - 2000)] for _ in range(40)]
    bad += [png("red", (200, 200)), _bomb(100, 99)]
    with httpx.Client(base_url=live.url, timeout=10) as web:
        for data in bad:
            answer = web.post("/v1/images/edits", data={"prompt": "x"}, files={"image": ("x.png", data)})
            assert answer.status_code == 400, data[:60]
            assert answer.json()["error"]["message"]
            assert answer.elapsed.total_seconds() < 2
        for body in ({}, {"prompt": "x", "image": "http://127.0.0.1/a.png"}):
            assert web.post("/v1/images/edits", files=[("n", (None, "1"))], data=body).status_code == 400
        many = [("image[]", ("x.png", png()))] * 11
        assert web.post("/v1/images/edits", data={"prompt": "x"}, files=many).status_code == 400
        assert web.post("/v1/images/edits", json={"prompt": "x"}).status_code == 400
        broken = web.post("/v1/images/edits", content=b"nonsense", headers={"content-type": "multipart/form-data"})
        assert broken.status_code == 400
        for body in (b"{", b"[]", b"null", b"\xff", b'{"prompt": 1}'):
            json_type = {"content-type": "application/json"}
            answer = web.post("/v1/images/generations", content=body, headers=json_type)
            assert answer.status_code == 400
            assert answer.json()["error"]["type"] == "invalid_request_error"
        assert web.get("/health").status_code == 200


def _drawn(live, image: Image.Image, **options):
    """The answer to an edit of an image that is sent as PNG."""
    out = io.BytesIO()
    image.save(out, "PNG", **options)
    files = {"image": ("x.png", out.getvalue())}
    return httpx.post(f"{live.url}/v1/images/edits", data={"prompt": "a cat", "seed": "1"}, files=files, timeout=20)


def test_uploads_of_sixteen_bits_and_turned_ones_are_what_they_show(live):
    grey = Image.fromarray(np.linspace(0, 255, 64 * 32).astype(np.uint8).reshape(32, 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    sent = (grey, {}), (deep, {}), (grey.transpose(Image.Transpose.ROTATE_90), {"exif": exif})
    answers = [_drawn(live, image, **options).json()["data"][0]["b64_json"] for image, options in sent]
    for answer in answers[1:]:
        assert_same(opened(answer), opened(answers[0]), 0)


def test_uploads_that_are_too_long_or_too_large_are_told(live):
    answer = _drawn(live, Image.new("RGB", (200, 20)))
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("image: an input image of 200x20 pixels is 10.0 times as wide")
    answer = _drawn(live, Image.new("RGB", (200, 200)))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "image_too_large")
    assert "200 x 200 pixels, more than 10000" in answer.json()["error"]["message"]


def test_large_bodies_are_not_read(live):
    with httpx.Client(base_url=live.url, timeout=10) as web:
        answer = web.post("/v1/images/generations", content=b"x" * (2**20 + 1))
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")

        def pieces():
            for _ in range(40):
                yield b"x" * 2**16

        streamed = web.post("/v1/images/generations", content=pieces(), headers={"content-type": "application/json"})
        assert streamed.status_code == 413


def test_errors_of_paths_and_methods_have_the_same_form(live):
    with httpx.Client(base_url=live.url) as web:
        assert web.get("/nowhere").json()["error"]["type"] == "invalid_request_error"
        assert web.get("/v1/images/generations").status_code == 405
        assert web.get("/..%2f..%2fetc/passwd").status_code == 404


def test_pages_of_foreign_origins_are_refused(live):
    with httpx.Client(base_url=live.url) as web:
        foreign = web.post("/v1/images/generations", json={"prompt": "x"}, headers={"origin": "https://evil.example"})
        assert foreign.status_code == 403
        assert "access-control-allow-origin" not in foreign.headers
        broken = web.post("/v1/images/generations", json={"prompt": "x"}, headers={"origin": "http://["})
        assert broken.status_code == 403
        rebound = {"origin": "http://evil.example:8000", "host": "evil.example:8000"}
        assert web.post("/v1/images/generations", json={"prompt": "x"}, headers=rebound).status_code == 403
        own = web.get("/v1/models", headers={"origin": live.url})
        assert own.status_code == 200


def test_metrics_and_health(live):
    client(live).images.generate(prompt="a cat")
    text = httpx.get(f"{live.url}/metrics").text
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(samples['fourstroke_pictures_total{outcome="done"}']) >= 1
    assert float(samples['fourstroke_requests_total{route="/v1/images/generations",status="200"}']) >= 1
    assert float(samples["fourstroke_ready"]) == 1
    assert samples["fourstroke_draw_seconds_count"] == samples['fourstroke_draw_seconds_bucket{le="+Inf"}']
    assert float(samples["fourstroke_pictures_waiting"]) == 0
    assert text.endswith("\n")


def test_the_studio_is_complete_and_fetches_nothing_foreign(live):
    with httpx.Client(base_url=live.url) as web:
        page = web.get("/")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        for name in STUDIO:
            assert web.get(name).status_code == 200
            assert "http" not in web.get(name).text.replace("http://www.w3.org", "")
        assert "style=" not in page.text
        assert "onclick" not in page.text


def test_keys_are_needed_where_set(tiny):
    with running(tiny, api_keys=("one", "two"), cors_origins=("https://ours.example",)) as live:
        assert len(client(live, "two").images.generate(prompt="a cat").data) == 1
        with pytest.raises(openai.AuthenticationError):
            client(live, "three").images.generate(prompt="a cat")
        with httpx.Client(base_url=live.url) as web:
            assert web.get("/metrics").status_code == 401
            assert web.get("/v1/models", headers={"authorization": "Basic one"}).status_code == 401
            assert web.get("/health").status_code == web.get("/").status_code == 200
            asked = {"origin": "https://ours.example", "access-control-request-method": "POST"}
            allowed = web.options("/v1/images/generations", headers=asked)
            assert allowed.headers["access-control-allow-origin"] == "https://ours.example"


def test_a_full_queue_is_429_and_silence_is_kept_alive(tiny):
    with running(tiny, queue=2, rows=1, keep_alive_seconds=0.1) as live:
        brake = Brake(live)
        brake.on()
        with httpx.Client(base_url=live.url, timeout=20) as web:
            body = {"prompt": "a cat", "stream": True}
            with web.stream("POST", "/v1/images/generations", json=body) as first:
                lines = first.iter_lines()
                assert next(lines) == ": accepted"
                wait_until(lambda: live.engine.scheduler.waiting == 0)
                with web.stream("POST", "/v1/images/generations", json={**body, "n": 2}):
                    wait_until(lambda: live.engine.scheduler.waiting == 2)
                    with pytest.raises(openai.RateLimitError) as error:
                        client(live).images.generate(prompt="a cat")
                assert error.value.status_code == 429
                assert int(error.value.response.headers["retry-after"]) >= 1
                assert next(line for line in lines if line.startswith(": keep")) == ": keep-alive"
                brake.off()
                assert any(line == "event: image_generation.completed" for line in lines)


def test_a_client_that_leaves_is_cancelled_and_the_others_are_unharmed(tiny):
    with running(tiny, rows=2) as live:
        brake = Brake(live)
        for stream in (True, False):
            brake.on()
            before = live.engine.metrics.pictures.value(outcome="cancelled")
            body = {"prompt": "a cat", "stream": stream, "num_inference_steps": 100, "n": 2}

            async def leave(body=body):
                async with httpx.AsyncClient(base_url=live.url) as web:
                    asking = asyncio.ensure_future(web.post("/v1/images/generations", json=body))
                    while not live.engine.scheduler.waiting:  # the first is held, the second waits
                        await asyncio.sleep(0.01)
                    asking.cancel()

            asyncio.run(asyncio.wait_for(leave(), 10))
            wait_until(lambda: live.engine.scheduler.waiting == 0)
            brake.off()
            assert client(live).images.generate(prompt="a cat").data
            wait_until(lambda before=before: live.engine.metrics.pictures.value(outcome="cancelled") == before + 2)


def test_a_request_that_takes_too_long_is_504(tiny):
    with running(tiny, request_seconds=0.3, keep_alive_seconds=0.1) as live:
        brake = Brake(live)
        brake.on()
        with pytest.raises(openai.InternalServerError) as error:
            client(live).images.generate(prompt="a cat")
        assert error.value.status_code == 504
        with pytest.raises(openai.APIError, match="longer"):
            list(client(live).images.generate(prompt="a cat", stream=True))
        brake.off()
