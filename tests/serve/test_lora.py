"""Adapters in serving: chosen by request, never mixed in a batch, and what is drawn is what the pipeline draws."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import torch

from fourstroke.lora import LoraConfig, add_lora, lora_parameters, remove_lora, save_lora
from fourstroke.serve import Engine, ModelRunner, ServeConfig
from fourstroke.serve.batch import Batch
from fourstroke.serve.server import load_pipeline

from ..conftest import build_tiny_pipeline
from .conftest import Live, running
from .test_app import opened, png
from .test_engine import assert_same, draw, request

ONE, BOTH = (("one", 0.8),), (("one", 0.8), ("two", 1.0))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    pipe, folder = build_tiny_pipeline(), tmp_path_factory.mktemp("loras")
    for seed, name in enumerate(("one", "two")):
        add_lora(pipe.transformer, LoraConfig(rank=2), name)
        with torch.no_grad():
            for factor in lora_parameters(pipe.transformer, name).values():
                factor.normal_(std=0.15, generator=torch.Generator().manual_seed(seed))
        save_lora(folder / f"{name}.safetensors", pipe.transformer, name)
        remove_lora(pipe.transformer)
    return folder


def _config(files, *more: str, **options) -> ServeConfig:
    return ServeConfig(
        port=0, loras=(f"{files}/one.safetensors:0.8", f"two={files}/two.safetensors:0", *more), **options
    )


@pytest.fixture
def engine(files, tiny_folder) -> Iterator[Engine]:
    engine = Engine(ModelRunner(load_pipeline(str(tiny_folder), "cpu", _config(files))), queue=32, rows=8)
    engine.start()
    yield engine
    assert engine.close(20)


@pytest.fixture(scope="module")
def live(files, tiny_folder) -> Iterator[Live]:
    config = _config(files)
    with running(load_pipeline(str(tiny_folder), "cpu", config), loras=config.loras) as server:
        yield server


@pytest.fixture
def own(files, tiny_folder):
    """What the pipeline draws by itself with these adapters."""
    pipe = load_pipeline(str(tiny_folder), "cpu", _config(files))

    def drawn(prompt: str, seed: int, lora=(), **more):
        for name in pipe.loras:
            pipe.set_lora(name, dict(lora).get(name, 0))
        return pipe(prompt, seed=seed, width=64, height=32, **more).images[0]

    return drawn


def _far(a, b) -> bool:
    return np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max() > 5


def test_requests_of_different_adapters_at_once_are_what_each_is_alone(engine, own):
    kinds = [(), ONE, BOTH, (("one", -0.5),)]
    wanted = [request(seed=seed, lora=lora, num_inference_steps=4) for seed in range(3) for lora in kinds]
    drawn = [events[-1].image for events in draw(engine, wanted)]
    for asked, image in zip(wanted, drawn, strict=True):
        assert_same(image, own("a cat", asked.seed, asked.lora, num_inference_steps=4))
    assert all(_far(drawn[i], drawn[j]) for i in range(4) for j in range(i))


def test_batches_are_of_one_choice_of_adapters_and_shared_by_those_who_made_it(engine, monkeypatch):
    batches, step = [], Batch.step

    def seen(batch):
        batches.append([sequence.request.lora for sequence in batch.sequences])
        return step(batch)

    monkeypatch.setattr(Batch, "step", seen)
    wanted = [request(seed=seed, lora=lora, num_inference_steps=6) for seed in range(3) for lora in (ONE, BOTH)]
    draw(engine, wanted)
    assert all(len(set(batch)) == 1 for batch in batches)
    assert any(len(batch) > 1 for batch in batches)


def test_a_prefix_is_kept_for_its_adapters_alone(engine):
    draw(engine, [request(lora=ONE)])
    hits = engine.runner.prefixes.hits
    draw(engine, [request(lora=BOTH)])
    assert engine.runner.prefixes.hits == hits
    draw(engine, [request(lora=ONE, seed=5)])
    assert engine.runner.prefixes.hits == hits + 1


def _ask(live: Live, **fields) -> httpx.Response:
    body = {"prompt": "a cat", "seed": 4, "size": "64x32", **fields}
    return httpx.post(f"{live.url}/v1/images/generations", json=body, timeout=30)


@pytest.mark.parametrize(
    ("asked", "lora"),
    [
        ({}, ONE),  # as the server was started
        ({"lora": None}, ONE),
        ({"lora": []}, ()),
        ({"lora": [{"name": "one", "strength": 0}]}, ()),
        ({"lora": [{"name": "one"}]}, ONE),
        ({"lora": [{"name": "two"}, {"name": "one", "strength": None}]}, BOTH),
        ({"lora": [{"name": "two", "strength": -1.5}]}, (("two", -1.5),)),
    ],
)
def test_the_field_chooses_and_the_picture_tells(live, own, asked, lora):
    picture = opened(_ask(live, **asked).json()["data"][0]["b64_json"])
    assert_same(picture, own("a cat", 4, lora))
    note = json.loads(picture.text["fourstroke"]).get("lora", [])
    assert note == [{"name": name, "strength": strength} for name, strength in lora]


def test_the_model_lists_them(live):
    (model,) = httpx.get(f"{live.url}/v1/models").json()["data"]
    assert model["fourstroke"]["loras"] == [{"name": "one", "strength": 0.8}, {"name": "two", "strength": 0.0}]


def test_edits_name_them_as_json(live, own):
    from PIL import Image

    form = {"prompt": "a cat", "seed": "4", "lora": '[{"name": "two", "strength": 0.5}]'}
    answer = httpx.post(f"{live.url}/v1/images/edits", data=form, files={"image": ("r.png", png())}, timeout=30)
    red = Image.new("RGB", (64, 32), "red")
    assert_same(opened(answer.json()["data"][0]["b64_json"]), own("a cat", 4, (("two", 0.5),), images=[red]))
    wrong = httpx.post(f"{live.url}/v1/images/edits", data=form | {"lora": "one"}, files={"image": ("r.png", png())})
    assert wrong.status_code == 400
    assert wrong.json()["error"]["message"].startswith("lora: not valid JSON")


@pytest.mark.parametrize(
    ("lora", "reason"),
    [
        ([{"name": "three"}], "there is no adapter 'three' here; there is one, two"),
        ([{"name": "one"}, {"name": "one", "strength": 2}], "'one' is named twice"),
        ([{"name": "one", "strenght": 1}], "unknown parameter"),
        ([{"name": "one", "strength": 11}], "less than or equal to 10"),
        ([{"name": "one", "strength": "x"}], "valid number"),
        ([{"strength": 1}], "it is missing"),
        (["one"], "lora.0"),
        ({"name": "one"}, "valid list"),
        ("one", "valid list"),
    ],
)
def test_what_is_not_there_or_not_right_is_told(live, lora, reason):
    answer = _ask(live, lora=lora)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"].startswith("lora")
