"""Two replicas on one machine; one is killed under load and no picture is lost."""

from __future__ import annotations

import base64
import concurrent.futures
import io
import json
import os
import threading
import time

import httpx
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ray")

import ray
from ray import serve

from fourstroke.serve import ServeConfig
from fourstroke.serve.cluster import Cluster, cluster
from fourstroke.serve.server import build_server

from .conftest import wait_until

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own deprecations
CLIENTS, STEPS = 16, 100


def serving() -> list[str]:
    """The names of the replicas that take requests; one that is still starting has a name as well."""
    states = serve.status().applications["fourstroke"].deployments["Replica"].replica_states
    actors = ray.util.list_named_actors(all_namespaces=True)
    found = [actor["name"] for actor in actors if "Replica" in actor["name"] and actor["namespace"] == "serve"]
    return found if states == {"RUNNING": len(found)} else []


def test_a_killed_replica_loses_no_picture(tiny, tiny_folder, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), *_source()])))
    for name in ("raylet_start_wait_time_s", "gcs_server_request_timeout_seconds", "gcs_rpc_server_connect_timeout_s"):
        monkeypatch.setenv(f"RAY_{name}", "300")  # a busy machine starts slowly
    config = ServeConfig(port=0, replicas=(2, 2), replica_cpus=0.5, request_seconds=200)
    engine = cluster("local", str(tiny_folder), "cpu", config)
    server = build_server(engine, config, log_level="error")
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, 30)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        assert httpx.get(f"{url}/health").status_code == 503
        assert httpx.get(f"{url}/v1/models").status_code == 503
        wait_until(lambda: engine.ready.is_set() or engine.error, 600)
        assert engine.error is None
        assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"] == "tiny"
        assert httpx.post(f"{url}/v1/images/generations", json={"prompt": "  "}, timeout=60).status_code == 400
        _kill_under_load(engine, url, tiny)
        _disconnect(engine, url)
    finally:
        server.should_exit = True
        thread.join(120)
    assert not thread.is_alive()


def _kill_under_load(engine: Cluster, url: str, tiny) -> None:
    shown = threading.Semaphore(0)

    def ask(seed: int) -> dict:
        body = {"prompt": "a cat", "seed": seed, "num_inference_steps": STEPS, "stream": True, "partial_images": 3}
        events = []
        with httpx.stream("POST", f"{url}/v1/images/generations", json=body, timeout=200) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    events.append(json.loads(line.removeprefix("data: ")))
                    shown.release()
        return events[-1]

    for _ in range(3):  # on a busy machine one of the replicas may have had nothing to do when it was killed
        wait_until(lambda: len(serving()) == 2, 120)
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            answers = [pool.submit(ask, seed) for seed in range(CLIENTS)]
            assert shown.acquire(timeout=60)  # they are being drawn
            victim = serving()[0]
            ray.kill(ray.get_actor(victim, namespace="serve"))
            done = [answer.result(200) for answer in answers]
        assert [event["type"] for event in done] == ["image_generation.completed"] * CLIENTS
        wait_until(lambda victim=victim: len(serving()) == 2 and victim not in serving(), 120)
        if engine.retried:
            break
    assert engine.retried > 0
    for seed, answer in enumerate(done):
        picture = Image.open(io.BytesIO(base64.b64decode(answer["b64_json"])))
        wanted = tiny("a cat", seed=seed, num_inference_steps=STEPS).images[0]
        assert np.abs(np.asarray(picture).astype(int) - np.asarray(wanted)).max() <= 1


def _disconnect(engine: Cluster, url: str) -> None:
    body = {"prompt": "a cat", "stream": True, "num_inference_steps": 100, "n": 4}
    before = engine.metrics.pictures.value(outcome="cancelled")
    with httpx.stream("POST", f"{url}/v1/images/generations", json=body, timeout=60) as answer:
        lines = answer.iter_lines()  # kept: dropping it would close the connection
        assert next(lines) == ": accepted"
        assert len(engine._tasks) == 4
    wait_until(lambda: not engine._tasks, 30)
    assert engine.metrics.pictures.value(outcome="cancelled") - before == 4
    begun = time.monotonic()
    assert httpx.post(f"{url}/v1/images/generations", json={"prompt": "a cat"}, timeout=60).status_code == 200
    assert time.monotonic() - begun < 60


def _source() -> list[str]:
    import fourstroke

    return [os.path.dirname(os.path.dirname(fourstroke.__file__))]
