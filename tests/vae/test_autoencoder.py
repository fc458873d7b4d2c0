"""The autoencoder's own rules: shapes, statistics, folders, refusals, and a tiny overfit."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fourstroke.checkpoint import CheckpointError
from fourstroke.vae.autoencoder import Autoencoder, AutoencoderConfig

FLAT = (False,) * 4


def tiny(**changes: object) -> AutoencoderConfig:
    small = AutoencoderConfig(
        base_dim=8, decoder_base_dim=8, z_dim=16, dim_mult=(1, 1, 2, 2, 2), num_res_blocks=1, temperal_downsample=FLAT
    )
    return replace(small, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("shortcut", ["local", "global"])
@pytest.mark.parametrize("factor", [8, 16])
def test_shapes(shortcut: str, factor: int) -> None:
    stages = int(math.log2(factor))
    config = tiny(shortcut=shortcut, dim_mult=(1, 1, 2, 2, 2)[: stages + 1], temperal_downsample=FLAT[:stages])
    model = Autoencoder(config)
    z = model.encode_raw(torch.randn(2, 4, 32, 48))
    assert z.shape == (2, 16, 32 // factor, 48 // factor)
    assert model.decode_raw(z).shape == (2, 4, 32, 48)


def test_rgb_is_opaque_rgba() -> None:
    model, x = Autoencoder(tiny()), torch.rand(1, 3, 16, 32)
    torch.testing.assert_close(model.encode_raw(x), model.encode_raw(torch.cat([x, torch.ones(1, 1, 16, 32)], 1)))


def test_every_picture_is_alone_in_its_batch() -> None:
    model, x = Autoencoder(tiny()), torch.rand(3, 4, 32, 32)
    torch.testing.assert_close(model.encode_raw(x)[1:2], model.encode_raw(x[1:2]))


@pytest.mark.parametrize("shape", [(1, 4, 40, 32), (1, 4, 32, 17), (1, 2, 32, 32), (4, 32, 32), (1, 4, 0, 32)])
def test_wrong_pictures_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"\({', '.join(map(str, shape))}\)"):
        Autoencoder(tiny()).encode_raw(torch.zeros(shape))


def test_wrong_latents_are_named() -> None:
    with pytest.raises(ValueError, match=r"16, height, width.*\(1, 4, 2, 2\)"):
        Autoencoder(tiny()).decode_raw(torch.zeros(1, 4, 2, 2))


def test_without_statistics_we_refuse() -> None:
    model = Autoencoder(tiny())
    for call, shape in ((model.encode, (1, 4, 16, 16)), (model.decode, (1, 16, 1, 1))):
        with pytest.raises(ValueError, match="statistics step"):
            call(torch.zeros(shape))


@torch.no_grad()
def test_statistics_normalise_and_survive_a_save(tmp_path: Path) -> None:
    model, x = Autoencoder(tiny()).eval(), torch.rand(8, 4, 48, 32) * 2 - 1
    raw = model.encode_raw(x)
    model.set_statistics(raw.mean((0, 2, 3)), raw.std((0, 2, 3)))
    model.save_pretrained(tmp_path / "vae")
    again = Autoencoder.from_pretrained(tmp_path / "vae")
    z = again.encode(x)
    torch.testing.assert_close(z, model.encode(x), atol=0, rtol=0)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(again.decode(z), model.decode_raw(raw).clamp(-1, 1), atol=1e-4, rtol=0)
    assert again.config == model.config
    assert not again.training


@pytest.mark.parametrize(("mean", "std", "length"), [(0, 1, 15), (0, 0, 16), (math.nan, 1, 16), (0, math.inf, 16)])
def test_impossible_statistics_are_refused(mean: float, std: float, length: int) -> None:
    with pytest.raises(ValueError, match="latents_std"):
        Autoencoder(tiny()).set_statistics([mean] * length, [std] * length)


def test_config_json_has_every_published_key() -> None:
    published = AutoencoderConfig().to_json()
    assert published["_class_name"] == "AutoencoderKLQwenImage21"
    assert published["is_residual"] is True
    assert (published["scale_factor_spatial"], published["scale_factor_temporal"]) == (16, 8)
    assert "shortcut" not in published
    for config in (AutoencoderConfig(), tiny(shortcut="global", latents_mean=(0.0,) * 16, latents_std=(1.0,) * 16)):
        assert AutoencoderConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("key", "value"),
    [("patch_size", 3), ("is_residual", False), ("attn_scales", [0.5]), ("latents_mean", [0.0]), ("shortcut", "none")],
)
def test_unusable_configs_are_refused(key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=key):
        AutoencoderConfig.from_json({**tiny().to_json(), key: value})


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    Autoencoder(tiny()).save_pretrained(tmp_path)
    weights, config = next(tmp_path.glob("*.safetensors")), tmp_path / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "base_dim": 16}))
    with pytest.raises(CheckpointError, match="another shape"):
        Autoencoder.from_pretrained(tmp_path)
    config.write_text(json.dumps({**values, "num_res_blocks": 2}))
    with pytest.raises(CheckpointError, match="missing"):
        Autoencoder.from_pretrained(tmp_path)
    config.write_text(json.dumps(values))
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        Autoencoder.from_pretrained(tmp_path)


@torch.no_grad()
def test_dtype_and_layout_change_little() -> None:
    torch.manual_seed(0)
    model, x = Autoencoder(tiny()), torch.rand(1, 4, 32, 32) * 2 - 1
    z = model.encode_raw(x)
    torch.testing.assert_close(model.to(memory_format=torch.channels_last).encode_raw(x), z, atol=1e-5, rtol=0)
    half = model.bfloat16().encode_raw(x.bfloat16())
    assert half.dtype is torch.bfloat16
    assert (half.float() - z).abs().mean() < 0.05 * z.abs().mean()


@pytest.mark.parametrize("shortcut", ["local", "global"])
def test_every_trained_parameter_gets_a_gradient(shortcut: str) -> None:
    model = Autoencoder(tiny(shortcut=shortcut, temperal_downsample=(False, True, True, True)))
    model.decode_raw(model.encode_raw(torch.randn(1, 4, 32, 32))).square().sum().backward()
    idle = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert idle == {name for name in model.state_dict() if "time_conv" in name}
    assert idle == {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def test_overfits_one_batch() -> None:
    torch.manual_seed(0)
    model = Autoencoder(tiny(base_dim=16, decoder_base_dim=16)).to(memory_format=torch.channels_last)
    x = torch.nn.functional.interpolate(torch.rand(4, 4, 4, 4) * 2 - 1, size=32, mode="bilinear")
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(120):
        loss = (model.decode_raw(model.encode_raw(x)) - x).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert min(losses[-5:]) < losses[0] / 5, losses
