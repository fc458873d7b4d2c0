"""Every snippet of docs/guides/serve.md and the files in deploy/, run as they stand but for the server's address."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fourstroke.cli import _parser

from .conftest import Live, running
from .test_enhance import Rewriter, enhanced

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "guides" / "serve.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
ADDRESS = "http://127.0.0.1:8000"


def blocks(kind: str, word: str = "") -> list[str]:
    found = [text for name, text in BLOCKS if name == kind and word in text]
    assert found, f"no {kind} snippet with {word!r} in docs/guides/serve.md"
    return found


def run(command: list[str], folder: Path, url: str) -> str:
    environment = os.environ | {"NO_PROXY": "127.0.0.1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("OPENAI_API_KEY", None)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with running(enhanced(Rewriter(ratio="2:1"))) as live:
        yield live


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl(server, tmp_path):
    for text in blocks("sh", "curl"):
        out = run(["sh", "-c", text.replace(ADDRESS, server.url)], tmp_path, server.url)
        if "enhance" in text:
            assert json.loads(out)["prompt"] == "draw me a cat pls in soft light"
        else:
            assert (tmp_path / "cat.png").read_bytes().startswith(b"\x89PNG")


def test_python(server, tmp_path):
    pytest.importorskip("openai")
    out = ""
    for text in blocks("python"):
        out += run([sys.executable, "-c", text.replace(ADDRESS, server.url)], tmp_path, server.url)
    assert (tmp_path / "cat-1.png").read_bytes().startswith(b"\x89PNG")
    assert "image_generation.completed" in out
    assert "image_generation.partial_image" in out


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
def test_javascript_without_packages(server, tmp_path):
    (text,) = blocks("js", "fetch(")
    (tmp_path / "ask.mjs").write_text(text.replace(ADDRESS, server.url))
    said = run(["node", "ask.mjs"], tmp_path, server.url).split()
    assert said == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
def test_javascript_client(server, tmp_path):
    modules = os.environ.get("NODE_PATH", "")
    if not (Path(modules) / "openai").exists():
        pytest.skip("the openai package is not in NODE_PATH (npm install openai)")
    (tmp_path / "node_modules").symlink_to(modules)
    (text,) = blocks("js", "new OpenAI(")
    (tmp_path / "ask.mjs").write_text(text.replace(ADDRESS, server.url))
    run(["node", "ask.mjs"], tmp_path, server.url)
    assert (tmp_path / "cat.png").read_bytes().startswith(b"\x89PNG")


def test_commands_that_start_servers_are_understood():
    lines = [
        line for text in blocks("sh", "fourstroke serve") for line in text.splitlines() if "fourstroke serve" in line
    ]
    assert len(lines) >= 2
    for line in lines:
        assert _parser([]).parse_args(shlex.split(line)[1:]).run.__name__ == "serve"


def test_the_unit_is_valid(tmp_path):
    text = (ROOT / "deploy" / "fourstroke.service").read_text(encoding="utf-8")
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read_string(text)
    command = shlex.split(unit["Service"]["ExecStart"])
    assert _parser([]).parse_args(command[1:]).port == 8000
    assert int(unit["Service"]["TimeoutStopSec"]) > 600
    if shutil.which("systemd-analyze"):
        (tmp_path / "fourstroke.service").write_text(text.replace(command[0], sys.executable))
        check = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "fourstroke.service")]
        found = subprocess.run(check, capture_output=True, text=True, timeout=60)
        ours = [line for line in found.stderr.splitlines() if "fourstroke.service" in line]
        assert not ours, ours


def test_the_container_file_copies_what_exists_and_starts_what_is_installed():
    """Building it needs a container engine and a network; this holds what can break here."""
    text = (ROOT / "deploy" / "Containerfile").read_text(encoding="utf-8")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    assert steps[0][0] == "FROM"
    copied = [name for word, rest in steps if word == "COPY" for name in rest.split()[:-1]]
    assert {"pyproject.toml", "src", "models"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {project["readme"], *project["license-files"]} <= set(copied)
    (command,) = (json.loads(rest) for word, rest in steps if word == "CMD")
    assert command[0] in project["scripts"]
    arguments = _parser([]).parse_args(command[1:])
    assert arguments.host == "0.0.0.0"
    assert any(word == "USER" for word, _ in steps)
