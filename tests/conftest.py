"""A whole checkpoint with random weights, small enough to build for every run."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

from fourstroke.dit import Transformer, TransformerConfig
from fourstroke.flow.schedule import ScheduleConfig
from fourstroke.folder import ModelInfo
from fourstroke.pipeline import Pipeline
from fourstroke.text import SmallTextConfig, build_text_encoder, train_tokenizer
from fourstroke.vae import Autoencoder, AutoencoderConfig


def build_tiny_pipeline(causal: bool = True, halvings: int = 4, channels: int = 64, heads: int = 2) -> Pipeline:
    """A pipeline of random weights whose pictures depend on prompt, seed and input images.

    Its autoencoder has latents of `channels` at 1 / 2^halvings.
    """
    torch.manual_seed(0)
    transformer = Transformer(
        TransformerConfig(
            num_layers=2,
            num_attention_heads=heads,
            attention_head_dim=32,
            axes_dims_rope=(8, 12, 12),
            context_in_dim=64,
            causal_condition=causal,
            in_channels=channels,
            out_channels=channels,
        )
    )
    with torch.no_grad():
        for name, p in transformer.named_parameters():
            if "proj_out" in name or "norm_out" in name:
                p.normal_(std=0.05)
    autoencoder = Autoencoder(
        AutoencoderConfig(
            base_dim=4,
            decoder_base_dim=4,
            z_dim=channels,
            dim_mult=(1, 2, 4, 8, 16, 16, 16)[: halvings + 1],
            num_res_blocks=1,
            temperal_downsample=(False,) * halvings,
        )
    )
    autoencoder.set_statistics([0.0] * channels, [1.0] * channels)
    text = SmallTextConfig(
        vocab_size=400,
        hidden_size=64,
        num_layers=1,
        num_heads=2,
        num_kv_heads=2,
        head_dim=32,
        intermediate_size=64,
        vision_hidden_size=32,
        vision_intermediate_size=32,
        max_tokens=50,
    )
    tokenizer = train_tokenizer(["a cat to the left of a red circle", "a green square"] * 4, 400)
    info = ModelInfo(name="tiny", width=64, height=32, max_side=96, num_inference_steps=3)
    encoder = build_text_encoder(text, tokenizer)
    return Pipeline(transformer.eval(), autoencoder.eval(), encoder, ScheduleConfig(), info)


@pytest.fixture(scope="session")
def tiny() -> Pipeline:
    return build_tiny_pipeline()


@pytest.fixture(scope="session")
def tiny_folder(tiny: Pipeline, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny.save_pretrained(folder)
    return folder
