"""PSNR and SSIM of a coder: perfect for the identity, known values else."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fourstroke.data.world import WorldConfig
from fourstroke.evaluate.reconstruction import (
    PHOTOGRAPHS,
    as_tensor,
    evaluate_reconstruction,
    load_autoencoder,
    measure,
    photographs,
    ssim,
    table,
)
from fourstroke.vae import Autoencoder
from fourstroke.vae.autoencoder import AutoencoderConfig

SMALL = AutoencoderConfig(
    base_dim=8,
    decoder_base_dim=8,
    z_dim=16,
    dim_mult=(1, 1, 2, 2, 2),
    num_res_blocks=1,
    temperal_downsample=(False,) * 4,
)

PICTURES = list(np.random.default_rng(0).integers(0, 256, (3, 32, 48, 4), dtype=np.uint8))


def test_the_identity_is_perfect() -> None:
    result = measure(lambda x: x, PICTURES, batch=2)
    assert result["psnr"] == float("inf")
    assert result["ssim"] == pytest.approx(1.0)
    assert all((copy == picture[..., :3]).all() for copy, picture in zip(result["copies"], PICTURES, strict=True))


def test_an_offset_has_its_known_psnr() -> None:
    flat = [np.full((32, 32, 3), 100, np.uint8)]
    result = measure(lambda x: x + 10 / 127.5, flat)
    assert result["psnr"] == pytest.approx(20 * np.log10(255 / 10), abs=1e-3)


def test_ssim_agrees_with_scikit_image() -> None:
    metrics = pytest.importorskip(
        "skimage.metrics", reason="scikit-image is not installed: pip install fourstroke[eval]"
    )
    rng = np.random.default_rng(2)
    a = np.kron(rng.random((8, 8, 3)), np.ones((6, 6, 1)))
    b = np.clip(a + 0.1 * rng.normal(size=a.shape), 0, 1)
    _, every = metrics.structural_similarity(
        a, b, channel_axis=2, data_range=1.0, gaussian_weights=True, use_sample_covariance=False, full=True
    )
    x, y = (torch.from_numpy(2 * t - 1).permute(2, 0, 1)[None] for t in (a, b))
    assert ssim(y, x).item() == pytest.approx(every[5:-5, 5:-5].mean(), abs=1e-4)


def test_rgb_gets_a_full_alpha() -> None:
    x = as_tensor(PICTURES[0][..., :3])
    assert x.shape == (4, 32, 48)
    assert (x[3] == 1).all()


def test_photographs_are_squares_inside_the_package() -> None:
    pytest.importorskip("skimage", reason="scikit-image is not installed: pip install fourstroke[eval]")
    pictures = photographs()
    assert tuple(pictures) == PHOTOGRAPHS
    assert all(picture.shape == (256, 256, 3) and picture.std() > 10 for picture in pictures.values())


def test_an_autoencoder_makes_a_table_and_a_sheet(tmp_path: Path) -> None:
    pytest.importorskip("skimage", reason="scikit-image is not installed: pip install fourstroke[eval]")
    autoencoder = Autoencoder(SMALL).eval()
    autoencoder.save_pretrained(tmp_path / "vae")
    _, folder, name = load_autoencoder(tmp_path / "vae", "cpu")
    assert (folder, name) == (tmp_path / "vae", "vae")
    world = WorldConfig(width=32, height=32, sprites=0)
    result = evaluate_reconstruction(tmp_path / "vae", world=world, n=2, device="cpu", sheet=tmp_path / "sheet.png")
    assert set(result["photographs"]) == {*PHOTOGRAPHS, "mean"}
    assert 0 < result["scenes"]["psnr"] < 60
    assert "2 held-out scenes" in table(result)
    assert (tmp_path / "sheet.png").stat().st_size > 0
