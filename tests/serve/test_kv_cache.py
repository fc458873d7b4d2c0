"""Memory of keys and values: bounded by bytes, held once for a request, and nobody fails for want of another's."""

from __future__ import annotations

import base64
import dataclasses
import gc
import io
import queue
import weakref

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from fourstroke.dit import PrefixCache, Transformer, TransformerConfig
from fourstroke.serve import Engine, GenerationRequest, ModelRunner
from fourstroke.serve.jobs import Done, Failed, Job
from fourstroke.serve.kv_cache import KVBudget, NeverFits
from fourstroke.sizes import fit

from ..conftest import build_tiny_pipeline
from .conftest import running
from .test_engine import alone, assert_same, draw, request

RED, BLUE = (Image.new("RGB", (64, 32), color) for color in ("red", "blue"))


def png(image=RED):
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def prefilled(monkeypatch, tiny):
    """Counts the prefixes that are computed."""
    made, real = [], tiny.transformer.prefill

    def counted(*asked):
        cache = real(*asked)
        made.append(weakref.ref(cache))
        return cache

    monkeypatch.setattr(tiny.transformer, "prefill", counted)
    return made


@pytest.mark.parametrize("more", [
    {}, {"guidance_scale": 3.0, "negative_prompt": "a dog"}, {"inputs": (RED,)}, {"transparent": True},
    {"inputs": (RED, BLUE), "guidance_scale": 2.0},
])  # fmt: skip
@torch.inference_mode()
def test_what_a_picture_needs_is_known_before_it_is_computed(tiny, more):
    runner, wanted = ModelRunner(tiny), request(**more)
    sequence = runner.begin(wanted)
    caches = [c for c in (sequence.condition, sequence.negative) if c is not None]
    need = runner.kv_budget.need(wanted, runner.prefix_tokens)
    assert need.kept == sum(cache.nbytes for cache in caches)
    layers = tiny.transformer.config.num_layers
    assert need.step == need.kept // layers + len(caches) * 8 * runner.kv_budget.token_bytes // layers


def test_pictures_of_a_request_share_one_prefix(tiny, prefilled):
    """Also those that begin when others are done, and though the store has no room for it."""
    engine = Engine(ModelRunner(tiny, cache_bytes=0), rows=2)
    engine.start()
    assert engine.ready.wait(20)
    prefilled.clear()
    wanted = [request(seed=seed, inputs=(RED,)) for seed in range(5)]
    for one, events in zip(wanted, draw(engine, wanted), strict=True):
        assert_same(events[-1].image, alone(tiny, one))
    assert len(prefilled) == 1  # `alone` computes its own in the first step
    assert engine.close(20)


def test_a_request_over_http_computes_its_prefix_once_and_lets_it_go(tiny, prefilled):
    with running(tiny, rows=1, cache_bytes=0) as live:
        prefilled.clear()
        answer = httpx.post(
            f"{live.url}/v1/images/edits", data={"prompt": "x", "n": "3", "guidance_scale": "2"},
            files={"image": ("x.png", png())}, timeout=60,
        )  # fmt: skip
        assert answer.status_code == 200, answer.text
        assert len(prefilled) == 2  # with and without the prompt
    gc.collect()
    assert not any(made() for made in prefilled)


def test_a_prefix_goes_with_the_last_picture_whoever_holds_the_job(tiny, prefilled):
    engine, inbox = Engine(ModelRunner(tiny, cache_bytes=0)), queue.Queue()
    engine.start()
    assert engine.ready.wait(20)
    prefilled.clear()
    jobs = [Job(request(seed=seed, inputs=(RED,)), inbox.put) for seed in range(2)]
    engine.submit(jobs)
    assert all(isinstance(inbox.get(timeout=20), Done) for _ in jobs)
    assert engine.close(20)
    gc.collect()
    assert [made() for made in prefilled] == [None]
    assert jobs[0].sequence is not None


class Peak:
    """The most that the prefixes of joined batches ever took, each prefix once."""

    def __init__(self, monkeypatch) -> None:
        self.nbytes, real = 0, PrefixCache.join

        def join(caches):
            distinct = {id(cache): cache for cache in caches}.values()
            self.nbytes = max(self.nbytes, sum(cache.nbytes for cache in distinct))
            return real(caches)

        monkeypatch.setattr(PrefixCache, "join", join)


def test_admission_is_bounded_by_bytes(tiny, monkeypatch):
    runner, peak = ModelRunner(tiny), Peak(monkeypatch)
    need = runner.kv_budget.need(request(inputs=(RED,)), runner.prefix_tokens)
    budget = int(2.5 * need.kept + 2 * need.step)
    engine = Engine(ModelRunner(tiny, kv_bytes=budget), rows=32)
    engine.start()
    assert engine.ready.wait(20)
    wanted = [request(f"a cat {i}", seed=i, inputs=(RED,), num_inference_steps=4) for i in range(6)]
    assert all(isinstance(events[-1], Done) for events in draw(engine, wanted))
    assert need.kept < peak.nbytes <= budget
    assert engine.close(20)


def test_pictures_of_a_request_are_drawn_together_where_another_prefix_has_no_room(tiny):
    """Those behind whose prefix is there go before; nobody waits for ever."""
    runner = ModelRunner(tiny)
    need = runner.kv_budget.need(request(inputs=(RED,)), runner.prefix_tokens)
    engine = Engine(ModelRunner(tiny, kv_bytes=need.kept + 3 * need.step, cache_bytes=0), rows=8)
    inbox = queue.Queue()
    first = [Job(request(seed=i, inputs=(RED,), num_inference_steps=8), inbox.put, user="a") for i in range(3)]
    other = [Job(request(seed=i, inputs=(BLUE,)), inbox.put, user="b") for i in range(3)]
    engine.submit(first)
    engine.submit(other)
    engine.start()
    assert all(isinstance(inbox.get(timeout=20), Done) for _ in range(6))
    assert engine.metrics.steps.value() == 8 + 3  # each request in one batch
    assert engine.close(20)


def test_what_can_never_fit_is_refused_with_the_number(tiny):
    runner = ModelRunner(tiny)
    small, large = request(inputs=(RED,)), request(inputs=(RED, BLUE, RED))
    budget = sum(runner.kv_budget.need(small, runner.prefix_tokens))
    needed = sum(runner.kv_budget.need(large, runner.prefix_tokens))
    with running(tiny, kv_bytes=budget) as live:
        files = [("image[]", ("x.png", png(image))) for image in (RED, BLUE, RED)]
        for stream in ("false", "true"):
            body = {"prompt": "a cat", "size": "64x32", "stream": stream}
            answer = httpx.post(f"{live.url}/v1/images/edits", data=body, files=files, timeout=20)
            assert answer.status_code == 400
            message = answer.json()["error"]["message"]
            assert str(budget) in message
            assert "1 of the 3 input images" in message
        body = {"prompt": "a cat", "size": "64x32"}
        assert httpx.post(f"{live.url}/v1/images/edits", data=body, files=files[:1], timeout=20).status_code == 200
    engine = Engine(ModelRunner(tiny, kv_bytes=budget))
    engine.start()
    (few,), (many,) = draw(engine, [small, large])
    assert isinstance(few, Done)
    assert isinstance(many, Failed)
    assert isinstance(many.error, NeverFits)
    assert str(needed) in str(many.error)
    assert engine.close(20)


@pytest.mark.parametrize("most", [0, 1, 3])
def test_a_step_without_memory_is_taken_in_parts(most, monkeypatch):
    """Only what fails alone fails."""
    pipe = build_tiny_pipeline()
    engine = Engine(ModelRunner(pipe), rows=8)
    engine.start()
    assert engine.ready.wait(20)
    real = pipe.transformer.denoise

    def denoise(x, t, cache):
        if len(x) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(x, t, cache)

    monkeypatch.setattr(pipe.transformer, "denoise", denoise)
    wanted = [request(f"a cat {seed}", seed=seed) for seed in range(5)]
    events = draw(engine, wanted)
    assert {type(e[-1]) for e in events} == {Done if most else Failed}
    monkeypatch.undo()
    if most:
        for one, (event,) in zip(wanted, events, strict=True):
            assert_same(event.image, alone(pipe, one))
    assert engine.metrics.pictures.value(outcome="failed") == (0 if most else 5)
    assert engine.close(20)


def test_equal_requests_that_meet_share_a_prefix_that_is_too_large_to_keep(tiny, prefilled):
    engine, inbox = Engine(ModelRunner(tiny, cache_bytes=0), rows=8), queue.Queue()
    for seed in range(3):  # as a replica gets the pictures of a request
        engine.submit([Job(request(seed=seed, inputs=(RED.copy(),)), inbox.put)])
    engine.start()
    assert all(isinstance(inbox.get(timeout=20), Done) for _ in range(3))
    assert len(prefilled) == 2  # the warm-up's and theirs
    assert engine.close(20)


def test_a_joint_transformer_keeps_no_prefix():
    runner = ModelRunner(build_tiny_pipeline(causal=False))
    assert runner.kv_budget.need(request(inputs=(RED,)), runner.prefix_tokens).kept == 0


def test_pictures_of_different_requests_in_one_batch_differ_only_by_themselves(tiny):
    with running(tiny) as live:
        files = {"image": ("x.png", png())}
        body = {"prompt": "a cat", "size": "64x32", "seed": "3", "n": "2"}
        data = httpx.post(f"{live.url}/v1/images/edits", data=body, files=files, timeout=60).json()["data"]
        for j, found in enumerate(data):
            image = Image.open(io.BytesIO(base64.b64decode(found["b64_json"])))
            own = tiny("a cat", images=[RED], width=64, height=32, seed=3 + j).images[0]
            assert np.abs(np.asarray(image).astype(int) - np.asarray(own)).max() <= 1


@pytest.fixture(scope="module")
def real():
    """The budget of the open model's shape; no weights are made."""
    with torch.device("meta"):
        transformer = Transformer(TransformerConfig()).bfloat16()
    return lambda gib: KVBudget.of(transformer, gib * 2**30)


def _tokens(prompt, slots):
    return 100 + 4 * sum(slots)


def test_two_input_images_of_2048_pixels_are_refused_with_the_number_or_fit(real):
    """8 GiB of keys and values each, and those of the step for every picture under way: n = 4 are drawn in turn."""
    image = Image.new("RGB", (2048, 2048))
    wanted = GenerationRequest(prompt="a cat", width=2048, height=2048, seed=0, inputs=(image, image))
    need = real(48).need(wanted, _tokens)
    assert need.kept == (100 + 2 * 16_384) * 2 * 32 * 4096 * 2
    assert need.step == (100 + 3 * 16_384) * 2 * 4096 * 2
    real(17).check(wanted, need, _tokens)
    with pytest.raises(NeverFits, match=r"bytes, 16\.80 GiB, and this server has \d+ bytes, 16\.00 GiB") as refused:
        real(16).check(wanted, need, _tokens)
    assert str(refused.value).endswith("what would fit: 1 of the 2 input images (9180872704 bytes, 8.55 GiB)")
    guided = dataclasses.replace(wanted, inputs=(image,), guidance_scale=4.0)
    with pytest.raises(NeverFits, match="no guidance"):
        real(10).check(guided, real(10).need(guided, _tokens), _tokens)
    with pytest.raises(NeverFits, match="what would fit: no single change of it"):
        real(0).check(wanted, need, _tokens)


def test_four_pictures_of_two_large_inputs_keep_the_budget(tiny, monkeypatch):
    """Where only one has room at a time the others wait for it; a byte less, and all are refused with the number."""
    runner, peak = ModelRunner(tiny), Peak(monkeypatch)
    large = [Image.new("RGB", (2048, 2048), color) for color in ("red", "blue")]
    fitted = tuple(fit(image, tiny.info) for image in large)
    need = runner.kv_budget.need(request(inputs=fitted), runner.prefix_tokens)
    for less in (0, 1):
        with running(tiny, kv_bytes=sum(need) - less, cache_bytes=0) as live:
            files = [("image[]", (f"{i}.png", png(image))) for i, image in enumerate(large)]
            body = {"prompt": "a cat", "size": "64x32", "n": "4", "seed": "1"}
            answer = httpx.post(f"{live.url}/v1/images/edits", data=body, files=files, timeout=60)
            if less:
                assert answer.status_code == 400
                assert f"take {sum(need)} bytes" in answer.json()["error"]["message"]
                return
            assert answer.status_code == 200, answer.text
            assert len(answer.json()["data"]) == 4
            assert live.engine.metrics.steps.value() == 4 * tiny.info.num_inference_steps
            assert need.kept <= peak.nbytes <= sum(need)
