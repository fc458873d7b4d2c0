"""The latent cache: what it holds, that building it can be interrupted, and that it refuses another world."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fourstroke.checkpoint import CheckpointError
from fourstroke.data import cache
from fourstroke.data.stream import batches, pixels
from fourstroke.vae import Autoencoder, AutoencoderConfig
from fourstroke.world import WorldConfig

WORLD = WorldConfig(width=32, height=32, sprites=0)


@pytest.fixture(scope="module")
def autoencoder():
    torch.manual_seed(0)
    sizes = {"base_dim": 4, "decoder_base_dim": 4, "num_res_blocks": 1, "dim_mult": (1, 2, 4, 8, 16)}
    model = Autoencoder(AutoencoderConfig(**sizes, temperal_downsample=(False,) * 4)).eval()
    model.set_statistics([0.0] * 64, [1.0] * 64)
    return model


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(cache, "CHUNK", 64)


def test_latents_and_captions_belong_to_their_samples(autoencoder, tmp_path):
    made = cache.build_cache(tmp_path, autoencoder, WORLD, 100, seed=3)
    samples = [s for _, batch in zip(range(4), batches(WORLD, 32, seed=3), strict=False) for s in batch][:100]
    with torch.no_grad():
        z = autoencoder.encode(pixels(samples)).flatten(2).mT
    torch.testing.assert_close(made.latents.float(), z, atol=2e-3, rtol=2e-3)
    assert made.short == [s.short for s in samples]
    assert made.rich == [s.rich for s in samples]
    assert len(made) == 100
    assert made.grid == (2, 2)


def test_building_goes_on_where_it_stopped(autoencoder, tmp_path, monkeypatch):
    whole = cache.build_cache(tmp_path / "whole", autoencoder, WORLD, 192)
    cache.build_cache(tmp_path / "parts", autoencoder, WORLD, 64)
    first = cache._file(tmp_path / "parts", 0).stat().st_mtime_ns
    parts = cache.build_cache(tmp_path / "parts", autoencoder, WORLD, 192)
    assert torch.equal(whole.latents, parts.latents)
    assert whole.rich == parts.rich
    assert cache._file(tmp_path / "parts", 0).stat().st_mtime_ns == first


def test_another_world_or_autoencoder_is_refused(autoencoder, tmp_path):
    cache.build_cache(tmp_path, autoencoder, WORLD, 32)
    with pytest.raises(ValueError, match="another world or autoencoder"):
        cache.build_cache(tmp_path, autoencoder, dataclasses.replace(WORLD, lights=0.9), 32)
    other = Autoencoder(autoencoder.config)
    with pytest.raises(ValueError, match="another world or autoencoder"):
        cache.build_cache(tmp_path, other, WORLD, 32)


@pytest.mark.parametrize("damage", ["tensors", "captions", "rows", "keys"])
def test_a_damaged_chunk_is_told(autoencoder, tmp_path, damage):
    cache.build_cache(tmp_path, autoencoder, WORLD, 8)
    latents, captions = next(tmp_path.glob("*.safetensors")), next(tmp_path.glob("*.jsonl"))
    if damage == "tensors":
        latents.write_bytes(latents.read_bytes()[:-9])
    else:
        rows = captions.read_text().splitlines()
        broken = {"captions": [rows[0], "{"], "rows": rows[:-1], "keys": ["{}"] * len(rows)}[damage]
        captions.write_text("\n".join(broken))
    with pytest.raises(CheckpointError, match=r"\.(safetensors|jsonl)") as error:
        cache.build_cache(tmp_path, autoencoder, WORLD, 8)
    assert "\n" not in str(error.value)
