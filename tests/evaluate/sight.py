"""A small real server that speaks OpenAI's chat protocol about pictures, well and badly."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

Answer = Callable[[str, list[np.ndarray]], str]
"""From a question and its pictures, (H, W, 3 or 4), to the model's words."""
LATE = 1.0
"""Seconds that a late answer takes; tests wait less."""


class Sight:
    """The server: `answer` is what its model says, `mood` by the number of the request how it says it.

    Moods: `well`, `prose` around the answer, `fenced` as Markdown, `thinking` aloud first, `wrong` (talk), `refusal`
    without words, `late`, `silent` (closes the connection), `broken` (not JSON), `busy` (503) and `blind` (400).
    """

    def __init__(self, answer: Answer, mood: Callable[[int], str] = lambda number: "well") -> None:
        self.answer, self.mood = answer, mood
        self.asked: list[str] = []
        self.bodies: list[dict] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def reply(self, body: dict) -> tuple[int, bytes] | None:
        parts = body["messages"][-1]["content"]
        text = next(part["text"] for part in parts if part["type"] == "text")
        with self._lock:
            number = len(self.asked)
            self.asked.append(text)
            self.bodies.append(body)
        mood = self.mood(number)
        if mood == "late":
            time.sleep(LATE)
        if mood in ("silent", "late"):
            return None
        if mood == "broken":
            return 200, b"<html>gateway</html>"
        if mood in ("busy", "blind"):
            why = "this model takes no image_url" if mood == "blind" else "try later"
            return (400 if mood == "blind" else 503), json.dumps({"error": {"message": why}}).encode()
        if mood == "refusal":
            return 200, _completion({"content": None, "refusal": "I cannot judge this."})
        words = self.answer(text, [_decoded(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"])
        said = {
            "prose": f"Certainly! Looking closely, I would say: {words} I hope that this helps.",
            "fenced": f"```json\n{words}\n```",
            "thinking": f"<think>maybe {{}} no, yes</think>\n\n{words}",
            "wrong": "As a model I like all pictures alike",
        }.get(mood, words)
        token = {"token": words.split()[0] if words else "", "logprob": -0.1}
        return 200, _completion({"content": said}, {"content": [{"top_logprobs": [token]}]})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        sight = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                reply = sight.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                if reply is None:
                    self.connection.close()
                    return
                status, data = reply
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def _completion(message: dict, logprobs: object = None) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant"} | message, "logprobs": logprobs}]}).encode()


def _decoded(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))
