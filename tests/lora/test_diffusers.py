"""Adapters written here draw in diffusers what they draw here, alone and several at once."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from fourstroke import Pipeline
from fourstroke.data.datasets.folder import FolderData
from fourstroke.data.loader import LoaderConfig
from fourstroke.flow.sampler import seeded_noise
from fourstroke.folder import ModelInfo
from fourstroke.lora import (
    LoraConfig,
    add_lora,
    lora_adapters,
    lora_layers,
    lora_parameters,
    remove_lora,
    save_lora,
    set_lora,
)
from fourstroke.train.dit import DitRecipe, train_dit
from fourstroke.train.loop import RunConfig
from fourstroke.train.optimizer import OptimizerConfig
from fourstroke.vae import Autoencoder, AutoencoderConfig

from ..conftest import build_tiny_pipeline
from ..processor import Processor

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("peft")

PROMPT = "a red circle"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny pipeline whose autoencoder has widths that diffusers' class can have, and two adapters of it."""
    pipe = build_tiny_pipeline()
    widths = {"base_dim": 4, "decoder_base_dim": 4, "dim_mult": (1, 2, 4, 8, 8)}
    pipe.autoencoder = Autoencoder(AutoencoderConfig(**widths, num_res_blocks=1, temperal_downsample=(False,) * 4))
    pipe.autoencoder.set_statistics([0.0] * 64, [1.0] * 64)
    folder = tmp_path_factory.mktemp("lora")
    pipe.save_pretrained(folder / "base")
    options = {"one": {"rank": 4, "alpha": 10.0}, "two": {"rank": 2, "alpha": 3.0, "targets": ("to_v", "img_mlp.out")}}
    for seed, (name, values) in enumerate(options.items()):
        add_lora(pipe.transformer, LoraConfig(**values), name)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for factor in lora_parameters(pipe.transformer, name).values():
                factor.copy_(0.15 * torch.randn(factor.shape, generator=generator))
        save_lora(folder / name, pipe.transformer, name)
    return folder


@pytest.fixture
def ours(folder) -> Pipeline:
    return Pipeline.from_pretrained(folder / "base")


@pytest.fixture
def theirs(folder, ours):
    pipe = diffusers.QwenImage21Pipeline.from_pretrained(folder / "base", processor=Processor(ours.text_encoder))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _drawn(pipe) -> np.ndarray:
    noise = seeded_noise([5], 8, 64)
    if isinstance(pipe, Pipeline):
        return np.asarray(pipe(PROMPT, latents=noise).images[0]).astype(int)
    picture = pipe(PROMPT, width=64, height=32, num_inference_steps=3, latents=noise).images[0]
    return np.asarray(picture.convert("RGB")).astype(int)


def test_an_adapter_draws_there_what_it_draws_here(folder, ours, theirs):
    plain = _drawn(ours)
    assert np.abs(plain - _drawn(theirs)).max() <= 1
    ours.load_lora(folder / "one")
    theirs.load_lora_weights(folder / "one")
    assert np.abs(_drawn(ours) - plain).max() > 20
    assert np.abs(_drawn(ours) - _drawn(theirs)).max() <= 1


def test_an_adapter_that_training_wrote_draws_there_what_it_draws_here(folder, ours, theirs, tmp_path):
    Image.new("RGB", (64, 32), "red").save(tmp_path / "0.png")
    (tmp_path / "0.txt").write_text(PROMPT)
    recipe = DitRecipe(
        data=FolderData(path=tmp_path),
        loader=LoaderConfig(workers=0),
        held_out=0,
        init=str(folder / "base"),
        info=ModelInfo(name="own", width=64, height=32, max_side=64, num_inference_steps=3),
        lora=LoraConfig(rank=4),
        run=RunConfig(out=tmp_path / "run", steps=4),
        optimizer=OptimizerConfig(kind="adamw", lr=0.1, warmup=0, cooldown=0.0, ema=0.0),
        batch_size=1,
        sheet=0,
    )
    plain, trained = _drawn(ours), train_dit(recipe)
    theirs.load_lora_weights(trained / "lora")
    found = _drawn(Pipeline.from_pretrained(trained))
    assert np.abs(found - plain).max() > 20
    assert np.abs(found - _drawn(theirs)).max() <= 1


def test_two_at_once_with_strengths_are_those_of_set_adapters(folder, ours, theirs):
    strengths = {"one": 0.7, "two": -1.3}
    for name, strength in strengths.items():
        ours.load_lora(folder / name, strength)
        theirs.load_lora_weights(folder / name, adapter_name=name)
    assert ours.loras == strengths
    theirs.set_adapters(list(strengths), list(strengths.values()))
    both = _drawn(ours)
    assert np.abs(both - _drawn(theirs)).max() <= 1
    ours.set_lora("two", 0.5)
    theirs.set_adapters(["one", "two"], [0.7, 0.5])
    assert np.abs(_drawn(ours) - both).max() > 5
    assert np.abs(_drawn(ours) - _drawn(theirs)).max() <= 1
    ours.merge_lora()
    theirs.fuse_lora()
    assert np.abs(_drawn(ours) - _drawn(theirs)).max() <= 1


def test_an_adapter_of_theirs_draws_here(folder, ours, theirs, tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["to_q", "img_mlp.proj"], init_lora_weights=False, rank_pattern={"to_q": 2}
    )
    theirs.transformer.add_adapter(config)
    theirs.transformer.save_lora_adapter(tmp_path)
    ours.load_lora(tmp_path)
    assert np.abs(_drawn(ours) - _drawn(theirs)).max() <= 1
    theirs.transformer.disable_lora()
    assert np.abs(_drawn(ours) - _drawn(theirs)).max() > 5


def test_the_file_says_rank_and_alpha_by_layer(folder, ours):
    with safe_open(folder / "one" / "pytorch_lora_weights.safetensors", framework="pt") as file:
        said = json.loads(file.metadata()["lora_adapter_metadata"])
    assert (said["transformer.r"], said["transformer.lora_alpha"]) == (4, 10.0)
    assert len(said["transformer.target_modules"]) == 14


def test_ranks_and_alphas_that_differ_by_layer_survive_saving(folder, ours, tmp_path):
    ours.load_lora(folder / "one")
    model = ours.transformer
    add_lora(model, LoraConfig(rank=3, alpha=2.0, targets=("1.attn.to_q",)), "mixed")
    other = LoraConfig(rank=5, alpha=4.0, targets=("to_k",))
    add_lora(model, other, "other")
    layers = lora_layers(model)
    for path, adapter in lora_adapters(model, "other").items():  # one adapter of two kinds of layer
        layers[path].add("mixed", adapter)
    remove_lora(model, "other")
    remove_lora(model, "one")
    set_lora(model, {"mixed": 1.0})
    with torch.no_grad():
        for factor in lora_parameters(model, "mixed").values():
            factor.normal_(std=0.3)
    save_lora(tmp_path / "mixed.safetensors", model, "mixed")
    drawn = _drawn(ours)
    ours.unload_lora()
    ours.load_lora(tmp_path / "mixed.safetensors")
    assert np.abs(_drawn(ours) - drawn).max() == 0
