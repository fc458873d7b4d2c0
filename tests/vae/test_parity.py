"""Parity of the autoencoder with diffusers' class: numbers, names, counts, and folders in both directions."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fourstroke.vae.autoencoder import Autoencoder, AutoencoderConfig

diffusers = pytest.importorskip("diffusers")

SMALL: dict[str, Any] = {"base_dim": 8, "decoder_base_dim": 12, "z_dim": 8}
CONFIGS: dict[str, dict[str, Any]] = {
    "published": SMALL,
    "no history": {**SMALL, "temperal_downsample": [False] * 4, "num_res_blocks": 1},
    "flat widths": {**SMALL, "dim_mult": [1, 1, 1, 2, 2], "num_res_blocks": 1},
    "steep widths": {
        **SMALL,
        "decoder_base_dim": None,
        "dim_mult": [1, 4, 4, 4],
        "temperal_downsample": [True, False, True],
        "num_res_blocks": 1,
        "scale_factor_spatial": 8,
    },
    "patches": {
        **SMALL,
        "dim_mult": [1, 2, 2],
        "temperal_downsample": [False, False],
        "num_res_blocks": 1,
        "in_channels": 64,
        "out_channels": 64,
        "patch_size": 4,
    },
    "very steep widths": {**SMALL, "dim_mult": [1, 8, 8], "temperal_downsample": [True] * 2, "scale_factor_spatial": 4},
}


def oracle(config: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    z_dim = config["z_dim"]
    model = diffusers.AutoencoderKLQwenImage21(
        **config, latents_mean=torch.randn(z_dim).tolist(), latents_std=torch.rand(z_dim).add(0.5).tolist()
    ).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


@torch.no_grad()
def assert_same(theirs: Any, ours: Autoencoder, x: torch.Tensor) -> None:
    rgba = torch.cat([x, torch.ones_like(x[:, :1])], 1) if x.shape[1] == 3 else x
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (theirs.config.latents_mean, theirs.config.latents_std))
    z = theirs.encode(rgba.unsqueeze(2)).latent_dist.mode()
    pixels = theirs.decode(z).sample.squeeze(2)
    torch.testing.assert_close(ours.encode_raw(x), z.squeeze(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.encode(x), (z.squeeze(2) - mean) / std, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.decode((z.squeeze(2) - mean) / std), pixels, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.decode_raw(z.squeeze(2)).clamp(-1, 1), pixels, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_folders_agree_in_both_directions(name: str, tmp_path: Path) -> None:
    theirs = oracle(CONFIGS[name])
    theirs.save_pretrained(tmp_path / "theirs")
    ours = Autoencoder.from_pretrained(tmp_path / "theirs")
    pictures = [torch.rand(2, 4, 32, 64) * 2 - 1, torch.rand(3, 3, 48, 16) * 2 - 1]
    for x in pictures:
        assert_same(theirs, ours, x)

    ours.save_pretrained(tmp_path / "ours")
    again = diffusers.AutoencoderKLQwenImage21.from_pretrained(tmp_path / "ours")
    assert again.state_dict().keys() == theirs.state_dict().keys()
    assert_same(again, ours.to(memory_format=torch.channels_last), pictures[0])
    changed = {key for key in theirs.config if not key.startswith("_") and theirs.config[key] != again.config[key]}
    assert changed <= {"decoder_base_dim", "scale_factor_temporal"}


def test_published_size_to_the_parameter() -> None:
    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    with torch.device("meta"):
        ours, theirs = Autoencoder(AutoencoderConfig()), diffusers.AutoencoderKLQwenImage21()
    assert count(ours) == count(theirs) == 337_740_404
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (ours, theirs)]
    assert shapes[0] == shapes[1]
    # The two 1x1 convolutions beside the latent are counted with neither side.
    assert count(ours.encoder) == 78_675_680
    assert count(ours.decoder) == 259_044_052
