"""scripts/sharpen_outlines.py: the alpha alone, about one half, also where pixels are packed."""

from __future__ import annotations

import runpy

import pytest
import torch

from fourstroke.vae.autoencoder import Autoencoder, AutoencoderConfig

MAIN = runpy.run_path("scripts/sharpen_outlines.py")["main"]
PACKED = {"in_channels": 16, "out_channels": 16, "patch_size": 2}


def write(folder, **changes):
    torch.manual_seed(0)
    sizes = {"base_dim": 4, "decoder_base_dim": 4, "z_dim": 8, "dim_mult": (1, 2), "num_res_blocks": 1}
    model = Autoencoder(AutoencoderConfig(**sizes, temperal_downsample=(False,), **changes))
    model.set_statistics([0.0] * 8, [1.0] * 8)
    model.save_pretrained(folder)
    return Autoencoder.from_pretrained(folder)


@pytest.mark.parametrize("changes", [{}, PACKED])
def test_the_alpha_is_scaled_and_colours_stay(tmp_path, changes):
    before = write(tmp_path / "vae", **changes)
    MAIN([str(tmp_path / "vae"), str(tmp_path / "sharp"), "--by", "3"])
    after, z = Autoencoder.from_pretrained(tmp_path / "sharp"), torch.randn(2, 8, 3, 3)
    with torch.no_grad():
        old, new = before.decode_raw(z), after.decode_raw(z)
        torch.testing.assert_close(new[:, :3], old[:, :3])
        torch.testing.assert_close(new[:, 3], 3 * old[:, 3])
        torch.testing.assert_close(after.encode(new.clamp(-1, 1)), before.encode(new.clamp(-1, 1)))


@pytest.mark.parametrize(
    ("name", "by", "said"), [("nothing", "2", "nothing"), ("vae", "0", "above 0"), ("rgb", "2", "have no alpha")]
)
def test_what_cannot_be_sharpened_is_refused(tmp_path, capsys, name, by, said):
    write(tmp_path / "vae")
    write(tmp_path / "rgb", in_channels=3, out_channels=3)
    with pytest.raises(SystemExit):
        MAIN([str(tmp_path / name), str(tmp_path / "sharp"), "--by", by])
    assert said in capsys.readouterr().err
    assert not (tmp_path / "sharp").exists()
