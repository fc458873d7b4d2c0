"""The guide to one's own pictures: its commands, one after the other, on a tiny checkpoint."""

from __future__ import annotations

import shlex
from pathlib import Path

from PIL import Image

from fourstroke.cli import main

from ..conftest import build_tiny_pipeline

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guides" / "train-on-your-pictures.md"
SMALL = ["run.max_minutes=null", "run.steps=2", "batch_size=2", "held_out=0", "sheet=1", "loader.workers=0"]
SMALL += ["data.held_out=0", "info.num_inference_steps=2"]


def test_the_commands_of_the_page_run(tmp_path, monkeypatch, capsys):
    for name in ("recipes", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    build_tiny_pipeline().save_pretrained("base")
    Path("pictures").mkdir()
    for number in range(6):
        Image.new("RGB", (128, 96), (40 * number, 90, 30)).save(f"pictures/{number}.png")
        Path(f"pictures/{number}.txt").write_text("a cat")
    Path("edits.jsonl").write_text(
        "\n".join(
            f'{{"source": "pictures/{n}.png", "instruction": "brighter", "target": "pictures/{n + 1}.png"}}'
            for n in range(5)
        )
    )
    lines = [line.strip() for line in PAGE.read_text().splitlines() if line.startswith("    fourstroke ")]
    assert 4 <= len(lines) <= 10
    for line in lines:
        words = shlex.split(line)[1:]
        if words[0] == "train":
            words += ["init=base", *SMALL]
        if words[0] == "data":
            words += ["init=base", "loader.workers=0", "data.held_out=0"]
        assert main(words) in (0, None), line
    assert list(Path("outputs/cat").glob("*.png"))
    assert Path("runs/own/model/lora/pytorch_lora_weights.safetensors").exists()
    assert main(["train", "dit", "--recipe", "recipes/micro/own.yaml", "data.path=nowhere", "run.out=runs/no"]) == 2
    assert "no pictures at nowhere" in capsys.readouterr().err
