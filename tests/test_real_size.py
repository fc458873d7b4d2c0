"""The benchmark of the real size, in tiny: the checkpoint's layout, and a row of each side on the same files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "real_size.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    command = [sys.executable, SCRIPT, "--tiny", "--folder", folder / "tiny", "--out", folder / "out.json"]
    rows = ["--rows", "ours, bf16, offload layers", "ours, int8", "diffusers, bf16, offload turns"]
    done = subprocess.run([*map(str, command), *rows], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "tiny", json.loads((folder / "out.json").read_text())


def test_the_layout_is_the_published_one(run):
    folder, result = run
    for part, name in (("transformer", "diffusion_pytorch_model"), ("text_encoder", "model")):
        index = json.loads((folder / part / f"{name}.safetensors.index.json").read_text())["weight_map"]
        assert len(set(index.values())) > 1
        numbers = 0
        for file in set(index.values()):
            with safe_open(folder / part / file, "pt") as tensors:
                assert {key for key, where in index.items() if where == file} == set(tensors.keys())
                slices = [tensors.get_slice(key) for key in tensors.keys()]  # noqa: SIM118
                assert {one.get_dtype() for one in slices} == {"BF16"}
                numbers += sum(tensors.get_tensor(key).numel() for key in tensors.keys())  # noqa: SIM118
        assert numbers == result["parameters"][part]


def test_every_row_has_its_times_and_memory(run):
    _, result = run
    cells = {(cell["row"], cell["size"]): cell for cell in result["cells"]}
    assert len(cells) == 6
    for (row, size), cell in cells.items():
        if (row, size) == ("diffusers, bf16, offload turns", 64):
            assert "input images" in cell["error"]
            continue
        assert {"text", "first step, with the prompt", "step", "decode", "all"} <= cell["seconds"].keys()
        assert cell["processor"]["all"] > 0
        assert 0 < cell["gib"]["anonymous"] <= cell["gib"]["peak"] < 4


def test_stages_are_held_against_those_of_diffusers(run):
    _, result = run
    stages = result["times as fast as diffusers"]["32 px"]["ours, bf16, offload layers"]
    assert stages.keys() == {"text", "first step, with the prompt", "step", "decode"}
    ours, theirs = (
        next(cell["seconds"]["step"] for cell in result["cells"] if cell["row"].startswith(side) and cell["size"] == 32)
        for side in ("ours, bf16", "diffusers")
    )
    assert stages["step"] == pytest.approx(theirs / ours, rel=0.02)


def test_both_sides_are_as_far_from_float32(run):
    command = [sys.executable, SCRIPT.with_name("real_error.py"), "--folder", run[0], "--side", 4, "--tokens", 9]
    done = subprocess.run([*map(str, command), "--ways", "int4"], capture_output=True, text=True, check=False)
    errors = json.loads(done.stdout)["errors"]
    assert 0 < errors["ours"] < 0.02 > errors["diffusers"] > 0
    assert errors["ours, int4"] > 3 * errors["ours"]


def test_both_sides_draw_the_same(run):
    _, result = run
    assert 0 < result["difference"]["ours, bf16, offload layers"] < 0.06  # of the latents' deviation, after four steps
