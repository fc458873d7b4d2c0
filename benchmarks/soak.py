"""A server under 300 mixed requests: does its memory stay flat, is any slot lost, does anything fail?

    python benchmarks/soak.py --model micro --out soak.json

Four clients ask at a time for pictures of several sizes and numbers, with guidance, streamed with partial images,
edited from one input, under a mask, and from two of 2048 x 2048 pixels with n = 4; some go away in the middle, and some
ask for what must be refused. Resident memory is read after 50, 150 and 300 requests, when nothing runs. Prints the
figures, then the bars with pass or fail; the exit code is 1 if one fails. `--requests` scales the three marks.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from bars import report
from PIL import Image

from fourstroke.folder import find_model, read_info
from fourstroke.sizes import multiple
from serve import Served, served

KINDS = (
    "plain", "several", "guided", "streamed", "leaves", "edit", "masked", "plain", "leaves early", "streamed",
    "several", "refused", "two of 2048 px",
)  # fmt: skip
MARKS = (1 / 6, 1 / 2, 1)
"""Shares of the requests after which memory is read."""
AGAIN = 6 * len(KINDS)
"""Requests after which the same come again, with other seeds: what the server keeps of prompts is there by then."""
GROWTH = 0.03
"""Of memory between the last two marks, at most."""


class Soak:
    """Clients of one server, and what they saw."""

    def __init__(self, server: Served, sides: list[int], clients: int) -> None:
        self.server, self.sides, self.clients = server, sides, clients
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        noise = np.random.default_rng(0).integers(0, 256, (2048, 2048, 3), dtype=np.uint8)
        self.large = [_png(Image.fromarray(noise)), _png(Image.fromarray(noise[::-1].copy()))]
        self.small = _png(Image.fromarray(noise[: sides[-1], : sides[-1]].copy()))
        mask = Image.new("RGBA", (sides[-1], sides[-1]), (0, 0, 0, 255))
        mask.paste((0, 0, 0, 0), (0, 0, sides[-1] // 2, sides[-1]))
        self.mask = _png(mask)

    def run(self, numbers: range) -> None:
        """Ask `clients` at a time until all are answered."""
        asyncio.run(self._run(iter(numbers)))

    def at_rest(self) -> dict[str, float]:
        """The server's gauges once nothing runs or waits, at most 30 s later."""
        until = time.monotonic() + 30
        while True:
            text = httpx.get(f"{self.server.url}/metrics", timeout=60).text
            found = {name: float(re.findall(rf"^fourstroke_{name} (\S+)", text, re.M)[0]) for name in GAUGES}
            if found["pictures_running"] == found["pictures_waiting"] == 0 or time.monotonic() > until:
                return found
            time.sleep(0.1)

    async def _run(self, numbers: Any) -> None:
        async with httpx.AsyncClient(base_url=self.server.url, timeout=600) as web:

            async def client() -> None:
                for number in numbers:
                    await self._ask(web, number)

            await asyncio.gather(*(client() for _ in range(self.clients)))

    async def _ask(self, web: httpx.AsyncClient, number: int) -> None:
        again = number % AGAIN
        chance, kind = random.Random(again), KINDS[again % len(KINDS)]
        width, height = chance.choice(self.sides), chance.choice(self.sides)
        count = 4 if kind == "two of 2048 px" else chance.randint(2, 4) if kind == "several" else 1
        body: dict[str, Any] = {"prompt": f"a cat, {again}", "size": f"{width}x{height}", "n": count, "seed": number}
        files, edits = [], kind in ("edit", "masked", "two of 2048 px")
        if kind == "guided":
            body |= {"guidance_scale": 3, "negative_prompt": "a dog"}
        elif kind == "refused":
            body |= chance.choice(({"size": "33x33"}, {"prompt": " "}, {"n": 1000}, {"num_inference_steps": 10**6}))
        elif kind in ("edit", "masked"):
            body["size"] = f"{self.sides[-1]}x{self.sides[-1]}"
            files = [("image[]", ("a.png", self.small))]
            files += [("mask", ("m.png", self.mask))] if kind == "masked" else []
        elif edits:
            files = [("image[]", (f"{i}.png", image)) for i, image in enumerate(self.large)]
        if kind in ("streamed", "leaves", "leaves early"):
            await self._stream(web, kind, body)
            return
        try:
            if edits:
                form = {name: str(value) for name, value in body.items()}
                answer = await web.post("/v1/images/edits", data=form, files=files)
            else:
                answer = await web.post("/v1/images/generations", json=body)
        except httpx.HTTPError as error:
            self._note(kind, f"{type(error).__name__}")
            return
        if kind == "refused":
            self._note(kind, None if answer.status_code == 400 else f"{answer.status_code}")
            return
        good = answer.status_code == 200 and self._good(answer.json()["data"], body)
        self._note(kind, None if good else f"{answer.status_code} {answer.text[:200]}")

    async def _stream(self, web: httpx.AsyncClient, kind: str, body: dict[str, Any]) -> None:
        body |= {"stream": True, "partial_images": 2, "num_inference_steps": 4 if kind == "streamed" else 40}
        partial, finished, failed = 0, [], ""
        async with web.stream("POST", "/v1/images/generations", json=body) as answer:
            if kind == "leaves early" and answer.status_code == 200:
                self._note(kind, None)
                return  # before anything was seen
            async for line in answer.aiter_lines():
                event = json.loads(line[6:]) if line.startswith("data: ") else {"type": ""}
                partial += event["type"].endswith("partial_image")
                failed = failed or (line if event["type"] == "error" else "")
                finished += [event] if event["type"].endswith("completed") else []
                if kind == "leaves" and partial:
                    self._note(kind, None)
                    return
        good = answer.status_code == 200 and not failed and partial and self._good(finished, body)
        self._note(kind, None if good else f"{answer.status_code} {failed} {partial} partial")

    def _good(self, data: list[dict[str, Any]], body: dict[str, Any]) -> bool:
        """As many pictures as were asked for, of their size."""
        sizes = {Image.open(io.BytesIO(base64.b64decode(one["b64_json"]))).size for one in data}
        return len(data) == body["n"] and {f"{width}x{height}" for width, height in sizes} == {body["size"]}

    def _note(self, kind: str, wrong: str | None) -> None:
        self.outcomes[kind if wrong is None else f"{kind}: failed"] += 1
        self.wrong += [] if wrong is None else [f"{kind}: {wrong}"]


GAUGES = ("pictures_running", "pictures_waiting", "prefix_cache_bytes")


def main() -> int:
    """Soak, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="folder or hub id (default: the best bundled model)")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--kv-bytes", type=int, help="the server's own option")
    parser.add_argument("--out", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    info = read_info(find_model(arguments.model))
    step = multiple(info)
    sides = [side for side in (info.width // 2, info.width * 3 // 4, info.width) if side >= step]
    sides = sorted({max(step, side // step * step) for side in sides})
    own = [] if arguments.kv_bytes is None else ["--kv-bytes", str(arguments.kv_bytes)]
    figures: dict[str, Any] = {"model": info.name, "requests": arguments.requests, "cores": os.cpu_count()}
    start, done = time.monotonic(), 0
    with served(arguments.model, *own) as server:
        soak = Soak(server, sides, arguments.clients)
        figures["mib"] = {0: round(server.resident() / 2**20, 1)}
        for mark in MARKS:
            target = round(mark * arguments.requests)
            soak.run(range(done, target))
            done, rest = target, soak.at_rest()
            figures["mib"][done] = round(server.resident() / 2**20, 1)
            print(f"{done} requests, {figures['mib'][done]} MiB, {time.monotonic() - start:.0f} s", file=sys.stderr)
    figures |= {"seconds": round(time.monotonic() - start), "outcomes": dict(soak.outcomes), "at_rest": rest}
    memory = [*figures["mib"].values()]
    growth = memory[-1] / memory[-2] - 1
    bars = {
        "every request ends as it should": (not soak.wrong, "; ".join(soak.wrong[:5]) or f"{done} requests"),
        "no slot lost": (rest["pictures_running"] == rest["pictures_waiting"] == 0, f"{rest}"),
        "memory flat": (growth <= GROWTH, f"{100 * growth:+.1f} % from {memory[-2]} MiB"),
    }
    return report(figures, bars, arguments.out)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())
