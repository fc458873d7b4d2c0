"""SIGTERM under load: what was accepted is finished, nothing new is taken, the exit code is 0."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx


def test_sigterm_finishes_what_was_accepted(tiny_folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "fourstroke.cli", "serve", "--model", str(tiny_folder), "--port", str(port)]
    process = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stderr=subprocess.PIPE, text=True)
    url, answers = f"http://127.0.0.1:{port}", []
    try:
        for _ in range(400):
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.05)

        def ask(seed):
            body = {"prompt": "a cat", "seed": seed, "num_inference_steps": 100, "n": 2}
            answers.append(httpx.post(f"{url}/v1/images/generations", json=body, timeout=30).status_code)

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        while "fourstroke_pictures_running 8" not in httpx.get(f"{url}/metrics").text:
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(30)
        assert answers == [200] * 4
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.stderr.close()
