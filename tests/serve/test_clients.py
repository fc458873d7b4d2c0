"""The API as clients speak it: nulls, HEAD, other content types, OpenAI's own fields, seeds; each refusal says what to
send.
"""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

import fourstroke.serve
from fourstroke.seeds import MAX_SEED
from fourstroke.serve.schemas import ImageRequest

from .test_app import client, openai, opened, png

JSON = {"content-type": "application/json"}
FORM = {"content-type": "application/x-www-form-urlencoded"}  # curl -d
GENERATIONS, EDITS, ENHANCE = "/v1/images/generations", "/v1/images/edits", "/v1/prompts/enhance"


@pytest.fixture
def web(live):
    with httpx.Client(base_url=live.url, timeout=20) as web:
        yield web


def reason(answer, status=400):
    assert answer.status_code == status, answer.text
    return answer.json()["error"]["message"]


def test_null_is_not_given_whatever_the_field(web):
    nulls = dict.fromkeys([*ImageRequest.model_fields, "n", "style", "anything"])
    assert web.post(GENERATIONS, json={**nulls, "prompt": "a cat"}).status_code == 200
    assert "prompt" in reason(web.post(GENERATIONS, json=nulls))
    assert "no prompt enhancer" in reason(web.post(ENHANCE, json={"prompt": "a cat", "seed": None, "other": None}))
    for null in ("", "null"):
        data = {**dict.fromkeys([*ImageRequest.model_fields, "mask", "anything"], null), "prompt": "null"}
        assert web.post(EDITS, data=data, files={"image": ("x.png", png())}).status_code == 200


def test_head_answers_as_get(web):
    paths = [path for path, routes in web.get("/openapi.json").json()["paths"].items() if "get" in routes]
    assert {"/health", "/v1/models", "/metrics"} <= set(paths)
    for path in ["/", "/studio.js", "/openapi.json", "/v1/models/tiny", "/v1/models/none", *paths, GENERATIONS]:
        head, get = web.head(path), web.get(path)
        assert head.status_code == get.status_code, path
        assert head.content == b""
        assert head.headers["content-type"] == get.headers["content-type"]
        if path != "/metrics":  # it counts these requests
            assert head.headers["content-length"] == get.headers["content-length"] == str(len(get.content))


@pytest.mark.parametrize("path", [GENERATIONS, ENHANCE])
@pytest.mark.parametrize(
    ("body", "headers", "words"),
    [
        (b'{"prompt": "a cat"}', FORM, "Content-Type: application/json"),
        (b'{"prompt": "a cat"}', {"content-type": "text/plain"}, "this one says text/plain"),
        (b'{"prompt": "a cat"}', {}, "Content-Type: application/json"),
        (b'{"prompt": "a cat"', JSON, "not valid JSON: Expecting ',' delimiter at line 1, column 19"),
        (b"{'prompt': 'a cat'}", JSON, "not valid JSON"),
        (b'{"prompt": "\xff"}', JSON, "not UTF-8"),
        (b'{"prompt": ' + b"[" * 200_000, JSON, "nested too deeply"),
        (b'{"prompt": ' + b"1" * 5_000 + b"}", JSON, "number is too long"),
        (b"", JSON, "the body is empty"),
        (b"[]", JSON, "no JSON object"),
        (b"null", JSON, 'such as {"prompt": "a cat"}'),
        (b'"a cat"', JSON, "no JSON object"),
        (b"{}", JSON, "prompt: it is missing"),
        (b'{"prompt": "\\ud800"}', JSON, "prompt: "),
        (b'{"prompt": "a cat", "sed": 3}', JSON, "is seed meant?"),
        (b'{"prompt": "a cat", "zzz": 3}', JSON, "leave it out"),
    ],
)  # fmt: skip
def test_a_body_that_cannot_be_read_is_told_what_to_send(web, path, body, headers, words):
    message = reason(web.post(path, content=body, headers=headers))
    assert words in message
    assert "pydantic" not in message


def test_json_of_a_type_with_a_suffix_or_a_charset_is_read(web):
    for kind in ("application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.api+json"):
        answer = web.post(GENERATIONS, content=b'\xef\xbb\xbf{"prompt": "a cat"}', headers={"content-type": kind})
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("name", ["image", "image[]", "image_url", "mask"])
def test_a_picture_as_a_url_is_told_plainly(web, name):
    files = {} if name == "image" else {"image": ("x.png", png())}
    data = {"prompt": "x", name: "https://a.example/cat.png"}
    answer = web.post(EDITS, data=data, files=files or [("n", (None, "1"))])
    assert f"{name}: send the picture itself, as a file (curl -F" in reason(answer)
    assert answer.json()["error"]["param"] == name


@pytest.mark.parametrize("count", [0, 11, 13, 100])
def test_too_many_images_are_told_with_limit_and_field(web, count):
    parts = [("image[]", ("x.png", png()))] * count + [("n", (None, "1"))]
    answer = web.post(EDITS, data={"prompt": "x"}, files=parts)
    assert f"{count} images were sent; send 1 to 10 as image or image[]" in reason(answer)
    assert answer.json()["error"]["param"] == "image"


def test_forms_that_cannot_be_read_are_told_what_to_send(web):
    wanted = "1 to 10 files as image or image[]"
    assert wanted in reason(web.post(EDITS, data={"prompt": "x", "image": "y"}))  # url-encoded
    assert "application/json" in reason(web.post(EDITS, json={"prompt": "x"}))
    broken = web.post(EDITS, content=b"nonsense", headers={"content-type": "multipart/form-data"})
    assert wanted in reason(broken)
    tiny_files = [("image[]", ("x", b""))] * 1001
    assert wanted in reason(web.post(EDITS, data={"prompt": "x"}, files=tiny_files))
    assert "only image, image[] and one mask" in reason(
        web.post(EDITS, data={"prompt": "x"}, files={"image": ("x.png", png()), "file": ("y.png", png())})
    )


def test_what_is_nowhere_is_told(web):
    assert "/nowhere is nothing here" in reason(web.get("/nowhere"), 404)
    assert f"{GENERATIONS} is answered to POST" in reason(web.get(GENERATIONS), 405)


def test_fields_of_openais_clients_are_taken_without_effect(live):
    ask = client(live)
    plain = ask.images.generate(prompt="a cat", extra_body={"seed": 3}).data[0].b64_json
    for more in (
        {"style": "vivid"}, {"style": "natural"}, {"moderation": "low"}, {"user": "me"}, {"style": None, "n": None},
        {"response_format": "b64_json"}, {"quality": "hd"}, {"quality": "standard"}, {"output_compression": 100},
    ):  # fmt: skip
        assert ask.images.generate(prompt="a cat", extra_body={"seed": 3}, **more).data[0].b64_json == plain
    for fidelity in ("high", "low", openai.NOT_GIVEN):
        answer = ask.images.edit(image=("r.png", png()), prompt="x", input_fidelity=fidelity, extra_body={"seed": 3})
        assert opened(answer.data[0].b64_json).size == (64, 32)


def test_a_png_takes_no_compression_not_even_none(web):
    assert "png is lossless" in reason(web.post(GENERATIONS, json={"prompt": "x", "output_compression": 0}))


def test_seeds_that_are_answered_can_be_asked_for(web):
    ask = {"prompt": "a cat", "seed": MAX_SEED, "n": 2}
    data = web.post(GENERATIONS, json=ask).json()["data"]
    assert [found["seed"] for found in data] == [MAX_SEED, 0]
    for found in data:
        again = web.post(GENERATIONS, json={"prompt": "a cat", "seed": found["seed"]}).json()["data"][0]
        assert again["b64_json"] == found["b64_json"]
        assert json.loads(opened(found["b64_json"]).text["fourstroke"])["seed"] == found["seed"]


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 2**63, 1.5, "x"])
def test_a_seed_out_of_the_range_is_refused_at_every_route(web, seed):
    for answer in (
        web.post(GENERATIONS, json={"prompt": "x", "seed": seed}),
        web.post(ENHANCE, json={"prompt": "x", "seed": seed}),
        web.post(EDITS, data={"prompt": "x", "seed": str(seed)}, files={"image": ("x.png", png())}),
    ):
        assert reason(answer).startswith("seed: ")


def test_the_studio_takes_the_same_seeds():
    page = Path(fourstroke.serve.__file__).parent / "studio" / "index.html"
    assert f'id="seed" type="number" min="0" max="{MAX_SEED}"' in page.read_text(encoding="utf-8")
