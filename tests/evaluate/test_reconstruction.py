"""PSNR and SSIM of a coder: perfect for the identity, known values else."""

import json
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from fourstroke.evaluate import reconstruction
from fourstroke.evaluate.models import as_tensor
from fourstroke.evaluate.reconstruction import (
    PHOTOGRAPHS,
    evaluate_reconstruction,
    load_autoencoder,
    measure,
    photographs,
    ssim,
    table,
)
from fourstroke.evaluate.report.reconstruction import _question as chapter_question
from fourstroke.vae import Autoencoder
from fourstroke.vae.autoencoder import AutoencoderConfig
from fourstroke.world.dataset import SmallTextData
from fourstroke.world.page import render_page
from tests.vae.test_objective import write as write_lpips

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


def test_an_exact_copy_leaves_the_others_their_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = [np.full((32, 32, 3), shade, np.uint8) for shade in (100, 255)]  # white stays white
    assert measure(lambda x: x + 10 / 127.5, mixed)["psnr"] == pytest.approx(20 * np.log10(255 / 10), abs=1e-3)
    exact = SimpleNamespace(name="exact", code=lambda x: x, multiple=1, device=torch.device("cpu"), folder=None)
    monkeypatch.setattr(reconstruction, "load_reconstruction_model", lambda *_: exact)
    result = evaluate_reconstruction(images=folder_of_pictures(tmp_path / "own"))
    assert result["images"]["psnr"] is None
    json.dumps(result, allow_nan=False)
    assert "inf dB" in table(result)
    asked = chapter_question(mixed[0], "grey", False)
    assert asked.judge([mixed[0]]) == {"ssim": (pytest.approx(1), 1)}
    assert asked.judge([mixed[1]]).keys() == {"psnr", "ssim"}


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


def test_ssim_stays_on_the_device_of_the_pictures() -> None:
    x = torch.zeros(2, 3, 16, 16)
    with torch.device("meta"):  # another device than theirs is the default
        assert ssim(x, x).tolist() == [1, 1]


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
    files = [tmp_path / "scenes.yaml", tmp_path / "pages.yaml"]
    files[0].write_text("{kind: world, world: {width: 40, height: 32, sprites: 0}}")
    files[1].write_text("{kind: world_pages, width: 32, height: 32, sizes: [12, 12]}")
    result = evaluate_reconstruction(tmp_path / "vae", data=files, n=2, device="cpu", sheet=tmp_path / "sheet.png")
    assert set(result["photographs"]) == {*PHOTOGRAPHS, "mean"}
    assert result["datasets"] == ["world", "world_pages"]
    assert 0 < result["world"]["psnr"] < 60  # cut to 32 pixels a side
    assert 0 < result["world_pages"]["psnr"] < 60
    text = table(result)
    assert "2 of world" in text
    assert "2 of world_pages" in text
    assert "NED" not in text
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 9 * 256  # originals, copies and differences of scenes, pages and photographs
    json.dumps(result)


def test_pages_are_read_and_weights_of_lpips_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage", reason="scikit-image is not installed: pip install fourstroke[eval]")
    Autoencoder(SMALL).save_pretrained(tmp_path / "vae")
    seen: list[np.ndarray] = []
    words = iter(["ab", "ab", "ab", "ac"] + [""] * 100)

    def read(picture: np.ndarray) -> str:
        seen.append(picture)
        return next(words)

    monkeypatch.setattr(reconstruction, "read_all", read)
    write_lpips(tmp_path / "lpips", "vgg16-397923af.pth")
    data = SmallTextData(width=32, height=48, sizes=(12, 12))
    result = evaluate_reconstruction(
        tmp_path / "vae", data=data, n=2, device="cpu", read=True, lpips=tmp_path / "lpips"
    )
    assert (seen[2][..., :3] == render_page(1, 32, 48, 12, "heldout")[..., :3]).all()
    assert result["world_pages"]["ned"] == 0.75
    assert result["photographs"]["mean"]["ned"] is None
    assert result["world_pages"]["lpips"] > 0
    assert result["photographs"]["mean"]["lpips"] > 0
    heads, pages = table(result).splitlines()[1:3]
    assert heads.split() == ["PSNR", "SSIM", "LPIPS", "NED"]
    assert pages.split()[-2:] == [f"{result['world_pages']['lpips']:.4f}", "0.7500"]


def test_each_kind_of_data_is_measured_once(tmp_path: Path) -> None:
    Autoencoder(SMALL).save_pretrained(tmp_path / "vae")
    (tmp_path / "pages.yaml").write_text("{kind: world_pages}")
    with pytest.raises(ValueError, match="give each kind once"):
        evaluate_reconstruction(tmp_path / "vae", data=[tmp_path / "pages.yaml"] * 2, device="cpu")


def test_pictures_too_small_for_lpips_are_skipped_and_named(tmp_path: Path) -> None:
    Autoencoder(SMALL).save_pretrained(tmp_path / "vae")
    write_lpips(tmp_path / "lpips", "vgg16-397923af.pth")
    own = folder_of_pictures(tmp_path / "own")
    Image.new("RGB", (60, 20)).save(own / "flat.png")
    result = evaluate_reconstruction(tmp_path / "vae", images=own, device="cpu", lpips=tmp_path / "lpips")
    assert result["images"]["n"] == 3
    assert result["images"]["lpips"] > 0
    assert result["skipped"]["flat.png"] == "48 x 16 pixels, less than 32 a side"


def test_lpips_without_weights_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no LPIPS weights at"):
        evaluate_reconstruction(tmp_path / "no model either", lpips=tmp_path / "none")


def folder_of_pictures(folder: Path) -> Path:
    """Three pictures of different sizes, one too small and one broken."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    for name, size in {"a.png": (40, 70), "b.png": (32, 33), "c.png": (50, 50), "tiny.png": (8, 90)}.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8")
    return folder


def test_a_folder_is_measured_and_its_broken_pictures_are_named(tmp_path: Path) -> None:
    Autoencoder(SMALL).save_pretrained(tmp_path / "vae")
    result = evaluate_reconstruction(
        tmp_path / "vae", images=folder_of_pictures(tmp_path / "own"), device="cpu", sheet=tmp_path / "sheet.png"
    )
    assert result["images"]["n"] == 3
    assert set(result["skipped"]) == {"broken.jpg", "tiny.png"}
    assert result["images"]["megapixels"] > 0
    assert result["peak_mb"] > 0
    assert "scenes" not in result
    assert "tiny.png: 90 x 8 pixels, less than 16 a side" in table(result)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 3 * 48
    json.dumps(result)


@pytest.mark.parametrize("shards", [False, True], ids=["folder", "shards"])
def test_where_no_picture_can_be_measured_the_reasons_are_told(tmp_path: Path, shards: bool) -> None:
    Autoencoder(SMALL).save_pretrained(tmp_path / "vae")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "broken.png").write_bytes(b"\x89PNG and no more")
    (pictures / "empty.jpg").write_bytes(b"")
    Image.new("RGB", (40, 8)).save(pictures / "flat.png")
    source = pictures
    if shards:
        source = tmp_path / "shard.tar"
        with tarfile.open(source, "w") as shard:
            shard.add(pictures, ".")
    with pytest.raises(ValueError, match="there is no picture to measure: ") as error:
        evaluate_reconstruction(tmp_path / "vae", images=source)
    message = str(error.value)
    assert "\n" not in message
    for name, reason in (("broken.png", "picture"), ("empty.jpg", "empty file"), ("flat.png", "40 x 8 pixels")):
        assert reason in message.split(name)[1]


def test_a_peer_stands_beside_ours_on_the_same_pictures(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    Autoencoder(SMALL).save_pretrained(tmp_path / "vae")
    peer = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=16,
        norm_num_groups=4,
    )
    peer.save_pretrained(tmp_path / "f8c16")
    video = diffusers.AutoencoderKLQwenImage(base_dim=8, z_dim=8, num_res_blocks=1)
    video.save_pretrained(tmp_path / "video")
    result = evaluate_reconstruction(
        tmp_path / "vae",
        images=folder_of_pictures(tmp_path / "own"),
        peers=[tmp_path / "f8c16", tmp_path / "video"],
        device="cpu",
    )
    assert [answer["model"] for answer in result["peers"]] == ["f8c16", "video"]
    assert all(answer["images"]["n"] == 3 for answer in result["peers"])
    assert table(result).count("megapixels a second") == 3


def test_a_class_that_diffusers_does_not_know_is_named(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderOfTomorrow"}')
    with pytest.raises(ValueError, match="AutoencoderOfTomorrow, which diffusers"):
        evaluate_reconstruction(tmp_path, images=tmp_path, device="cpu")


def test_what_is_read_is_compared_letter_by_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    words = iter(["Tea 4", "Tea 4", "Tea 4", "tea 4", "", ""])
    monkeypatch.setattr(reconstruction, "read_all", lambda picture: next(words))
    result = measure(lambda x: x, PICTURES, read=True)
    assert result["ned"] == pytest.approx((1 + 0.8) / 2)
    assert result["with_words"] == 2


@pytest.mark.slow
def test_reading_finds_the_word_of_a_sign() -> None:
    pytest.importorskip("rapidocr", reason="RapidOCR is not installed: pip install fourstroke[eval]")
    picture = Image.new("RGB", (256, 96), "white")
    ImageDraw.Draw(picture).text((30, 20), "STROKE", fill="black", font=ImageFont.load_default(44))
    assert reconstruction.read_all(np.asarray(picture)) == "STROKE"


def test_nothing_to_measure_is_one_line(tmp_path: Path) -> None:
    Autoencoder(SMALL).save_pretrained(tmp_path / "vae")
    Image.new("RGB", (9, 9)).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match="no picture to measure"):
        evaluate_reconstruction(tmp_path / "vae", images=tmp_path / "small.png", device="cpu")
