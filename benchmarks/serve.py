"""The server under load, on loopback: is every picture right, what do shared steps gain, does memory stay flat?

    python benchmarks/serve.py --model micro --seconds 120 --clients 16 --out serve.json

Three bursts: one row at a time; shared steps; shared steps while half of the clients leave in the middle. Every
picture of the first two is compared with the one that the pipeline draws alone from the same seed.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import resource
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from fourstroke.pipeline import Pipeline
from fourstroke.serve import ServeConfig
from fourstroke.serve.server import Server, build_server

PROMPTS = ("a cat", "a red circle to the left of a green square", "a blue triangle above a dog, soft light")


def main() -> None:
    """Run the bursts and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="folder or hub id (default: the best bundled model)")
    parser.add_argument("--seconds", type=float, default=120, help="length of each burst")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rows", type=int, default=8, help="pictures that share a step")
    parser.add_argument("--seeds", type=int, default=16, help="different seeds for each prompt; all are checked")
    parser.add_argument("--out", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    pipe = Pipeline.from_pretrained(arguments.model)
    wanted = {
        (prompt, seed): np.asarray(pipe(prompt, seed=seed).images[0]).astype(int)
        for prompt in PROMPTS
        for seed in range(arguments.seeds)
    }
    result: dict[str, Any] = {"model": pipe.info.name, "clients": arguments.clients, "seconds": arguments.seconds}
    result["alone"] = burst(pipe, 1, arguments, wanted)
    result["shared"] = burst(pipe, arguments.rows, arguments, wanted)
    result["gain"] = round(result["shared"]["pictures_per_second"] / result["alone"]["pictures_per_second"], 2)
    result["leaving"] = burst(pipe, arguments.rows, arguments, wanted, leave=True)
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


Wanted = dict[tuple[str, int], np.ndarray]


def burst(
    pipe: Pipeline, rows: int, arguments: argparse.Namespace, wanted: Wanted, leave: bool = False
) -> dict[str, Any]:
    """Let the clients ask for a while; returns what came of it."""
    server = build_server(pipe, ServeConfig(port=0, rows=rows), log_level="error")
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not (server.started and server.engine.ready.wait(0.01)):
        pass
    memory = _resident()
    try:
        found = asyncio.run(_clients(server, arguments, wanted, leave))
    finally:
        server.should_exit = True
        thread.join(60)
    count = server.engine.metrics
    found["pictures_per_step"] = round(count.rows.value() / max(1, count.steps.value()), 2)
    found["cancelled"] = count.pictures.value(outcome="cancelled")
    found["memory_growth_mb"] = round((_resident() - memory) / 2**20, 1)
    return found


async def _clients(server: Server, arguments: argparse.Namespace, wanted: Wanted, leave: bool) -> dict[str, Any]:
    port = server.servers[0].sockets[0].getsockname()[1]
    found: dict[str, Any] = {"statuses": {}, "wrong": 0, "left": 0}
    whole: list[float] = []
    first: list[float] = []
    start = time.monotonic()

    async def client(number: int, web: httpx.AsyncClient) -> None:
        count = number
        while time.monotonic() - start < arguments.seconds:
            prompt, seed = list(wanted)[count % len(wanted)]
            count += 5
            began = time.monotonic()
            body = {"prompt": prompt, "seed": seed, "stream": True, "partial_images": 1, "user": str(number)}
            async with web.stream("POST", "/v1/images/generations", json=body) as answer:
                status = str(answer.status_code)
                found["statuses"][status] = found["statuses"].get(status, 0) + 1
                if status != "200":
                    await asyncio.sleep(float(answer.headers.get("retry-after", 1)))
                    continue
                if leave and number % 2:
                    await asyncio.sleep(0.2)
                    found["left"] += 1
                    continue
                async for line in answer.aiter_lines():
                    if not line.startswith("data: "):
                        continue
                    event = json.loads(line[6:])
                    if event["type"] == "error":
                        found["statuses"]["error"] = found["statuses"].get("error", 0) + 1
                    elif event["type"].endswith("partial_image"):
                        first.append(time.monotonic() - began)
                    else:
                        whole.append(time.monotonic() - began)
                        image = Image.open(io.BytesIO(base64.b64decode(event["b64_json"])))
                        found["wrong"] += int(np.abs(np.asarray(image).astype(int) - wanted[prompt, seed]).max() > 2)

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=600) as web:
        await asyncio.gather(*(client(number, web) for number in range(arguments.clients)))
    seconds = time.monotonic() - start
    found["pictures"] = len(whole)
    found["pictures_per_second"] = round(len(whole) / seconds, 3)
    found["median_seconds"] = round(statistics.median(whole), 3) if whole else None
    found["first_preview_share"] = round(statistics.median(first) / statistics.median(whole), 3) if first else None
    return found


def _resident() -> int:
    """Bytes of memory this process holds now (at most, where the system tells no more)."""
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
