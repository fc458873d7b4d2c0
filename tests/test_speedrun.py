"""The one command that trains a family from nothing, on a family of minutes instead of hours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from fourstroke import Pipeline
from fourstroke.speedrun import speedrun

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.fixture
def tiny_recipes(tmp_path):
    """The micro family's own files with every size cut down: shapes alone, 32 pixels, three steps a stage."""
    folder = tmp_path / "recipes" / "tiny"
    folder.mkdir(parents=True)
    names = ("world", "crowded", "vae", "text", "dit")
    world, crowded, vae, text, dit = (
        yaml.safe_load((RECIPES / "micro" / f"{name}.yaml").read_text()) for name in names
    )
    for each in (world, crowded):
        each |= {"width": 32, "height": 32, "sprites": 0}
    vae["model"] |= {"base_dim": 4, "decoder_base_dim": 4}
    vae |= {"batch_size": 2, "sizes": [[32, 32]], "statistics": 32, "run": {"out": "x", "steps": 3}}
    text |= {"batch_size": 2, "tokenizer_captions": 64, "run": {"out": "x", "steps": 3}}
    dit["model"] |= {"num_layers": 1, "num_attention_heads": 1}
    dit["semantics"]["block"] = 1
    dit["info"] |= {"name": "tiny", "width": 32, "height": 32, "num_inference_steps": 2}
    dit["data"] |= {"samples": 64, "held_out": 32}
    dit["validators"][0] |= {"prompts": 4, "steps": 2}
    dit |= {"held_out": 32, "batch_size": 2, "noise_samples": 2, "sheet": 2, "run": {"out": "x", "steps": 3}}
    for name in ("data", "evaluate"):
        (folder / f"{name}.yaml").write_text((RECIPES / "micro" / f"{name}.yaml").read_text())
    for name, tree in zip(names, (world, crowded, vae, text, dit), strict=True):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    return folder.parent


def test_speedrun_trains_measures_and_writes_a_card(tiny_recipes, tmp_path, capsys):
    folder = speedrun("tiny", tiny_recipes, tmp_path / "runs", n=4)
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["composition"]["n"] == 4
    assert 0 <= scores["composition"]["objects"]["value"] <= 1
    assert scores["reconstruction"]["world"]["psnr"] > 5
    card = (folder / "README.md").read_text()
    assert f"| objects | {scores['composition']['objects']['value']:.3f} |" in card
    assert "text encoder by reading" in card
    assert "Shapes, in 8 colours: circle, square, triangle, diamond." in " ".join(card.split())
    assert f"{scores['reconstruction']['world']['psnr']:.1f} dB on held-out pictures of world" in card
    scenes = json.loads((folder / "data.json").read_text())["parts"][0]["data"]
    assert (scenes["kind"], scenes["world"]["width"]) == ("world", 32)
    assert Pipeline.from_pretrained(folder)("a red circle", seed=1).images[0].size == (32, 32)
    states = [(tmp_path / "runs" / "tiny" / stage / "state" / "state.json").stat().st_mtime for stage in ("vae", "dit")]
    speedrun("tiny", tiny_recipes, tmp_path / "runs", n=4)  # what is done is not done again
    assert states == [(tmp_path / "runs" / "tiny" / s / "state" / "state.json").stat().st_mtime for s in ("vae", "dit")]
