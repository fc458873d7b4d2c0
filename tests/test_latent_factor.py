"""Autoencoders at 1/8, 1/32 and 1/64 are used as those at 1/16: drawn and edited with, served, cached, distilled."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fourstroke import Pipeline
from fourstroke.data.prompts import PromptLine, Prompts, PromptsData
from fourstroke.distill.batch import Batches
from fourstroke.dit import condition
from fourstroke.flow.sampler import seeded_noise
from fourstroke.lora import LoraConfig, add_lora, save_adapter

from .conftest import build_tiny_pipeline

KINDS = {8: (3, 16), 16: (4, 64), 32: (5, 192)}
"""Halvings and channels by factor; the last is the f32c192 of the VAE-2.0 report."""
RED = Image.new("RGB", (64, 32), "red")


def build(factor: int, causal: bool = True) -> Pipeline:
    return build_tiny_pipeline(causal, *KINDS[factor])


@pytest.fixture(scope="module")
def coarse() -> Pipeline:
    return build(32)


def differ(a: Image.Image, b: Image.Image) -> int:
    return int(np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max())


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("factor", KINDS)
def test_words_and_input_images_are_drawn(factor, causal):
    pipe = build(factor, causal)
    assert (pipe.info.factor, pipe.info.grid(64, 32)) == (factor, (32 // factor, 64 // factor))
    words = pipe("a cat", seed=1).images[0]
    noise = seeded_noise([1], 64 * 32 // factor**2, KINDS[factor][1])
    assert words.size == (64, 32)
    assert differ(words, pipe("a cat", latents=noise).images[0]) == 0
    red = pipe("a cat", images=[RED], seed=1).images[0]
    assert red.size == (64, 32)
    assert differ(red, words) > 1
    assert differ(red, pipe("a cat", images=[Image.new("RGB", (64, 32), "blue")], seed=1).images[0]) > 1
    two = pipe("a cat", images=[Image.new("RGB", (64, 64)), RED], seed=1, guidance_scale=2.0)
    assert two.images[0].size == (64, 32)


def test_the_factor_is_the_autoencoders_and_stands_nowhere_else(coarse, tmp_path):
    coarse.save_pretrained(tmp_path / "m")
    assert "factor" not in json.loads((tmp_path / "m" / "model_index.json").read_text())["fourstroke"]
    loaded = Pipeline.from_pretrained(tmp_path / "m", device="cpu")
    assert loaded.info.factor == 32
    assert differ(loaded("a cat", seed=3).images[0], coarse("a cat", seed=3).images[0]) <= 1
    add_lora(loaded.transformer, LoraConfig(rank=2))
    save_adapter(tmp_path / "a", str(tmp_path / "m"), loaded.info, loaded.transformer)
    assert Pipeline.from_pretrained(tmp_path / "a", device="cpu").info.factor == 32


def test_latents_larger_than_a_vision_slot_draw_from_words_alone():
    pipe = build_tiny_pipeline(True, 6, 32)
    pipe.info = dataclasses.replace(pipe.info, width=128, height=64, max_side=192)
    assert pipe("a cat", seed=1).images[0].size == (128, 64)
    with pytest.raises(ValueError, match="width is 96; it must be a positive multiple of 64"):
        pipe("a cat", width=96)
    with pytest.raises(ValueError, match="tiny reads no input images: its latents are 64 pixels wide"):
        pipe("a cat", images=[RED])


def test_parts_of_different_latents_are_refused(coarse, tiny):
    with pytest.raises(ValueError, match="draws latents of 64 channels, and the autoencoder's have 192"):
        Pipeline(tiny.transformer, coarse.autoencoder, tiny.text_encoder, tiny.schedule, tiny.info)


@pytest.mark.parametrize("factor", KINDS)
def test_edits_are_distilled_as_the_pipeline_draws_them(factor, tmp_path):
    pipe = build(factor)
    RED.save(tmp_path / "red.png")
    (tmp_path / "edits.jsonl").write_text(json.dumps({"prompt": "make it blue", "images": ["red.png"]}))
    grid = pipe.info.grid(64, 32)
    words, edits = Prompts(tmp_path, [PromptLine("a cat", "a cat")]), PromptsData(path=tmp_path / "edits.jsonl")
    batch = Batches(pipe, words, [(64, 32)], 1, edits.open(), 1.0).make(0, torch.Generator().manual_seed(0))
    assert (batch.grid, batch.inputs.grids) == (grid, (grid,))
    x, t = seeded_noise([1], math.prod(grid), KINDS[factor][1]), torch.ones(1)
    with torch.no_grad():
        found = condition(pipe.transformer, batch.text, batch.grid, batch.inputs)(x, t)
        wanted = pipe.condition(["make it blue"], [RED], grid)(x, t)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_the_server_draws_edits_checks_sizes_and_counts(coarse):
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("fastapi")
    from .serve.conftest import running

    clear = RED.convert("RGBA")
    clear.paste((0, 0, 0, 0), (32, 0, 64, 32))
    files = {name: (name, png(image)) for name, image in (("image", RED), ("mask", clear))}
    with running(coarse) as live, httpx.Client(base_url=live.url, timeout=20) as web:
        assert web.get("/v1/models/tiny").json()["fourstroke"]["multiple"] == 32
        drawn = web.post("/v1/images/generations", json={"prompt": "a cat", "seed": 1, "size": "64x32"}).json()
        assert drawn["usage"]["output_tokens"] == 2
        assert differ(opened(drawn), coarse("a cat", seed=1).images[0]) <= 1
        wrong = web.post("/v1/images/generations", json={"prompt": "a cat", "size": "48x32"})
        assert (wrong.status_code, "multiple of 32" in wrong.json()["error"]["message"]) == (400, True)
        edit = web.post(
            "/v1/images/edits", data={"prompt": "a cat", "seed": "1"}, files={"image": files["image"]}
        ).json()
        assert edit["usage"]["input_tokens_details"]["image_tokens"] == 2
        assert differ(opened(edit), coarse("a cat", images=[RED], seed=1).images[0]) <= 1
        masked = opened(web.post("/v1/images/edits", data={"prompt": "a cat", "seed": "1"}, files=files).json())
        assert differ(masked.crop((0, 0, 32, 32)), RED.crop((0, 0, 32, 32))) == 0
        assert differ(masked.crop((32, 0, 64, 32)), RED.crop((32, 0, 64, 32))) > 1


@pytest.mark.parametrize("factor", KINDS)
def test_latent_previews_have_the_size_of_the_picture(factor):
    pytest.importorskip("fastapi")
    from fourstroke.serve.preview import LatentPreview

    preview = LatentPreview.fit(build(factor).autoencoder)
    assert preview(torch.zeros(1, KINDS[factor][1], 2, 3)).shape == (1, 4, 2 * factor, 3 * factor)


def test_estimates_count_its_tokens(coarse, tmp_path):
    from fourstroke.estimate.stages import distill_needs
    from fourstroke.recipe import load_recipe
    from fourstroke.train.distill import DistillRecipe

    coarse.save_pretrained(tmp_path / "m")
    recipe = Path(__file__).parents[1] / "recipes/7b/distill.yaml"
    size = ["width=64", "height=96", f"teacher={tmp_path / 'm'}"]
    found = distill_needs(load_recipe(DistillRecipe, recipe, size), text_tokens=8)
    assert "3 x 2 image tokens" in found.notes[-1]


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def opened(answer: dict) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"])))
