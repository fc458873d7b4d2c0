"""A world of shapes, its triplets, and an enhancer of random weights."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from fourstroke.enhance.enhancer import PromptEnhancer
from fourstroke.enhance.local import EnhancerConfig, LocalModel
from fourstroke.enhance.small import SYSTEM_PROMPT, SmallEnhancerConfig, build_model, build_tokenizer
from fourstroke.enhance.triplet import Triplet
from fourstroke.world import World, WorldConfig
from fourstroke.world.caption_rules import world_triplets

SHAPES = WorldConfig(width=32, height=32, sprites=0)
LIVELY = replace(SHAPES, words=0.1, textures=0.6, lights=0.6)
"""Shapes with the textures, lights and words that an enhancer learns from."""
TINY = SmallEnhancerConfig(
    vocab_size=420, hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=16, intermediate_size=32
)
SETTINGS = EnhancerConfig(
    max_new_tokens=16,
    temperature=0.7,
    presence_penalty=0.0,
    max_characters=300,
    things=("circle", "square", "triangle", "diamond"),
    colours=("red", "green", "blue", "sky blue", "mint"),
)


@pytest.fixture(scope="session")
def world() -> World:
    return World(replace(LIVELY, words=0.3))


@pytest.fixture(scope="session")
def triplets(world: World) -> list[Triplet]:
    return world_triplets(world, 200)


@pytest.fixture(scope="session")
def tokenizer(triplets):
    return build_tokenizer((text for t in triplets for text in (t.short, t.reasoning, t.rich)), TINY.vocab_size)


@pytest.fixture(scope="session")
def enhancer(tokenizer) -> PromptEnhancer:
    torch.manual_seed(0)
    return PromptEnhancer(LocalModel(build_model(TINY, tokenizer).eval(), tokenizer), SETTINGS, SYSTEM_PROMPT)


@pytest.fixture
def serve() -> Iterator[Callable]:
    """Starts chat endpoints that answer each request with what a function of it returns: (status, body)."""
    servers = []

    def start(answer: Callable[[dict], tuple[int, object]]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, body = answer(asked | {"key": self.headers.get("Authorization")})
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def said(text: str, **more: object) -> tuple[int, dict]:
    """A chat completion with these words."""
    return 200, {"choices": [{"message": {"role": "assistant", "content": text, **more}}]}
