"""SIGTERM under load: what was accepted is finished, nothing new is taken, the exit code is 0."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading

import httpx

from .conftest import wait_until


def test_sigterm_finishes_what_was_accepted(tiny_folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "fourstroke.cli", "serve", "--model", str(tiny_folder), "--port", str(port)]
    command += ["--rows", "4"]  # three quarters of the pictures wait when it is told to stop
    process = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stderr=subprocess.PIPE, text=True)
    url, answers = f"http://127.0.0.1:{port}", []
    try:
        with httpx.Client(base_url=url, timeout=60) as web:

            def healthy():
                assert process.poll() is None
                with contextlib.suppress(httpx.TransportError):
                    return web.get("/health").status_code == 200

            wait_until(healthy, 120)

            def ask(seed):
                body = {"prompt": "a cat", "seed": seed, "num_inference_steps": 100, "n": 4}
                answers.append(httpx.post(f"{url}/v1/images/generations", json=body, timeout=120).status_code)

            threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
            for thread in threads:
                thread.start()
            wait_until(lambda: accepted(web.get("/metrics").text) == 16, 60)
            process.send_signal(signal.SIGTERM)
            for thread in threads:
                thread.join(120)
        assert answers == [200] * 4
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.stderr.close()


def accepted(metrics: str) -> float:
    """Pictures that wait, are being drawn or are done."""
    names = (
        "fourstroke_pictures_waiting ",
        "fourstroke_pictures_running ",
        'fourstroke_pictures_total{outcome="done"} ',
    )
    return sum(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(names))
