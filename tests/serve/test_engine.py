"""The engine: pictures are what they are alone, users take turns, whoever cancels is gone within a step."""

from __future__ import annotations

import pickle
import queue
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from fourstroke.pipeline import Pipeline
from fourstroke.serve import Engine, GenerationRequest, ModelRunner
from fourstroke.serve.batch import Batch
from fourstroke.serve.engine import preview_steps
from fourstroke.serve.jobs import Done, Failed, Job, Preview
from fourstroke.serve.kv_cache import PrefixStore
from fourstroke.serve.metrics import Metrics
from fourstroke.serve.preview import LatentPreview, random_pictures
from fourstroke.serve.scheduler import Draining, QueueFull

from ..conftest import build_tiny_pipeline


def request(prompt="a cat", seed=1, **more):
    return GenerationRequest(prompt=prompt, width=64, height=32, seed=seed, **more)


def alone(pipe, request):
    return pipe(
        request.prompt, images=list(request.inputs) or None,
        width=request.width, height=request.height, seed=request.seed,
        num_inference_steps=request.num_inference_steps, guidance_scale=request.guidance_scale,
        negative_prompt=request.negative_prompt, transparent=request.transparent,
    ).images[0]  # fmt: skip


def assert_same(a, b, most=1):
    assert (a.size, a.mode) == (b.size, b.mode)
    assert np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max() <= most


def draw(engine, requests, **more):
    """Submit and collect; returns the events of each request."""
    inbox = queue.Queue()
    jobs = [Job(o, lambda e, i=i: inbox.put((i, e)), **more) for i, o in enumerate(requests)]
    engine.submit(jobs)
    events, left = [[] for _ in requests], len(requests)
    while left:
        index, event = inbox.get(timeout=20)
        events[index].append(event)
        left -= isinstance(event, Done | Failed)
    return events


@pytest.fixture
def engine(tiny):
    engine = Engine(ModelRunner(tiny), queue=16, rows=4, metrics=Metrics())
    engine.start()
    yield engine
    assert engine.close(20)


REQUESTS = [
    request(),
    request("a much longer prompt about a green square", 2, num_inference_steps=5),
    request("a red circle", 3, guidance_scale=4.0, negative_prompt="a cat"),
    request(seed=4, transparent=True, num_inference_steps=1),
    request("a red circle", 5, guidance_scale=2.0),
    request(seed=6, inputs=(Image.new("RGB", (64, 32), "red"),)),
    GenerationRequest(prompt="a cat", width=32, height=64, seed=7),
]


def test_pictures_of_all_kinds_together_are_what_they_are_alone(engine, tiny):
    for wanted, events in zip(REQUESTS, draw(engine, REQUESTS), strict=True):
        assert_same(events[-1].image, alone(tiny, wanted))
    assert engine.metrics.rows.value() > engine.metrics.steps.value()
    assert engine.metrics.pictures.value(outcome="done") == len(REQUESTS)


@pytest.mark.parametrize("causal", [True, False])
@torch.inference_mode()
def test_newcomers_join_a_running_batch(causal):
    pipe = build_tiny_pipeline(causal=causal)
    runner, batch, pictures = ModelRunner(pipe), Batch(pipe), {}
    first, second = runner.begin(REQUESTS[1]), runner.begin(REQUESTS[2])
    batch.add(first)
    while batch.sequences:
        latents = batch.step()
        for sequence, latent in zip(list(batch.sequences), latents, strict=True):
            if sequence.step == sequence.steps:
                pictures[sequence] = runner.pictures([latent], [sequence.request])[0]
                batch.discard(sequence)
        if first.step == 2 and second not in batch.sequences:
            batch.add(second)
    for sequence in (first, second):
        assert_same(pictures[sequence], alone(pipe, sequence.request))


def test_the_last_preview_is_nearly_the_picture_and_the_first_comes_early(engine):
    (events,) = draw(engine, [request(num_inference_steps=8)], previews=3)
    assert [type(e) for e in events] == [Preview, Preview, Preview, Done]
    assert [e.step for e in events[:-1]] == preview_steps(8, 3)
    far, near = (np.abs(np.asarray(events[i].image).astype(int) - np.asarray(events[-1].image)).mean() for i in (0, 2))
    assert near <= far


@pytest.mark.parametrize("steps", [1, 2, 4, 40])
@pytest.mark.parametrize("previews", [0, 1, 3, 50])
def test_preview_steps_rise_and_start_within_forty_percent(steps, previews):
    shown = preview_steps(steps, previews)
    assert shown == sorted(set(shown))
    assert len(shown) == min(previews, steps - 1)
    assert all(0 < step < steps for step in shown)
    assert not shown or shown[0] <= max(1, 0.4 * steps)


class Gate:
    """Stops the engine's thread in `listen` of a first job until opened."""

    def __init__(self, engine, **more):
        self.reached, self.opened, self.events = threading.Event(), threading.Event(), []
        self.job = Job(request(num_inference_steps=50, **more), self._listen, user="gate", previews=49)
        engine.submit([self.job])
        assert self.reached.wait(20)

    def _listen(self, event):
        self.events.append(event)
        self.reached.set()
        assert self.opened.wait(20)


def test_users_take_turns(tiny):
    engine = Engine(ModelRunner(tiny), queue=16, rows=1)
    engine.start()
    gate, finished, done = Gate(engine), [], threading.Event()

    def listener(name):
        def listen(_):
            finished.append(name)
            if len(finished) == 6:
                done.set()

        return listen

    engine.submit([Job(request(seed=i), listener("many"), user="many") for i in range(4)])
    engine.submit([Job(request(), listener("few"), user="few")])
    engine.submit([Job(request(), listener("one"), user="one")])
    engine.cancel([gate.job])
    gate.opened.set()
    assert done.wait(20)
    assert finished == ["many", "few", "one", "many", "many", "many"]
    assert engine.close(20)


def test_a_full_queue_refuses_all_or_nothing(engine):
    gate = Gate(engine)
    engine.submit([Job(request(), lambda e: None) for _ in range(15)])
    again = pickle.loads(pickle.dumps(QueueFull("full", 7)))  # as it comes from a replica
    assert (str(again), again.retry_after) == ("full", 7)
    with pytest.raises(QueueFull) as error:
        engine.submit([Job(request(), lambda e: None) for _ in range(2)])
    assert 1 <= error.value.retry_after <= 60
    engine.submit([Job(request(), lambda e: None)])
    gate.opened.set()


def test_cancelled_work_stops_within_one_step(engine):
    gate = Gate(engine)
    waiting = Job(request(), gate.events.append)
    engine.submit([waiting])
    step = gate.job.sequence.step
    engine.cancel([gate.job, waiting])
    engine.cancel([gate.job, waiting])
    gate.opened.set()
    assert isinstance(draw(engine, [request()])[0][-1], Done)
    assert gate.job.sequence.step <= step + 1
    assert len(gate.events) == 1
    assert engine.metrics.pictures.value(outcome="cancelled") == 2


def test_draining_finishes_what_was_accepted_and_takes_no_more(tiny):
    engine, events = Engine(ModelRunner(tiny), rows=2), []
    engine.start()
    gate = Gate(engine)
    engine.submit([Job(request(seed=i), events.append) for i in range(3)])
    engine.drain()
    with pytest.raises(Draining):
        engine.submit([Job(request(), events.append)])
    gate.opened.set()
    assert engine.close(20)
    assert [type(e) for e in events] == [Done] * 3
    assert isinstance(gate.events[-1], Done)


def test_one_bad_picture_harms_no_other(engine):
    bad = request("cat " * 60)
    events = draw(engine, [request(seed=1), bad, request(seed=2)])
    assert [type(e[-1]) for e in events] == [Done, Failed, Done]
    assert "limit is 50" in str(events[1][-1].error)


def test_prefixes_are_kept_and_the_version_is_that_of_the_weights():
    pipe = build_tiny_pipeline()
    runner = ModelRunner(pipe)
    engine = Engine(runner)
    engine.start()
    before = draw(engine, [request()])[0][-1].image
    misses = runner.prefixes.misses
    assert_same(draw(engine, [request()])[0][-1].image, before, 0)
    assert runner.prefixes.misses == misses
    with torch.no_grad():
        pipe.transformer.txt_in.linear.weight.mul_(-3) if hasattr(pipe.transformer.txt_in, "linear") else [
            p.mul_(-3) for p in pipe.transformer.txt_in.parameters()
        ]
    assert ModelRunner(pipe).version != runner.version
    assert engine.close(20)


@torch.inference_mode()
def test_the_prefix_store_is_bounded(tiny):
    prefix = ModelRunner(tiny).begin(request()).condition
    store = PrefixStore(prefix.nbytes * 2)
    for name in "abc":
        store.put((name, "", (), (1, 1)), prefix)
        store.get(("a", "", (), (1, 1)))
    assert len(store) == 2
    assert store.nbytes == prefix.nbytes * 2
    assert store.get(("b", "", (), (1, 1))) is None
    PrefixStore(1).put(("a", "", (), (1, 1)), prefix)


def test_a_failed_warm_up_is_told(monkeypatch):
    runner = ModelRunner(build_tiny_pipeline())
    monkeypatch.setattr(runner, "warm_up", lambda: (_ for _ in ()).throw(RuntimeError("no memory")))
    engine = Engine(runner)
    engine.start()
    assert engine.close(20)
    assert str(engine.error) == "no memory"
    assert not engine.ready.is_set()


def test_a_bad_latent_spoils_no_other_picture_of_its_group(engine, monkeypatch):
    real = engine.runner.pictures

    def pictures(latents, requests):
        if any(o.seed == 2 for o in requests):
            raise RuntimeError("not finite")
        return real(latents, requests)

    monkeypatch.setattr(engine.runner, "pictures", pictures)
    gate = Gate(engine)
    results = []

    def collect():
        results.extend(draw(engine, [request(seed=i) for i in (1, 2, 3)]))

    thread = threading.Thread(target=collect)
    thread.start()
    engine.cancel([gate.job])
    gate.opened.set()
    thread.join(20)
    assert [type(events[-1]) for events in results] == [Done, Failed, Done]


def test_large_pictures_are_drawn_one_after_the_other(tiny):
    engine = Engine(ModelRunner(tiny), rows=8, tokens=20)  # pictures of 8 latents: two at a time
    engine.start()
    draw(engine, [request(seed=i) for i in range(4)])
    assert engine.metrics.rows.value() <= 2 * engine.metrics.steps.value()
    huge = Engine(ModelRunner(tiny), rows=8, tokens=1)
    huge.start()
    assert isinstance(draw(huge, [request()])[0][-1], Done)
    assert engine.close(20)
    assert huge.close(20)


def test_a_latent_preview_resembles_its_picture_and_costs_little():
    micro = ModelRunner(Pipeline.from_pretrained("micro"))
    with torch.inference_mode():
        micro.latent_preview = LatentPreview.fit(micro.pipe.autoencoder)
        x = random_pictures(3, 96)
        latents = [micro.pipe.autoencoder.encode(picture[None]).flatten(2).mT for picture in x]
        requests = [GenerationRequest(prompt="x", width=96, height=96, seed=0)] * 3
        for rough, picture in zip(
            micro.latent_previews(latents, requests), micro.pictures(latents, requests), strict=True
        ):
            a, b = (np.asarray(i.resize((12, 12), Image.Resampling.BOX)).astype(float) for i in (rough, picture))
            assert np.corrcoef(a.flatten(), b.flatten())[0, 1] > 0.9


def test_the_first_preview_is_of_latents_where_decoding_would_take_longer_than_steps(tiny):
    runner = ModelRunner(tiny)
    engine = Engine(runner)
    engine.start()
    assert engine.ready.wait(20)
    with torch.inference_mode():
        runner.latent_preview = LatentPreview.fit(tiny.autoencoder)
    made = []
    real = runner.latent_previews

    def counted(latents, requests):
        made.append(len(requests))
        return real(latents, requests)

    runner.latent_previews = counted
    for decode, rough in ((3.0, 1), (0.1, 0)):
        runner.decode_steps = decode
        events = draw(engine, [request(num_inference_steps=4)], previews=3)[0]
        assert [type(e) for e in events] == [Preview] * 3 + [Done]
        assert {e.image.size for e in events} == {(64, 32)}
        assert sum(made) == rough
        made.clear()
    assert engine.close(20)
