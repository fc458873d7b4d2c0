"""Prompts rewritten before they are drawn, and the answer when there is nobody to rewrite them."""

from __future__ import annotations

import json

import httpx
import pytest

from fourstroke.enhance.enhancer import PromptEnhancer
from fourstroke.enhance.local import EnhancerConfig

from ..conftest import build_tiny_pipeline
from .conftest import running

openai = pytest.importorskip("openai")


class Rewriter:
    """A backend that says the same of everything."""

    def __init__(self, words: str = "{} in soft light", ratio: str = "1:2") -> None:
        self.words, self.ratio, self.asked = words, ratio, []

    def complete(self, messages, config, seed):
        request = messages[-1]["content"]
        self.asked.append((request, seed))
        answer = {"rewritten_prompt": self.words.format(request), "wh_ratio": self.ratio}
        return f"it says little</think>{json.dumps(answer)}"


def enhanced(backend):
    pipe = build_tiny_pipeline()
    pipe.enhancer = PromptEnhancer(backend, EnhancerConfig())
    return pipe


def test_a_rewrite_can_be_seen_before_it_is_drawn():
    with running(enhanced(Rewriter())) as live, httpx.Client(base_url=live.url) as web:
        answer = web.post("/v1/prompts/enhance", json={"prompt": "a cat"}).json()
        assert answer["prompt"] == "a cat in soft light"
        assert answer["request"] == "a cat"
        assert answer["size"] == "32x64"
        assert answer["reasoning"] == "it says little"
        assert answer["warning"] is None
        assert web.get("/v1/models").json()["data"][0]["fourstroke"]["enhances"] is True
        assert not live.engine.metrics.steps.value()


def test_enhance_draws_the_rewrite_and_says_so():
    backend = Rewriter()
    with running(enhanced(backend)) as live:
        client = openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, timeout=20)
        answer = client.images.generate(prompt="a cat", extra_body={"enhance": True, "seed": 3})
        assert answer.data[0].revised_prompt == "a cat in soft light"
        assert answer.size == "32x64"
        assert backend.asked == [("a cat", 3)]
        same = client.images.generate(prompt="a cat in soft light", size="32x64", extra_body={"seed": 3})
        assert len(same.data[0].b64_json) > 100
        plain = client.images.generate(prompt="a cat", size="64x32", extra_body={"enhance": True, "seed": 3})
        assert plain.size == "64x32"


def test_a_shape_that_the_model_does_not_draw_is_told():
    with running(enhanced(Rewriter(ratio="1:4"))) as live, httpx.Client(base_url=live.url, timeout=20) as web:
        answer = web.post("/v1/images/generations", json={"prompt": "a cat", "enhance": True})
        assert answer.status_code == 400
        assert "4.0 times as high as it is wide, and tiny draws at most 3 times" in answer.json()["error"]["message"]
        sized = web.post("/v1/images/generations", json={"prompt": "a cat", "enhance": True, "size": "32x96"})
        assert sized.status_code == 200
        assert web.post("/v1/prompts/enhance", json={"prompt": "a cat"}).json()["size"] == "auto"


def test_a_rewrite_that_is_too_long_is_not_drawn():
    with running(enhanced(Rewriter("{} " + "cat " * 80))) as live:
        body = {"prompt": "a cat", "enhance": True}
        answer = httpx.post(f"{live.url}/v1/images/generations", json=body, timeout=20)
        assert answer.json()["data"][0]["revised_prompt"] == "a cat"


def test_a_model_without_an_enhancer_says_so(live):
    with httpx.Client(base_url=live.url) as web:
        for path in ("/v1/prompts/enhance", "/v1/images/generations"):
            body = {"prompt": "a cat"} | ({"enhance": True} if "images" in path else {})
            answer = web.post(path, json=body)
            assert answer.status_code == 400
            assert "no prompt enhancer" in answer.json()["error"]["message"]
        assert web.get("/v1/models").json()["data"][0]["fourstroke"]["enhances"] is False
        assert web.post("/v1/prompts/enhance", json={"prompt": ""}).status_code == 400
