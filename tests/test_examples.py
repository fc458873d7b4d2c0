"""The scripts in examples/ run as they stand; each is short."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import fourstroke

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def _run(name: str, folder: Path, *words: str) -> str:
    """Run an example in a folder of its own, which sees the tree's recipes and models."""
    environment = os.environ | {"FOURSTROKE_MODELS": str(ROOT / "models"), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(ROOT / "src")
    for part in ("recipes", "models"):
        (folder / part).symlink_to(ROOT / part)
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def _pictures(folder: Path) -> list[Image.Image]:
    return [Image.open(path) for path in sorted(folder.rglob("*.png"))]


def test_there_are_six_of_under_thirty_lines() -> None:
    assert len(EXAMPLES) == 6
    for path in EXAMPLES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 30, path.name


def test_draw(tmp_path: Path) -> None:
    said = _run("draw", tmp_path, "a cat", "a frog")
    assert said.count(".png") == 4
    assert [image.size for image in _pictures(tmp_path / "outputs")] == [(128, 128)] * 4


def test_edit(tmp_path: Path) -> None:
    Image.new("RGB", (128, 64), "teal").save(tmp_path / "picture.png")
    _run("edit", tmp_path, "make it blue", "picture.png")
    (edited,) = _pictures(tmp_path / "outputs")
    assert edited.width == 2 * edited.height  # the input's shape


def test_lora(tmp_path: Path) -> None:
    width = fourstroke.Pipeline.from_pretrained().transformer.config.width
    layer = "transformer.transformer_blocks.0.attn.to_q"
    torch.manual_seed(0)
    save_file(
        {f"{layer}.lora_A.weight": torch.randn(4, width), f"{layer}.lora_B.weight": torch.randn(width, 4)},
        tmp_path / "style.safetensors",
    )
    _run("lora", tmp_path, "style.safetensors", "a cat")
    off, half, on = (image.tobytes() for image in _pictures(tmp_path / "outputs"))
    assert off != half != on


def test_train(tmp_path: Path) -> None:
    small = ["run.steps=3", "model.base_dim=4", "model.decoder_base_dim=4", "batch_size=2", "statistics=8"]
    said = _run("train", tmp_path, *small)
    assert "(1, 4, 96, 96) -> (1, 64, 6, 6) -> (1, 4, 96, 96)" in said


def test_serve(tmp_path: Path) -> None:
    pytest.importorskip("openai")
    _run("serve", tmp_path, "a cat")
    assert Image.open(tmp_path / "served.png").size == (128, 128)


def test_evaluate(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "photos" / "one.png")
    composition, reconstruction = _run("evaluate", tmp_path, "photos").splitlines()
    assert "'objects'" in composition
    assert "'psnr'" in reconstruction
