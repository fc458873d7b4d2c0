"""Folders that we ship and write draw in diffusers, by its defaults, what they draw here: levels and pictures alike."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from fourstroke import Pipeline
from fourstroke.distill.comparison import CollapseLimits
from fourstroke.flow.sampler import seeded_noise
from fourstroke.folder import find_model, read_info
from fourstroke.train.distill import DistillRecipe, DistillStage
from fourstroke.vae import Autoencoder, AutoencoderConfig

from ..processor import Processor
from .conftest import small_pipeline

diffusers = pytest.importorskip("diffusers")

PROMPT = "a red circle"


@pytest.fixture
def peer() -> Pipeline:
    """A tiny pipeline whose autoencoder has widths that diffusers' class can have."""
    pipe = small_pipeline()
    widths = {"base_dim": 4, "decoder_base_dim": 4, "dim_mult": (1, 2, 4, 8, 8)}
    pipe.autoencoder = Autoencoder(AutoencoderConfig(**widths, num_res_blocks=1, temperal_downsample=(False,) * 4))
    pipe.autoencoder.set_statistics([0.0] * 64, [1.0] * 64)
    return pipe


@pytest.fixture
def lenient(peer: Pipeline, recipe: DistillRecipe, tmp_path: Path) -> DistillRecipe:
    """A recipe of that teacher without limits: random pictures say little about a collapse."""
    peer.save_pretrained(tmp_path / "teacher")
    limits = CollapseLimits(diversity=0.0, saturation=1e6)
    validation = dataclasses.replace(recipe.validation, limits=limits)
    return dataclasses.replace(recipe, teacher=str(tmp_path / "teacher"), validation=validation)


def _kept(recipe: DistillRecipe) -> Path:
    """The folder of a student as a run keeps it, changed a little so that it is not its teacher."""
    stage = DistillStage(recipe)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in stage.models["student"].parameters():
            p.add_(torch.randn(p.shape, generator=generator), alpha=0.02)
    recipe.run.out.mkdir()
    stage.sample(recipe.run.out, 1)
    return recipe.run.out / "best"


def _both(ours: Pipeline, theirs: diffusers.DiffusionPipeline) -> tuple[np.ndarray, np.ndarray]:
    """One picture of each, from the same noise and by the model's defaults."""
    width, height = ours.info.width, ours.info.height
    noise = seeded_noise([5], width * height // 256, 64)
    theirs.set_progress_bar_config(disable=True)
    sizes = {"width": width, "height": height, "num_inference_steps": ours.info.own_steps}
    picture = theirs(PROMPT, **sizes, latents=noise.clone()).images[0]
    return np.asarray(ours(PROMPT, latents=noise).images[0]), np.asarray(picture.convert("RGB"))


def _same(ours: Pipeline, theirs: diffusers.DiffusionPipeline) -> None:
    here, there = _both(ours, theirs)
    levels = ours.sigmas(None, here.size // 3 // 256)
    torch.testing.assert_close(theirs.scheduler.sigmas, levels, atol=1e-6, rtol=0)
    assert np.abs(here.astype(int) - there).max() <= 1


def test_the_bundled_model_draws_in_diffusers_without_a_word_about_types():
    folder = find_model("micro")
    ours = Pipeline.from_pretrained(folder)
    _same(ours, diffusers.DiffusionPipeline.from_pretrained(folder, processor=Processor(ours.text_encoder)))


def test_the_bundled_scheduler_keeps_the_levels_as_they_are():
    levels = read_info(find_model("micro")).sample_sigmas
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(find_model("micro"), subfolder="scheduler")
    scheduler.set_timesteps(sigmas=list(levels), mu=0.7)
    assert scheduler.sigmas.tolist() == torch.tensor([*levels, 0.0]).tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_was_saved_in_half_draws_in_diffusers(peer, tmp_path, dtype):
    for part in (peer.transformer, peer.autoencoder, peer.text_encoder):
        part.to(dtype)
    peer.save_pretrained(tmp_path / "half")
    ours = Pipeline.from_pretrained(tmp_path / "half", dtype=torch.float32)
    _same(ours, diffusers.DiffusionPipeline.from_pretrained(tmp_path / "half", processor=Processor(ours.text_encoder)))


def test_a_student_draws_the_same_in_diffusers(lenient):
    folder = _kept(lenient)
    ours = Pipeline.from_pretrained(folder)
    assert ours.sigmas(None, 4).tolist() == torch.tensor([*lenient.sigmas, 0.0]).tolist()
    theirs = diffusers.QwenImage21Pipeline.from_pretrained(folder, processor=Processor(ours.text_encoder))
    _same(ours, theirs)


def test_an_adapter_draws_the_same_in_diffusers(lenient):
    pytest.importorskip("peft")
    folder = _kept(dataclasses.replace(lenient, lora_rank=2))
    ours = Pipeline.from_pretrained(folder)
    assert ours.sigmas(None, 4).tolist() == torch.tensor([*lenient.sigmas, 0.0]).tolist()
    theirs = diffusers.QwenImage21Pipeline.from_pretrained(
        lenient.teacher,
        processor=Processor(ours.text_encoder),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler"),
        sample_sigmas=list(read_info(folder).sample_sigmas),
    )
    before = _both(ours, theirs)
    assert np.abs(before[0].astype(int) - before[1]).max() > 1  # the adapter does something
    theirs.load_lora_weights(folder / "lora")
    _same(ours, theirs)
