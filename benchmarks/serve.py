"""The server under load, on loopback: is every picture right, what do shared steps gain, does memory stay flat?

    python benchmarks/serve.py --model micro --seconds 120 --clients 16 --out serve.json

In turn, and each bounded:
- unloaded: one client, one picture at a time: how soon is there something to see?
- alone and shared: the clients ask for as long as `--seconds`, first of a server that draws one picture at a time, then
  of one that shares steps. Every picture is compared with what the pipeline draws by itself from the same seed.
- leaving: half of the clients go away in the middle; how many steps were done for them afterwards?
- memory: `--requests` pictures; the server's resident memory after the first quarter and at the end.
- sigterm: a full server is told to stop; what it accepted must arrive, what comes later must be refused, exit 0.

A first preview's share is the time from sending a request to its first partial image over the time to its picture,
median over requests; under load both contain the waiting. Prints the bars with pass or fail; the exit
code is 1 if one fails. Servers are processes of their own, so that clients do not share their interpreter lock.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from bars import Bars, report
from PIL import Image

from fourstroke.pipeline import Pipeline
from fourstroke.serve import ServeConfig
from fourstroke.serve.jobs import Job
from fourstroke.serve.server import build_engine, build_server

PROMPTS = ("a cat", "a red circle to the left of a green square", "a blue triangle above a rocket, soft light")
Wanted = dict[tuple[str, int], np.ndarray]


@dataclass
class Tally:
    """What the clients saw."""

    statuses: dict[str, int] = field(default_factory=dict)
    whole: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    wrong: int = 0
    lost: int = 0
    left: int = 0
    seconds: float = 0.0

    def figures(self) -> dict[str, Any]:
        """For the report."""
        median = {name: statistics.median(getattr(self, name)) for name in ("whole", "first", "shares") if self.whole}
        return {
            "pictures": len(self.whole), "statuses": self.statuses, "wrong": self.wrong, "lost": self.lost,
            "pictures_per_second": len(self.whole) / self.seconds if self.seconds else 0.0,
            "median_seconds": median.get("whole"), "first_preview_seconds": median.get("first"),
            "first_preview_share": median.get("shares"),
        }  # fmt: skip


def main() -> int:
    """Run everything and print the figures, then the bars."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="folder or hub id (default: the best bundled model)")
    parser.add_argument("--seconds", type=float, default=120, help="length of each burst")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rows", type=int, help="pictures that share a step (default: the server's own)")
    parser.add_argument("--seeds", type=int, default=8, help="different seeds for each prompt; all are checked")
    parser.add_argument("--requests", type=int, default=300, help="pictures drawn to see whether memory grows")
    parser.add_argument("--out", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    pipe = Pipeline.from_pretrained(arguments.model)
    wanted = {
        (prompt, seed): np.asarray(pipe(prompt, seed=seed).images[0]).astype(int)
        for prompt in PROMPTS
        for seed in range(arguments.seeds)
    }
    load = Load(arguments, wanted)
    own = [] if arguments.rows is None else ["--rows", str(arguments.rows)]
    figures: dict[str, Any] = {"model": pipe.info.name, "clients": arguments.clients, "seconds": arguments.seconds}
    figures["cores"], figures["load_before"] = os.cpu_count(), round(os.getloadavg()[0], 2)
    with served(arguments.model, "--rows", "1") as alone:
        figures["unloaded"] = load.run(alone.url, clients=1, until=lambda t: len(t.whole) >= 9).figures()
        figures["alone"] = load.run(alone.url).figures()
    with served(arguments.model, *own) as shared:
        figures["shared"] = load.run(shared.url).figures()
        figures["memory"] = memory(load, shared, arguments.requests)
    figures["gain"] = figures["shared"]["pictures_per_second"] / figures["alone"]["pictures_per_second"]
    figures["leaving"] = leaving(load, pipe, min(arguments.seconds, 30))
    figures["sigterm"] = sigterm(arguments.model, arguments.clients)
    return report(figures, judge(figures), arguments.out)


def judge(figures: dict[str, Any]) -> Bars:
    """The issue's bars: whether each is met, and the figure."""
    bursts = [figures[name] for name in ("unloaded", "alone", "shared", "leaving")]
    statuses = {status for burst in bursts for status in burst["statuses"]}
    pictures = sum(burst["pictures"] for burst in bursts)
    wrong, lost = (sum(burst[name] for burst in bursts) for name in ("wrong", "lost"))
    ended, gone, grown = figures["sigterm"], figures["leaving"], figures["memory"]
    accepted = f"{ended['finished']} of {ended['accepted']} accepted finished, {ended['refused']} later refused"
    first = figures["unloaded"]["first_preview_seconds"]
    busy = figures["shared"]["first_preview_share"]
    return {
        "no error but 429": (statuses <= {"200", "429"}, str(sorted(statuses))),
        "no picture lost or swapped": (wrong == lost == 0, f"{wrong} wrong and {lost} lost of {pictures}"),
        "shared steps draw 1.3 times as much": (figures["gain"] >= 1.3, f"{figures['gain']:.2f}"),
        "first preview within 40 % (unloaded)": (
            figures["unloaded"]["first_preview_share"] <= 0.4, f"{figures['unloaded']['first_preview_share']:.2f}",
        ),
        "first preview within 40 % (under load)": (busy <= 0.4, f"{busy:.2f}"),
        "first preview within 2 s": (first < 2, f"{first:.2f} s"),
        "who leaves costs at most one step": (
            gone["left"] > 0 and gone["steps_after_leaving"] <= 1,
            f"{gone['steps_after_leaving']} steps at most, {gone['left']} left",
        ),
        "memory flat": (grown["growth"] <= 0.03, f"{100 * grown['growth']:+.1f} % over {grown['requests']} requests"),
        "SIGTERM": (
            ended["exit"] == 0 and ended["finished"] == ended["accepted"] > 0 and ended["refused"] > 0, accepted,
        ),
    }  # fmt: skip


@dataclass
class Served:
    """A server in a process of its own."""

    url: str
    process: subprocess.Popen[bytes]

    def resident(self) -> int:
        """Bytes of memory that it holds."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def served(model: str | None, *options: str, patience: int = 120) -> Iterator[Served]:
    """`fourstroke serve`, warm after `patience` seconds at most, ended at the latest with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "fourstroke.cli", "serve", "--port", str(port), *options]
    command += ["--model", model] if model else []
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(10 * patience):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            if process.poll() is not None:
                raise RuntimeError("the server did not start; run `fourstroke serve` to see why")
            time.sleep(0.1)
        yield Served(url, process)
        process.terminate()
        process.wait(120)
    finally:
        process.kill()


class Load:
    """Clients that ask for pictures one after the other and compare each with the one that belongs to its seed."""

    def __init__(self, arguments: argparse.Namespace, wanted: Wanted) -> None:
        self.arguments, self.wanted = arguments, wanted

    def run(
        self, url: str, *, clients: int | None = None, until: Callable[[Tally], bool] | None = None,
        seconds: float | None = None, leave: bool = False,
    ) -> Tally:  # fmt: skip
        """Ask until the time is over, or `until` says so."""
        seconds = self.arguments.seconds if seconds is None else seconds
        return asyncio.run(self._run(url, clients or self.arguments.clients, until, seconds, leave))

    async def _run(
        self, url: str, clients: int, until: Callable[[Tally], bool] | None, seconds: float, leave: bool
    ) -> Tally:
        tally, start = Tally(), time.monotonic()
        limits = httpx.Limits(max_connections=None)

        def over() -> bool:
            return until(tally) if until else time.monotonic() - start >= seconds

        async def client(number: int, web: httpx.AsyncClient) -> None:
            count = number
            while not over():
                await self._ask(web, tally, number, count, leave and number % 2 == 1)
                count += 5

        async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as web:
            await asyncio.gather(*(client(number, web) for number in range(clients)))
        tally.seconds = time.monotonic() - start
        return tally

    async def _ask(self, web: httpx.AsyncClient, tally: Tally, number: int, count: int, leaves: bool) -> None:
        prompt, seed = list(self.wanted)[count % len(self.wanted)]
        body = {"prompt": prompt, "seed": seed, "stream": True, "partial_images": 1, "user": str(number)}
        began, first, arrived = time.monotonic(), None, False
        async with web.stream("POST", "/v1/images/generations", json=body) as answer:
            status = str(answer.status_code)
            tally.statuses[status] = tally.statuses.get(status, 0) + 1
            if status != "200":
                await asyncio.sleep(float(answer.headers.get("retry-after", 1)))
                return
            async for line in answer.aiter_lines():
                if not line.startswith("data: "):
                    continue
                event = json.loads(line[6:])
                if event["type"] == "error":
                    tally.statuses["error"] = tally.statuses.get("error", 0) + 1
                elif event["type"].endswith("partial_image"):
                    first = time.monotonic() - began
                    if leaves:
                        tally.left += 1
                        return
                else:
                    arrived = True
                    self._check(tally, event["b64_json"], (prompt, seed), time.monotonic() - began, first)
        tally.lost += not arrived

    def _check(self, tally: Tally, data: str, key: tuple[str, int], whole: float, first: float | None) -> None:
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)
        tally.wrong += int(np.abs(picture - self.wanted[key]).max() > 2)
        tally.whole.append(whole)
        if first is not None:
            tally.first.append(first)
            tally.shares.append(first / whole)


def memory(load: Load, server: Served, requests: int) -> dict[str, Any]:
    """Resident memory after a quarter of the requests and after all."""
    load.run(server.url, until=lambda tally: len(tally.whole) >= requests // 4)
    before = server.resident()
    load.run(server.url, until=lambda tally: len(tally.whole) >= requests - requests // 4)
    after = server.resident()
    return {"requests": requests, "mb_before": before / 2**20, "mb_after": after / 2**20, "growth": after / before - 1}


def leaving(load: Load, pipe: Pipeline, seconds: float) -> dict[str, Any]:
    """Half of the clients leave when they have seen something; counts the steps done for them after that."""
    config = ServeConfig(port=0)
    engine = build_engine(pipe, config)
    at_leaving: dict[Job, int] = {}
    real = engine.cancel

    def cancel(jobs: Any) -> None:
        at_leaving.update({job: job.sequence.step for job in jobs if job.sequence is not None and not job.cancelled})
        real(jobs)

    engine.cancel = cancel  # type: ignore[method-assign]
    server = build_server(engine, config, log_level="error")
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not (server.started and engine.ready.wait(0.01)):
        pass
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        tally = load.run(f"http://127.0.0.1:{port}", seconds=seconds, leave=True)
    finally:
        server.should_exit = True
        thread.join(120)
    more = [job.sequence.step - step for job, step in at_leaving.items() if job.sequence is not None]
    return tally.figures() | {"left": tally.left, "steps_after_leaving": max(more, default=0)}


def sigterm(model: str | None, clients: int) -> dict[str, Any]:
    """Stop a server while all clients wait for a picture, and ask once more while it drains."""
    with served(model) as server, httpx.Client(base_url=server.url, timeout=120) as late:
        late.get("/health")  # opens the connection on which it asks again
        statuses: list[int] = []

        def ask(seed: int) -> None:
            body = {"prompt": PROMPTS[0], "seed": seed, "num_inference_steps": 40}
            statuses.append(httpx.post(f"{server.url}/v1/images/generations", json=body, timeout=300).status_code)

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(clients)]
        for thread in threads:
            thread.start()
        running = f"fourstroke_pictures_running {clients}\n"
        until = time.monotonic() + 60
        while running not in late.get("/metrics").text and time.monotonic() < until:
            pass
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        refused = 0
        try:
            refused += late.post("/v1/images/generations", json={"prompt": "too late"}).status_code == 503
        except httpx.TransportError:
            refused += 1
        for thread in threads:
            thread.join(300)
        code = server.process.wait(120)
    return {"accepted": clients, "finished": statuses.count(200), "refused": refused, "exit": code}


if __name__ == "__main__":
    sys.exit(main())
