"""The pipeline: what a picture depends on, what is refused, and that a checkpoint round-trips."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from fourstroke import Pipeline
from fourstroke.checkpoint import CheckpointError
from fourstroke.flow.sampler import NonFiniteError
from fourstroke.folder import find_model
from fourstroke.sizes import fit
from fourstroke.text import PromptTooLong

from .conftest import build_tiny_pipeline


def _array(image):
    return np.asarray(image).astype(int)


def _close(a, b, most=1):
    return a.size == b.size and np.abs(_array(a) - _array(b)).max() <= most


def test_size_mode_seeds_and_timings(tiny):
    out = tiny(["a cat", "a red circle"], num_images=2, seed=5)
    assert [image.size for image in out.images] == [(64, 32)] * 4
    assert {image.mode for image in out.images} == {"RGB"}
    assert out.seeds == [5, 6, 5, 6]
    assert out.prompts == ["a cat", "a cat", "a red circle", "a red circle"]
    assert set(out.timings) == {"encode", "denoise", "decode"}


def test_a_picture_does_not_depend_on_its_batch(tiny):
    together = tiny(["a cat", "a much longer prompt about a green square"], num_images=2, seed=5).images
    assert _close(together[1], tiny("a cat", seed=6).images[0])
    assert _close(together[2], tiny("a much longer prompt about a green square", seed=5).images[0])


def test_prompt_seed_and_guidance_matter(tiny):
    base = tiny("a cat", seed=1).images[0]
    assert _close(base, tiny("a cat", seed=1).images[0], 0)
    assert not _close(base, tiny("a cat", seed=2).images[0])
    assert not _close(base, tiny("a red circle", seed=1).images[0], 0)
    assert not _close(base, tiny("a cat", seed=1, guidance_scale=6.0).images[0], 0)


def test_skipped_blocks_leave_a_picture_its_own(tiny):
    settings = {"num_inference_steps": 6, "guidance_scale": 3.0, "step_cache": 0.9}
    together = tiny(["a cat", "a much longer prompt about a green square"], num_images=2, seed=5, **settings).images
    alone = tiny("a cat", seed=6, **settings).images[0]
    assert _close(together[1], alone)
    assert not _close(alone, tiny("a cat", seed=6, num_inference_steps=6, guidance_scale=3.0).images[0], 0)
    with pytest.raises(ValueError, match="step_cache"):
        tiny("a cat", step_cache=1.5)


def test_latents_take_the_place_of_noise(tiny):
    noise = torch.randn(1, 8, 64, generator=torch.Generator().manual_seed(9))
    assert _close(tiny("a cat", latents=noise, seed=1).images[0], tiny("a cat", seed=9).images[0], 0)
    with pytest.raises(ValueError, match="latents have the shape"):
        tiny("a cat", latents=noise[:, :4])


def test_steps_are_taken_in_float32_whatever_the_latents_are(tiny):
    half = torch.randn(1, 8, 64, generator=torch.Generator().manual_seed(9)).bfloat16()
    seen = []
    tiny("a cat", latents=half, on_step=lambda step, steps, x: seen.append(x.dtype))
    assert set(seen) == {torch.float32}


def test_input_images_change_the_picture_and_set_its_shape(tiny):
    portrait = Image.new("RGB", (40, 90), "red")
    out = tiny("a cat", images=[portrait], seed=1).images[0]
    assert out.size == fit(portrait, tiny.info).size == (32, 64)
    other = tiny("a cat", images=[Image.new("RGB", (40, 90), "blue")], seed=1).images[0]
    assert not _close(out, other, 0)
    two = tiny("a cat", images=[portrait, Image.new("RGBA", (64, 32))], seed=1, width=64, height=32).images[0]
    assert two.size == (64, 32)


def test_input_images_of_sixteen_bits_and_turned_ones_are_what_they_show(tiny):
    grey = Image.fromarray(np.linspace(0, 255, 64 * 32).astype(np.uint8).reshape(32, 64))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    turned = grey.transpose(Image.Transpose.ROTATE_90)
    turned.info["exif"] = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"  # orientation 6
    wanted = tiny("a cat", images=[grey], seed=1).images[0]
    assert not _close(wanted, tiny("a cat", images=[Image.new("L", (64, 32), 255)], seed=1).images[0])
    assert _close(tiny("a cat", images=[deep], seed=1).images[0], wanted, 0)
    assert _close(tiny("a cat", images=[turned], seed=1).images[0], wanted, 0)
    with pytest.raises(ValueError, match="mode F"):
        tiny("a cat", images=[grey.convert("F")])


def test_transparent_gives_alpha(tiny):
    assert tiny("a cat", transparent=True, seed=1).images[0].mode == "RGBA"


def test_fully_joint_attention_draws_too():
    pipe = build_tiny_pipeline(causal=False)
    together = pipe(["a cat", "a green square to the left"], seed=3).images
    assert _close(together[0], pipe("a cat", seed=3).images[0])


def test_steps_are_reported_and_can_stop(tiny):
    seen = []
    tiny("a cat", num_inference_steps=4, on_step=lambda step, steps, x: seen.append((step, steps, x.shape)))
    assert seen == [(k, 4, (1, 8, 64)) for k in (1, 2, 3, 4)]

    def stop(step, steps, x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny("a cat", on_step=stop)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": "  "}, "prompt is empty"),
        ({"prompt": []}, "prompt is empty"),
        ({"width": 50}, "width is 50; it must be a positive multiple of 32, for example 64"),
        ({"height": -32}, "positive multiple"),
        ({"width": 128}, "at most 96 pixels"),
        ({"num_inference_steps": -1}, "at least 1"),
        ({"num_inference_steps": 0}, "at least 1"),
        ({"num_images": 0}, "at least 1"),
    ],
)
def test_bad_requests_are_one_clear_line(tiny, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        tiny(**{"prompt": "a cat", **arguments})
    assert "\n" not in str(error.value)


def test_a_long_prompt_is_refused_with_its_count(tiny):
    with pytest.raises(PromptTooLong, match="limit is 50"):
        tiny("cat " * 60)


@pytest.mark.parametrize(("part", "stage"), [("transformer", "denoising"), ("autoencoder", "decoding")])
def test_non_finite_numbers_name_the_stage(part, stage):
    pipe = build_tiny_pipeline()
    with torch.no_grad():
        list(getattr(pipe, part).parameters())[-1].fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=stage):
        pipe("a cat", seed=1)


def test_a_checkpoint_round_trips(tiny, tiny_folder):
    again = Pipeline.from_pretrained(tiny_folder)
    assert again.info == tiny.info
    assert _close(again("a cat", seed=4).images[0], tiny("a cat", seed=4).images[0], 0)


def test_fixed_sigmas_of_a_student_are_its_default(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "student")
    path = tmp_path / "student" / "model_index.json"
    index = json.loads(path.read_text())
    index["sample_sigmas"] = [1.0, 0.6]
    path.write_text(json.dumps(index))
    steps = []
    Pipeline.from_pretrained(tmp_path / "student")("a cat", on_step=lambda k, n, x: steps.append(n))
    assert steps == [2, 2]
    student = Pipeline.from_pretrained(tmp_path / "student")
    assert torch.equal(student.sigmas(2, 8), student.sigmas(None, 8))  # its own number, said or not
    assert len(student.sigmas(3, 8)) == 4


def test_unknown_models_say_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="name a folder"):
        find_model(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"no model_index\.json"):
        find_model(tmp_path)
    monkeypatch.setenv("FOURSTROKE_MODELS", str(tmp_path))
    with pytest.raises(CheckpointError, match="make speedrun"):
        find_model(None)


def test_mini_comes_before_micro(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("FOURSTROKE_MODELS", str(tmp_path))
    shutil.copytree(tiny_folder, tmp_path / "micro")
    assert find_model(None).name == "micro"
    shutil.copytree(tiny_folder, tmp_path / "mini")
    assert find_model(None).name == "mini"


@pytest.mark.parametrize("damage", ["truncate", "missing", "shape", "config", "index"])
@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_damaged_checkpoints_are_one_clear_line(tiny_folder, tmp_path, part, damage):
    shutil.copytree(tiny_folder, tmp_path / "m")
    weights = tmp_path / "m" / part / "diffusion_pytorch_model.safetensors"
    config = tmp_path / "m" / part / "config.json"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "missing":
        weights.unlink()
    elif damage == "shape":
        values = json.loads(config.read_text())
        key = "num_layers" if part == "transformer" else "base_dim"
        config.write_text(json.dumps(values | {key: values[key] * 2}))
    elif damage == "config":
        config.write_text("{")
    else:
        (tmp_path / "m" / "model_index.json").unlink()
    with pytest.raises(CheckpointError) as error:
        Pipeline.from_pretrained(tmp_path / "m")
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_blocks_draw_the_same(monkeypatch):
    plain, compiled = build_tiny_pipeline(), build_tiny_pipeline()
    blocks, eager = compiled.transformer.transformer_blocks, torch.compile
    modes: list[str | None] = []

    def compile_without_inductor(call, mode):
        modes.append(mode)
        return eager(call, backend="aot_eager")

    monkeypatch.setattr("torch.compile", compile_without_inductor)
    compiled.compile()
    assert modes == [None] * len(blocks)
    for size in ({}, {"width": 64, "height": 64}):
        (expected,), (found,) = (pipe("a cat", seed=3, **size).images for pipe in (plain, compiled))
        assert _close(found, expected)


@pytest.mark.parametrize(
    ("choices", "said"),
    [({"quantize": "int8"}, "leave quantize out"), ({"offload": "layers"}, "and offload=layers"), ({}, "apt install")],
)
def test_what_cannot_be_compiled_is_refused_before_it_is_loaded(choices, said, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ValueError, match=said):
        Pipeline.from_pretrained("micro", compile=True, **choices)
