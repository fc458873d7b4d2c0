"""What callers say at every door, the command line and Python: devices, paths, seeds and numbers."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fourstroke import Autoencoder, Pipeline, PromptEnhancer, TextEncoder, Transformer, device
from fourstroke.cli import main
from fourstroke.device import find_device, name_device, weights_dtype
from fourstroke.evaluate.reconstruction import evaluate_reconstruction
from fourstroke.files import user_path
from fourstroke.folder import find_model
from fourstroke.pipeline import NoEffectWarning
from fourstroke.seeds import MAX_SEED, following
from fourstroke.world.judging.composition import held_out_prompts

ABSENT = ("gpu", "cuda:9", "CUDA", "cuda:", "", "meta", "cpu:1")


@pytest.fixture(autouse=True)
def _own_warnings():
    """Warnings go to standard error as they do outside of pytest."""
    with warnings.catch_warnings():
        yield


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def said(capsys, *arguments):
    """The one line of an error."""
    code = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    return err


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "a cat"],
        ["edit", "a cat", "--image", "PICTURE"],
        ["enhance", "a cat"],
        ["serve"],
        ["serve", "--ray", "local"],
        ["eval", "composition"],
        ["eval", "reconstruction"],
    ],
    ids=" ".join,
)
def test_a_device_that_is_not_there_is_told_by_every_command(words, tiny_folder, tmp_path, capsys):
    if words[0] == "serve":
        pytest.importorskip("fastapi")
    if "--ray" in words:
        pytest.importorskip("ray")
    Image.new("RGB", (64, 32)).save(tmp_path / "in.png")
    words = [tmp_path / "in.png" if word == "PICTURE" else word for word in words]
    model = tiny_folder if words[0] != "enhance" else with_enhancer(tiny_folder, tmp_path)
    err = said(capsys, *words, "--model", model, "--device", "gpu")
    assert "there is no device 'gpu': this machine has cpu" in err


def with_enhancer(model, folder):
    """A model whose enhancer is there by name only: the device is looked at first."""
    (folder / "m" / "prompt_enhancer").mkdir(parents=True)
    (folder / "m" / "model_index.json").write_text((model / "model_index.json").read_text())
    (folder / "m" / "prompt_enhancer" / "config.json").write_text("{}")
    return folder / "m"


@pytest.mark.parametrize("name", ABSENT)
def test_a_device_that_is_not_there_is_told_in_python(name, tiny_folder, tmp_path):
    enhancer = with_enhancer(tiny_folder, tmp_path) / "prompt_enhancer"
    for load in (
        lambda: Pipeline.from_pretrained(tiny_folder, device=name),
        lambda: Autoencoder.from_pretrained(tiny_folder / "vae", device=name),
        lambda: Transformer.from_pretrained(tiny_folder / "transformer", device=name),
        lambda: TextEncoder.from_pretrained(tiny_folder / "text_encoder", tiny_folder / "processor", device=name),
        lambda: PromptEnhancer.from_pretrained(enhancer, device=name),
        lambda: evaluate_reconstruction(tiny_folder, device=name),
    ):
        with pytest.raises(ValueError, match=f"^there is no device '{name}': this machine has cpu"):
            load()


def test_the_devices_of_a_machine_are_listed_and_found(monkeypatch):
    gpus = [torch.device("cpu", 0), torch.device("cuda", 0), torch.device("cuda", 1)]
    monkeypatch.setattr(device, "present", lambda: gpus)
    assert [find_device(name) for name in ("cuda", "cuda:1", torch.device("cuda", 0))] == [
        torch.device("cuda"),
        torch.device("cuda", 1),
        torch.device("cuda", 0),
    ]
    with pytest.raises(ValueError, match="no device 'cuda:2': this machine has cpu, cuda:0, cuda:1"):
        find_device("cuda:2")
    with pytest.raises(ValueError, match="no device of the type list"):
        find_device([])
    assert name_device("cuda:7") == torch.device("cuda", 7)  # of another machine


def test_devices_and_dtypes_are_taken_as_objects_or_names(tiny_folder):
    pipe = Pipeline.from_pretrained(tiny_folder, device=torch.device("cpu"), dtype="bfloat16")
    assert pipe.device == torch.device("cpu")
    assert next(pipe.transformer.parameters()).dtype == torch.bfloat16
    assert weights_dtype(None, torch.device("cuda")) == torch.bfloat16
    for wrong in ("half precision", "int8", torch.int64, 16):
        with pytest.raises(ValueError, match="dtype is"):
            Pipeline.from_pretrained(tiny_folder, dtype=wrong)


def test_paths_begin_at_home(home, tiny_folder, capsys):
    (home / "tiny").symlink_to(tiny_folder)
    code = main(["generate", "a cat", "--model=~/tiny", "--out=~/o", "--sheet=~/s/sheet.png", "--seed=1"])
    assert code == 0
    assert [p.name for p in (home / "o").iterdir()] == ["a-cat-1.png"]
    assert main(["edit", "x", "--image=~/o/a-cat-1.png", "--model=~/tiny", "--out=~/e", "--seed=1"]) == 0
    assert (home / "s" / "sheet.png").exists()
    assert find_model("~/tiny") == home / "tiny"
    Pipeline.from_pretrained("~/tiny").save_pretrained("~/again")
    assert (home / "again" / "model_index.json").exists()
    assert sorted(p.name for p in home.parent.iterdir()) == ["home"]  # nothing is called ~
    capsys.readouterr()
    assert "recipe at " + str(home / "no.yaml") in said(capsys, "train", "vae", "--recipe=~/no.yaml")


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "x", "--model", ""],
        ["generate", "x", "--model", " "],
        ["generate", "x", "--out", ""],
        ["generate", "x", "--sheet="],
        ["edit", "x", "--image", ""],
        ["enhance", "x", "--model", ""],
        ["serve", "--model", ""],
        ["eval", "reconstruction", "--model", ""],
        ["eval", "reconstruction", "--peer", ""],
        ["eval", "reconstruction", "--images", ""],
        ["eval", "composition", "--data", ""],
        ["train", "vae", "--recipe", ""],
        ["data", "degrade", ""],
    ],
    ids=" ".join,
)
def test_an_empty_name_is_told_with_its_option(words, capsys):
    err = said(capsys, *words)
    option = next((word for word in words if word.startswith("--")), "captions").strip("=")
    assert f"argument {option}: the " in err
    assert " is empty" in err


def test_a_home_of_nobody_is_told(capsys):
    assert "home folder of a user that is not here" in said(capsys, "generate", "x", "--out=~nobody-at-all/x")
    with pytest.raises(ValueError, match="the model's name is empty"):
        find_model("")
    with pytest.raises(ValueError, match="the path is empty"):
        user_path("")


@pytest.mark.parametrize("seed", ["-1", str(MAX_SEED + 1), str(2**63), str(2**64), "1.5", "x"])
@pytest.mark.parametrize(
    "words",
    [
        ["generate", "x", "--seed"],
        ["edit", "x", "--image", "x.png", "--seed"],
        ["enhance", "x", "--seed"],
        ["data", "degrade", "x.jsonl", "--seed"],
        ["eval", "composition", "--first"],
    ],
    ids=" ".join,
)
def test_commands_take_seeds_of_one_range(words, seed, capsys):
    assert f"'{seed}' is no seed: a whole number from 0 to {MAX_SEED}" in said(capsys, *words, seed)


@pytest.mark.parametrize(
    "seed", [-1, MAX_SEED + 1, 2**64, 1.0, True, "7", np.float64(7), torch.tensor(7.0), torch.tensor(True),
             torch.Generator(), {3}, object()],
    ids=lambda seed: f"{type(seed).__name__}{seed if isinstance(seed, (int, float, str)) else ''}",
)  # fmt: skip
def test_python_takes_seeds_of_the_same_range(tiny, seed):
    message = f"seed is .*; it must be a whole number from 0 to {MAX_SEED}$"
    with pytest.raises(ValueError, match=message):
        tiny("a cat", seed=seed)
    with pytest.raises(ValueError, match=message):
        PromptEnhancer(None)("a cat", seed=seed)
    with pytest.raises(ValueError, match="first is "):
        held_out_prompts(None, 1, first=seed)


def test_seeds_after_the_largest_are_seeds_too(tiny):
    out = tiny("a cat", seed=MAX_SEED, num_images=3)
    assert out.seeds == [MAX_SEED, 0, 1]
    assert same(out.images[1], tiny("a cat", seed=0).images[0])
    assert following(MAX_SEED - 1, 5) == 3


def same(a, b):
    return np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max() <= 1


def test_each_prompt_may_have_a_seed_of_its_own(tiny):
    prompts = ("a cat", "a red circle", "a green square")
    out = tiny(prompts, seed=[3, 14, 15])
    assert out.seeds == [3, 14, 15]
    assert out.prompts == list(prompts)
    for prompt, seed, image in zip(prompts, out.seeds, out.images, strict=True):
        assert same(image, tiny(prompt, seed=seed).images[0])
    two = tiny(prompts[:2], seed=(3, 14), num_images=2)
    assert two.seeds == [3, 4, 14, 15]
    assert same(two.images[3], tiny("a red circle", seed=15).images[0])
    assert tiny("a cat", seed=[3]).seeds == [3]
    for kind in (np.array, torch.tensor):
        assert tiny(prompts[:2], seed=kind([3, 14])).seeds == [3, 14]
    for wrong, message in (
        ([3, 14], "2 seeds for 3 prompts; give one for each prompt, or one for all"),
        ([3, None, 15], r"seed\[1\] is None; it must be a whole number from 0"),
        ([3, 14, -15], r"seed\[2\] is -15"),
        (torch.zeros(3, 1, dtype=torch.long), "seed is of the type Tensor"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny(prompts, seed=wrong)


def test_numbers_of_numpy_and_torch_are_numbers(tiny):
    base = tiny("a cat", seed=7, num_images=2, width=64, height=64, guidance_scale=3.0, num_inference_steps=2)
    for kind in (np.int64, np.uint8, torch.tensor):
        out = tiny(
            "a cat", seed=kind(7), num_images=kind(2), width=kind(64), height=kind(64),
            guidance_scale=np.float32(3), num_inference_steps=kind(2),
        )  # fmt: skip
        assert out.seeds == base.seeds == [7, 8]
        assert [type(seed) for seed in out.seeds] == [int, int]
        assert all(same(a, b) for a, b in zip(out.images, base.images, strict=True))
    noise = torch.randn(1, 8, 64, generator=torch.Generator().manual_seed(9))
    assert same(tiny("a cat", latents=noise.numpy()).images[0], tiny("a cat", seed=9).images[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": None}, "the prompt is empty"),
        ({"prompt": 3}, "prompt is 3; it must be a text"),
        ({"prompt": b"a cat"}, "prompt is of the type bytes; it must be a text"),
        ({"prompt": ["a cat", 3]}, r"prompt\[1\] is 3; it must be a text"),
        ({"negative_prompt": 3}, "negative_prompt is 3; it must be a text"),
        ({"negative_prompt": ["blue", "red"]}, "2 negative prompts for 1 prompts; give one each, or one for all"),
        ({"width": 64.0}, "width is 64.0; it must be a whole number"),
        ({"width": 0}, "width is 0; it must be a positive multiple"),
        ({"height": "64"}, "height is '64'; it must be a whole number"),
        ({"height": True}, "height is True; it must be a whole number"),
        ({"num_images": 2.0}, "num_images is 2.0; it must be a whole number, at least 1"),
        ({"num_images": True}, "num_images is True"),
        ({"num_images": None}, "num_images is None"),
        ({"num_inference_steps": 2.5}, "num_inference_steps is 2.5"),
        ({"num_inference_steps": True}, "num_inference_steps is True"),
        ({"guidance_scale": "3"}, "guidance_scale is '3'; it must be a number from 0 to 100"),
        ({"guidance_scale": True}, "guidance_scale is True"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"guidance_scale": -1}, "guidance_scale is -1"),
        ({"guidance_scale": torch.ones(2)}, "guidance_scale is of the type Tensor"),
        ({"images": "cat.png"}, "an input image is 'cat.png'; open it"),
        ({"images": Path("cat.png")}, "an input image is of the type PosixPath; open it"),
        ({"images": [np.zeros((32, 32, 3), np.uint8)]}, "an input image is of the type ndarray"),
        ({"images": np.zeros((32, 32, 3), np.uint8)}, "an input image is of the type ndarray"),
        ({"images": [None]}, "an input image is None"),
    ],
)
def test_what_is_no_number_text_or_picture_is_told(tiny, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        tiny(**{"prompt": "a cat", **arguments})
    assert "\n" not in str(error.value)


def test_one_picture_is_as_good_as_a_list_of_one(tiny):
    red = Image.new("RGB", (64, 32), "red")
    listed = tiny("a cat", images=[red], seed=1).images[0]
    assert same(tiny("a cat", images=red, seed=1).images[0], listed)
    assert same(tiny("a cat", images=(red,), seed=1).images[0], listed)
    assert same(tiny("a cat", images=[], seed=1).images[0], tiny("a cat", seed=1).images[0])


def test_each_prompt_may_have_a_negative_prompt_of_its_own(tiny):
    prompts, away = ["a cat", "a red circle"], ["a green square to the left", None]
    out = tiny(prompts, negative_prompt=away, seed=1, num_images=2, guidance_scale=6.0)
    for index, (prompt, negative) in enumerate(zip(prompts, away, strict=True)):
        alone = tiny(prompt, negative_prompt=negative, seed=1, num_images=2, guidance_scale=6.0)
        assert all(same(a, b) for a, b in zip(alone.images, out.images[2 * index : 2 * index + 2], strict=True))
    assert not same(out.images[0], tiny(prompts, seed=1, guidance_scale=6.0).images[0])


def test_what_has_no_effect_is_told(tiny, tiny_folder, tmp_path, capsys):
    with pytest.warns(NoEffectWarning, match="negative prompt has no effect at guidance 1"):
        tiny("a cat", negative_prompt="blue")
    with pytest.warns(NoEffectWarning, match="enhance has no effect: tiny has no enhancer"):
        tiny("a cat", enhance=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny("a cat", negative_prompt="blue", guidance_scale=2)
        tiny("a cat", negative_prompt="")
    words = ["generate", "a cat", "a red circle", "--model", str(tiny_folder), "--out", str(tmp_path), "--json"]
    assert main([*words, "--negative", "blue"]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out.splitlines()[-1])["pictures"]) == 2
    assert err.count("\n") == err.count("fourstroke: the negative prompt has no effect at guidance 1") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "x", "--num-images", "two"], "argument --num-images: invalid int value: 'two'"),
        (["generate", "x", "--colour"], "unrecognized arguments: --colour"),
        (["paint"], "invalid choice: 'paint'"),
        ([], "required: COMMAND"),
    ],
)
def test_words_that_no_command_knows_are_one_line(words, message, capsys):
    err = said(capsys, *words)
    assert message in err
    assert "--help" in err


def test_the_package_is_a_command():
    run = subprocess.run([sys.executable, "-m", "fourstroke", "--version"], capture_output=True, text=True)
    assert (run.returncode, run.stdout.split()[0]) == (0, "fourstroke")
