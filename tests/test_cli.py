"""The command line: what it writes, what it prints, and how it says no."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fourstroke import Pipeline
from fourstroke.cli import main
from fourstroke.commands import _open
from fourstroke.lora import LoraConfig, add_lora, lora_parameters, save_lora

CAFE = os.fsdecode(b"caf\xe9")
"""An argument in Latin-1, as Python hands it over."""


def _run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    streams = capsys.readouterr()
    return code, streams.out, streams.err


def test_generate_writes_pictures_that_tell_their_recipe(tiny_folder, tmp_path, capsys):
    code, out, _ = _run(
        capsys,
        "generate",
        "a cat",
        "a red circle",
        "--model",
        tiny_folder,
        "--out",
        tmp_path / "o",
        "--seed",
        3,
        "--sheet",
        tmp_path / "sheet.png",
        "--json",
    )
    result = json.loads(out.strip().splitlines()[-1])
    assert code == 0
    assert result["seeds"] == [3, 3]
    assert set(result["timings"]) == {"load", "encode", "denoise", "decode"}
    image = Image.open(result["pictures"][1])
    assert image.size == (64, 32)
    recipe = json.loads(image.text["fourstroke"])
    assert recipe["prompt"] == "a red circle"
    assert (recipe["seed"], recipe["model"], recipe["width"], recipe["height"]) == (3, "tiny", 64, 32)
    assert recipe["num_inference_steps"] >= 1
    assert recipe["background"] == "opaque"
    assert Image.open(tmp_path / "sheet.png").width > 128


def test_adapters_are_loaded_and_told(tiny_folder, tmp_path, capsys):
    pipe = Pipeline.from_pretrained(tiny_folder)
    add_lora(pipe.transformer, LoraConfig(rank=2))
    with torch.no_grad():
        for factor in lora_parameters(pipe.transformer).values():
            factor.normal_(std=0.15, generator=torch.Generator().manual_seed(0))
    file = save_lora(tmp_path / "style.safetensors", pipe.transformer)
    Image.new("RGB", (64, 32), "red").save(tmp_path / "in.png")
    asked = "a cat", "--model", tiny_folder, "--out", tmp_path, "--seed", 3, "--json"
    for command in (("generate", *asked), ("edit", *asked, "--image", tmp_path / "in.png")):
        drawn = []
        for more in ((), ("--lora", f"{file}:0.8"), ("--lora", file, "--lora", f"again={file}:-0.2")):
            code, out, _ = _run(capsys, *command, *more)
            assert code == 0
            drawn.append(Image.open(json.loads(out)["pictures"][0]))
        plain, one, two = (np.asarray(image).astype(int) for image in drawn)
        assert np.abs(one - plain).max() > 5
        assert np.abs(two - one).max() <= 1  # 0.8 of the same
        notes = [json.loads(image.text["fourstroke"]).get("lora") for image in drawn]
        assert notes[:2] == [None, [{"name": "style", "strength": 0.8}]]
        assert notes[2] == [{"name": "style", "strength": 1.0}, {"name": "again", "strength": -0.2}]


def test_nothing_is_overwritten(tiny_folder, tmp_path, capsys):
    for _ in range(2):
        _run(capsys, "generate", "a cat", "--model", tiny_folder, "--out", tmp_path, "--seed", 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-cat-3-2.png", "a-cat-3.png"]


def test_edit_reads_its_image(tiny_folder, tmp_path, capsys):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "in.png")
    code, out, _ = _run(
        capsys, "edit", "make it blue", "--image", tmp_path / "in.png", "--model", tiny_folder, "--out", tmp_path
    )
    assert code == 0
    assert "make-it-blue" in out


def test_edit_draws_the_same_from_eight_and_sixteen_bits(tiny_folder, tmp_path, capsys):
    values, drawn = np.linspace(0, 255, 64 * 32).astype(np.uint8).reshape(32, 64), []
    for image in (values, values.astype(np.uint16) * 257):
        Image.fromarray(image).save(tmp_path / "in.png")
        asked = "edit", "x", "--image", tmp_path / "in.png", "--model", tiny_folder, "--out", tmp_path, "--seed", 1
        drawn.append(Image.open(json.loads(_run(capsys, *asked, "--json")[1])["pictures"][0]))
    assert np.array_equal(*drawn)


def test_an_image_from_a_telephone_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (64, 32)).save(tmp_path / "in.jpg", exif=exif)
    assert _open(tmp_path / "in.jpg").size == (32, 64)


def test_pictures_are_written_before_the_next_prompt_can_fail(tiny_folder, tmp_path, capsys):
    long = "a cat " * 2000
    code, _, err = _run(capsys, "generate", "a cat", long, "--model", tiny_folder, "--out", tmp_path, "--seed", 3)
    assert code == 2
    assert "tokens" in err
    assert [p.name for p in tmp_path.iterdir()] == ["a-cat-3.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "a cat", "--model", "no/such/folder"], "no model at"),
        (["generate", " ", "--model", "TINY"], "prompt is empty"),
        (["generate", "a cat", "--model", "TINY", "--lora", "gone.safetensors:0.8"], "no adapter at gone.safetensors"),
        (["generate", "a cat", "--model", "TINY", "--lora", "x.safetensors:1.2.3"], "1.2.3 is no strength"),
        (["edit", "x", "--image", "in.png", "--model", "TINY", "--lora", "x:20"], "no adapter at x"),
        (["generate", "a cat", "\u200b", "--model", "TINY"], "prompt is empty"),
        (["edit", "", "--image", "none.png", "--model", "TINY"], "prompt is empty"),
        (["enhance", "", "--model", "TINY"], "prompt is empty"),
        (["enhance", "a cat", " \ufeff\x00", "--endpoint", "http://x", "--endpoint-model", "m"], "prompt is empty"),
        (["generate", CAFE, "--model", "TINY"], r"prompt 'caf\udce9' is not UTF-8"),
        (["enhance", "a cat", CAFE, "--model", "TINY"], r"prompt 'caf\udce9' is not UTF-8"),
        (["generate", "a cat", "--negative", CAFE, "--model", "TINY"], r"negative 'caf\udce9' is not UTF-8"),
        (["generate", "a cat", "--model", CAFE], r"model 'caf\udce9' is not UTF-8"),
        (["train", "vae", "--recipe", "recipes/micro/vae.yaml", f"run.out={CAFE}"], "is not UTF-8"),
        (["enhance", "a cat", "--endpoint", "http://x", "--endpoint-model", CAFE], "endpoint-model 'caf"),
        (["generate", "a cat", "--model", "TINY", "--width", "50"], "multiple of 32"),
        (["generate", "a cat", "--model", "TINY", "--steps", "-2"], "at least 1"),
        (["edit", "x", "--image", "none.png", "--model", "TINY"], "cannot read the input image"),
        (["edit", "x", "--image", "https://a.example/b.png", "--model", "TINY"], "https://a.example/b.png: that is an"),
        (["eval", "reconstruction", "--images", "https://a.example/b", "--model", "TINY"], "that is an address"),
        (["train", "vae", "--recipe", "none.yaml"], "no recipe at"),
        (["train", "vae", "--recipe", "recipes/micro/vae.yaml", "run.nonsense=3"], "unknown key 'nonsense'"),
        (["train", "vae", "run.nonsense=3", "--recipe", "recipes/micro/vae.yaml"], "unknown key 'nonsense'"),
    ],
)
def test_errors_are_one_line_and_not_zero(tiny_folder, capsys, arguments, message):
    code, out, err = _run(capsys, *[tiny_folder if a == "TINY" else a for a in arguments])
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert message in err


def test_what_standard_output_cannot_show_ends_no_run(tiny_folder, tmp_path, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", errors="strict"))
    out = tmp_path / os.fsdecode(b"sorti\xe9")
    arguments = ["generate", "a café cat 猫", "--model", str(tiny_folder), "--out", str(out), "--seed", "1"]
    assert main(arguments) == 0
    assert main([*arguments, "--json"]) == 0
    sys.stdout.flush()
    said = raw.getvalue().decode("ascii")
    plain, *_, last = said.splitlines()
    assert plain.endswith(r"sorti\udce9/a-caf\xe9-cat-\u732b-1.png")
    assert [os.path.basename(path) for path in json.loads(last)["pictures"]] == ["a-café-cat-猫-1-2.png"]
    assert len(list(out.iterdir())) == 2


def test_a_prompt_that_file_names_cannot_hold_is_drawn(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    arguments = ["--model", str(tiny_folder), "--out", str(tmp_path), "--seed", "1"]
    assert main(["generate", "a café cat", "猫", *arguments]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-caf-cat-1.png", "picture-1.png"]


def test_doctor_reports(capsys):
    code, out, _ = _run(capsys, "doctor", "--json")
    assert code == 0
    facts = json.loads(out)
    assert {"torch", "python", "gpu", "model"} <= facts.keys()
    assert all(fact.keys() == {"value", "good", "mend"} for fact in facts.values())


def test_pictures_that_are_written_are_named_when_the_next_one_fails(tiny_folder, tmp_path, capsys):
    arguments = ["generate", "a cat", "a cat " * 2000, "--model", tiny_folder, "--out", tmp_path, "--seed", 3]
    assert str(tmp_path / "a-cat-3.png") in _run(capsys, *arguments)[1].splitlines()
    code, out, err = _run(capsys, *arguments, "--json")
    assert (code, out) == (2, "")
    assert str(tmp_path / "a-cat-3-2.png") in err.splitlines()


def test_home_is_expanded_in_every_path(tiny_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(tiny_folder)
    code, out, _ = _run(capsys, "generate", "a cat", "--model=~/model", "--out=~/o", "--sheet=~/s/all.png", "--seed", 3)
    assert code == 0
    assert str(tmp_path / "o" / "a-cat-3.png") in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "o", "s"]


@pytest.mark.parametrize("option", ["--model", "--out", "--sheet"])
def test_an_empty_name_is_told(capsys, option):
    code, out, err = _run(capsys, "generate", "a cat", option, "")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"argument {option}: the path is empty" in err
    with pytest.raises(ValueError, match="name is empty"):
        Pipeline.from_pretrained("")


def test_a_reader_that_stops_does_not_end_a_command(tiny_folder, tmp_path):
    command = f"{sys.executable} -m fourstroke.cli generate 'a cat' --model {tiny_folder} --out {tmp_path} --seed 3"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command} | true"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "a-cat-3.png").exists()
