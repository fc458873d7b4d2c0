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
from fourstroke.serve import Engine, Order, Painter
from fourstroke.serve.engine import Done, Draining, Failed, Job, Preview, QueueFull, preview_steps
from fourstroke.serve.metrics import Metrics
from fourstroke.serve.prefixes import PrefixStore
from fourstroke.serve.rows import Batch
from fourstroke.serve.sketch import Sketch, random_pictures

from ..conftest import build_tiny_pipeline


def order(prompt="a cat", seed=1, **more):
    return Order(prompt=prompt, width=64, height=32, seed=seed, **more)


def alone(pipe, order):
    return pipe(
        order.prompt, images=list(order.inputs) or None, width=order.width, height=order.height, seed=order.seed,
        num_inference_steps=order.num_inference_steps, guidance_scale=order.guidance_scale,
        negative_prompt=order.negative_prompt, transparent=order.transparent,
    ).images[0]  # fmt: skip


def assert_same(a, b, most=1):
    assert (a.size, a.mode) == (b.size, b.mode)
    assert np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max() <= most


def draw(engine, orders, **more):
    """Submit and collect; returns the events of each order."""
    inbox = queue.Queue()
    jobs = [Job(o, lambda e, i=i: inbox.put((i, e)), **more) for i, o in enumerate(orders)]
    engine.submit(jobs)
    events, left = [[] for _ in orders], len(orders)
    while left:
        index, event = inbox.get(timeout=20)
        events[index].append(event)
        left -= isinstance(event, Done | Failed)
    return events


@pytest.fixture
def engine(tiny):
    engine = Engine(Painter(tiny), queue=16, rows=4, metrics=Metrics())
    engine.start()
    yield engine
    assert engine.close(20)


ORDERS = [
    order(),
    order("a much longer prompt about a green square", 2, num_inference_steps=5),
    order("a red circle", 3, guidance_scale=4.0, negative_prompt="a cat"),
    order(seed=4, transparent=True, num_inference_steps=1),
    order("a red circle", 5, guidance_scale=2.0),
    order(seed=6, inputs=(Image.new("RGB", (64, 32), "red"),)),
    Order(prompt="a cat", width=32, height=64, seed=7),
]


def test_pictures_of_all_kinds_together_are_what_they_are_alone(engine, tiny):
    for wanted, events in zip(ORDERS, draw(engine, ORDERS), strict=True):
        assert_same(events[-1].image, alone(tiny, wanted))
    assert engine.metrics.rows.value() > engine.metrics.steps.value()
    assert engine.metrics.pictures.value(outcome="done") == len(ORDERS)


@pytest.mark.parametrize("causal", [True, False])
@torch.inference_mode()
def test_newcomers_join_a_running_batch(causal):
    pipe = build_tiny_pipeline(causal=causal)
    painter, batch, pictures = Painter(pipe), Batch(pipe), {}
    first, second = painter.begin(ORDERS[1]), painter.begin(ORDERS[2])
    batch.add(first)
    while batch.rows:
        latents = batch.step()
        for row, latent in zip(list(batch.rows), latents, strict=True):
            if row.step == row.steps:
                pictures[row] = painter.pictures([latent], [row.order])[0]
                batch.discard(row)
        if first.step == 2 and second not in batch.rows:
            batch.add(second)
    for row in (first, second):
        assert_same(pictures[row], alone(pipe, row.order))


def test_the_last_preview_is_nearly_the_picture_and_the_first_comes_early(engine):
    (events,) = draw(engine, [order(num_inference_steps=8)], previews=3)
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
    """Stops the drawing thread in `listen` of a first job until opened."""

    def __init__(self, engine, **more):
        self.reached, self.opened, self.events = threading.Event(), threading.Event(), []
        self.job = Job(order(num_inference_steps=50, **more), self._listen, user="gate", previews=49)
        engine.submit([self.job])
        assert self.reached.wait(20)

    def _listen(self, event):
        self.events.append(event)
        self.reached.set()
        assert self.opened.wait(20)


def test_users_take_turns(tiny):
    engine = Engine(Painter(tiny), queue=16, rows=1)
    engine.start()
    gate, finished, done = Gate(engine), [], threading.Event()

    def listener(name):
        def listen(_):
            finished.append(name)
            if len(finished) == 6:
                done.set()

        return listen

    engine.submit([Job(order(seed=i), listener("many"), user="many") for i in range(4)])
    engine.submit([Job(order(), listener("few"), user="few")])
    engine.submit([Job(order(), listener("one"), user="one")])
    engine.cancel([gate.job])
    gate.opened.set()
    assert done.wait(20)
    assert finished == ["many", "few", "one", "many", "many", "many"]
    assert engine.close(20)


def test_a_full_queue_refuses_all_or_nothing(engine):
    gate = Gate(engine)
    engine.submit([Job(order(), lambda e: None) for _ in range(15)])
    again = pickle.loads(pickle.dumps(QueueFull("full", 7)))  # as it comes from a replica
    assert (str(again), again.retry_after) == ("full", 7)
    with pytest.raises(QueueFull) as error:
        engine.submit([Job(order(), lambda e: None) for _ in range(2)])
    assert 1 <= error.value.retry_after <= 60
    engine.submit([Job(order(), lambda e: None)])
    gate.opened.set()


def test_cancelled_work_stops_within_one_step(engine):
    gate = Gate(engine)
    waiting = Job(order(), gate.events.append)
    engine.submit([waiting])
    step = gate.job.row.step
    engine.cancel([gate.job, waiting])
    engine.cancel([gate.job, waiting])
    gate.opened.set()
    assert isinstance(draw(engine, [order()])[0][-1], Done)
    assert gate.job.row.step <= step + 1
    assert len(gate.events) == 1
    assert engine.metrics.pictures.value(outcome="cancelled") == 2


def test_draining_finishes_what_was_accepted_and_takes_no_more(tiny):
    engine, events = Engine(Painter(tiny), rows=2), []
    engine.start()
    gate = Gate(engine)
    engine.submit([Job(order(seed=i), events.append) for i in range(3)])
    engine.drain()
    with pytest.raises(Draining):
        engine.submit([Job(order(), events.append)])
    gate.opened.set()
    assert engine.close(20)
    assert [type(e) for e in events] == [Done] * 3
    assert isinstance(gate.events[-1], Done)


def test_one_bad_picture_harms_no_other(engine):
    bad = order("cat " * 60)
    events = draw(engine, [order(seed=1), bad, order(seed=2)])
    assert [type(e[-1]) for e in events] == [Done, Failed, Done]
    assert "limit is 50" in str(events[1][-1].error)


def test_prefixes_are_kept_and_the_version_is_that_of_the_weights():
    pipe = build_tiny_pipeline()
    painter = Painter(pipe)
    engine = Engine(painter)
    engine.start()
    before = draw(engine, [order()])[0][-1].image
    misses = painter.prefixes.misses
    assert_same(draw(engine, [order()])[0][-1].image, before, 0)
    assert painter.prefixes.misses == misses
    with torch.no_grad():
        pipe.transformer.txt_in.linear.weight.mul_(-3) if hasattr(pipe.transformer.txt_in, "linear") else [
            p.mul_(-3) for p in pipe.transformer.txt_in.parameters()
        ]
    assert Painter(pipe).version != painter.version
    assert engine.close(20)


@torch.inference_mode()
def test_the_prefix_store_is_bounded(tiny):
    prefix = Painter(tiny).begin(order()).condition
    store = PrefixStore(prefix.nbytes * 2)
    for name in "abc":
        store.put((name, "", (), (1, 1)), prefix)
        store.get(("a", "", (), (1, 1)))
    assert len(store) == 2
    assert store.nbytes == prefix.nbytes * 2
    assert store.get(("b", "", (), (1, 1))) is None
    PrefixStore(1).put(("a", "", (), (1, 1)), prefix)


def test_a_failed_warm_up_is_told(monkeypatch):
    painter = Painter(build_tiny_pipeline())
    monkeypatch.setattr(painter, "warm_up", lambda: (_ for _ in ()).throw(RuntimeError("no memory")))
    engine = Engine(painter)
    engine.start()
    assert engine.close(20)
    assert str(engine.error) == "no memory"
    assert not engine.ready.is_set()


def test_a_bad_latent_spoils_no_other_picture_of_its_group(engine, monkeypatch):
    real = engine.painter.pictures

    def pictures(latents, orders):
        if any(o.seed == 2 for o in orders):
            raise RuntimeError("not finite")
        return real(latents, orders)

    monkeypatch.setattr(engine.painter, "pictures", pictures)
    gate = Gate(engine)
    results = []

    def collect():
        results.extend(draw(engine, [order(seed=i) for i in (1, 2, 3)]))

    thread = threading.Thread(target=collect)
    thread.start()
    engine.cancel([gate.job])
    gate.opened.set()
    thread.join(20)
    assert [type(events[-1]) for events in results] == [Done, Failed, Done]


def test_large_pictures_are_drawn_one_after_the_other(tiny):
    engine = Engine(Painter(tiny), rows=8, tokens=20)  # pictures of 8 latents: two at a time
    engine.start()
    draw(engine, [order(seed=i) for i in range(4)])
    assert engine.metrics.rows.value() <= 2 * engine.metrics.steps.value()
    huge = Engine(Painter(tiny), rows=8, tokens=1)
    huge.start()
    assert isinstance(draw(huge, [order()])[0][-1], Done)
    assert engine.close(20)
    assert huge.close(20)


def test_a_sketch_resembles_its_picture_and_costs_little():
    micro = Painter(Pipeline.from_pretrained("micro"))
    with torch.inference_mode():
        micro.sketch = Sketch.fit(micro.pipe.autoencoder)
        x = random_pictures(3, 96)
        latents = [micro.pipe.autoencoder.encode(picture[None]).flatten(2).mT for picture in x]
        orders = [Order(prompt="x", width=96, height=96, seed=0)] * 3
        for sketch, picture in zip(micro.sketched(latents, orders), micro.pictures(latents, orders), strict=True):
            a, b = (np.asarray(i.resize((12, 12), Image.Resampling.BOX)).astype(float) for i in (sketch, picture))
            assert np.corrcoef(a.flatten(), b.flatten())[0, 1] > 0.9


def test_the_first_preview_is_a_sketch_where_decoding_would_take_longer_than_steps(tiny):
    painter = Painter(tiny)
    engine = Engine(painter)
    engine.start()
    assert engine.ready.wait(20)
    with torch.inference_mode():
        painter.sketch = Sketch.fit(tiny.autoencoder)
    made = []
    real = painter.sketched
    painter.sketched = lambda latents, orders: (made.append(len(orders)), real(latents, orders))[1]
    for decode, sketches in ((3.0, 1), (0.1, 0)):
        painter.decode_steps = decode
        events = draw(engine, [order(num_inference_steps=4)], previews=3)[0]
        assert [type(e) for e in events] == [Preview] * 3 + [Done]
        assert {e.image.size for e in events} == {(64, 32)}
        assert sum(made) == sketches
        made.clear()
    assert engine.close(20)
