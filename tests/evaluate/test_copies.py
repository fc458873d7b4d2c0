"""Folders of reconstructions are measured by name, in the benchmark's form, and a model's are written so."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from fourstroke.cli import main
from fourstroke.data.images import Images, square
from fourstroke.evaluate.copies import evaluate_copies
from fourstroke.evaluate.reconstruction import evaluate_reconstruction, measure, table
from fourstroke.vae import Autoencoder
from tests.vae.test_objective import write as write_lpips

from .test_networks import inception as inception
from .test_reconstruction import SMALL

RNG = np.random.default_rng(5)


@pytest.fixture
def folders(tmp_path):
    """Five originals in two classes; copies with noise, one missing, one of another size and suffix."""
    for index in range(5):
        name = f"class{index % 2}/{index:04d}"
        picture = RNG.integers(0, 256, (40, 48, 3)).astype(np.int32)
        copy = (picture + RNG.integers(-20, 21, picture.shape)).clip(0, 255).astype(np.uint8)
        for folder, pixels in (("gt", picture.astype(np.uint8)), ("recon", copy)):
            (tmp_path / folder / f"class{index % 2}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
    (tmp_path / "recon" / "class1" / "0003.png").unlink()
    other = tmp_path / "recon" / "class0" / "0002.png"
    Image.open(other).resize((24, 20)).save(other.with_suffix(".webp"), lossless=True)
    other.unlink()
    (tmp_path / "gt" / "class0" / "broken.png").write_bytes(b"no picture")
    return tmp_path / "gt", tmp_path / "recon"


def test_pairs_are_found_by_name_and_the_others_told(folders, tmp_path, inception):
    result = evaluate_copies(*folders, mode="pixel", inception=inception, save=tmp_path / "out", device="cpu")
    assert result["n"] == 4
    assert set(result["skipped"]) == {"class1/0003.png", "class0/broken.png"}
    assert list(result["results"]) == ["PSNR", "SSIM", "rFID"]
    pictures = [np.asarray(Image.open(folders[0] / "class0" / "0000.png"))]
    copies = [np.asarray(Image.open(folders[1] / "class0" / "0000.png"))]
    alone = evaluate_copies(folders[0] / "class0", folders[1] / "class0", mode="pixel", n=1)["results"]
    mse = ((pictures[0].astype(float) - copies[0]) ** 2).mean()
    assert alone["PSNR"] == pytest.approx(10 * np.log10(255**2 / mse), rel=1e-4)
    told = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(told) == ["num_samples", "PSNR", "SSIM", "FID"]
    assert not (tmp_path / "out" / "ned_details.json").exists()


def test_n_limits_what_is_compared_and_without_it_all_are(folders, capsys):
    words = ["eval", "reconstruction", "--images", str(folders[0]), "--copies", str(folders[1]), "--mode", "pixel"]
    for more, count in ((["--n", "2"], 2), ([], 4)):
        assert main([*words, "--json", *more]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["n"] == count


def test_equal_folders_lose_nothing(folders, inception, tmp_path, capsys):
    write_lpips(tmp_path / "lpips", "vgg16-397923af.pth")
    words = ["eval", "reconstruction", "--images", str(folders[1]), "--copies", str(folders[1]), "--mode", "pixel"]
    assert main([*words, "--inception", str(inception), "--lpips", str(tmp_path / "lpips"), "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["SSIM", "LPIPS", "rFID"]  # PSNR is infinite
    assert [float(value) for value in lines[2].split()[1:]] == pytest.approx([1, 0, 0], abs=1e-3)


def test_words_are_read_as_the_benchmark_has_them(tmp_path, monkeypatch):
    read = {10: ["ab", "cd"], 11: ["abxd"], 20: [], 21: ["noise"], 30: ["ef"], 31: []}
    monkeypatch.setattr("fourstroke.evaluate.copies.read_lines", lambda pixels: read[int(pixels[0, 0, 0])])
    monkeypatch.setattr("fourstroke.evaluate.copies.can_read", lambda: True)
    for folder, add in (("gt", 0), ("recon", 1)):
        (tmp_path / folder).mkdir()
        for shade in (10, 20, 30):
            Image.new("RGB", (16, 16), (shade + add,) * 3).save(tmp_path / folder / f"{shade}.png")
    result = evaluate_copies(tmp_path / "gt", tmp_path / "recon", mode="ned", save=tmp_path / "out")
    assert result["results"] == {"NED": pytest.approx((0.75 + 0) / 2)}  # without text in the original nothing counts
    told = json.loads((tmp_path / "out" / "ned_details.json").read_text())
    assert (told["total_samples"], told["valid_samples"], told["avg_ned"]) == (3, 2, 0.375)
    assert told["details"][0] == {"file": "10.png", "gt_ocr": "abcd", "recon_ocr": "abxd", "ned": 0.75}
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == {
        "num_samples": 3, "NED": 0.375, "NED_samples": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--copies", "x"], "name these with --images"),
        (["--mode", "ned"], "--mode is for --copies"),
        (["--images", "{gt}", "--copies", "{gt}", "--mode", "pixel", "--read"], "--mode pixel reads nothing"),
        (["--images", "{gt}", "--copies", "/nowhere", "--mode", "pixel"], "in /nowhere: class0/0000.png has no"),
        (["--images", "{gt}", "--copies", "{gt}", "--model", "m"], "leave out --model"),
        (["--images", "{gt}", "--copies", "{gt}", "--inception", "/nowhere"], "no Inception weights at /nowhere"),
        (["--size", "64"], "give --images"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_one_line(words, said, folders, capsys):
    assert main(["eval", "reconstruction", *(word.format(gt=folders[0]) for word in words)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_few_of_a_folder_of_classes_are_of_all_classes(tmp_path):
    for index in range(20):
        (tmp_path / f"class{index // 5}").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / f"class{index // 5}" / f"{index:02d}.png")
    images = Images(tmp_path)
    images.spread(4)
    names = [name for name, _ in images]
    assert names[:4] == ["class0/00.png", "class1/05.png", "class2/10.png", "class3/15.png"]
    assert len(set(names)) == 20
    images.spread(99)
    assert len(images) == 20


def test_squares_keep_the_middle():
    picture = np.zeros((100, 301, 3), np.uint8)
    picture[:, 100:200] = 255
    found = square(picture, 25)
    assert found.shape == (25, 25, 3)
    assert found[:, 2:-2].min() == 255
    assert square(picture[:, :120], 100).shape == square(picture[:10, :10], 100).shape == (100, 100, 3)


def test_a_models_copies_come_one_by_one_with_rfid(inception):
    from fourstroke.evaluate.inception import Inception

    pictures = [RNG.integers(0, 256, (32, 32, 3)).astype(np.uint8) for _ in range(5)]
    seen = {}
    network = Inception.from_pretrained(inception)
    found = measure(lambda x: x, pictures, 2, keep=1, inception=network, on_copy=lambda k, c: seen.update({k: c}))
    assert found["rfid"] == pytest.approx(0, abs=1e-6)
    assert len(found["copies"]) == 1
    assert all((seen[k] == pictures[k]).all() for k in range(5))
    assert measure(lambda x: x.flip(3) * 0.5, pictures, 2, inception=network)["rfid"] > 1e-4


def test_saved_copies_measure_as_the_model_did(folders, tmp_path, inception):
    Autoencoder(SMALL).save_pretrained(tmp_path / "vae")
    own = {"images": folders[0], "device": "cpu", "inception": inception}
    found = evaluate_reconstruction(tmp_path / "vae", save=tmp_path / "saved", size=32, **own)
    for path in folders[0].rglob("*.png"):
        if path.name != "broken.png":
            Image.fromarray(square(np.asarray(Image.open(path)), 32)).save(path)
    again = evaluate_copies(folders[0], tmp_path / "saved", mode="pixel", inception=inception, device="cpu")
    assert (again["n"], found["images"]["n"]) == (5, 5)
    ours = [found["images"][key] for key in ("psnr", "ssim", "rfid")]
    assert list(again["results"].values()) == pytest.approx(ours, rel=1e-3)
    assert "rFID" in table(found)


@pytest.mark.slow
def test_text_is_read_in_copies(tmp_path):
    pytest.importorskip("rapidocr", reason="RapidOCR is not installed: pip install fourstroke[eval]")
    for folder, word in (("gt", "RECEIPT 42"), ("recon", "RECEIPT 47")):
        (tmp_path / folder).mkdir()
        page = Image.new("RGB", (256, 96), "white")
        ImageDraw.Draw(page).text((20, 20), word, "black", ImageFont.load_default(36))
        page.save(tmp_path / folder / "a.png")
    found = evaluate_copies(tmp_path / "gt", tmp_path / "recon", mode="ned")["results"]["NED"]
    assert 0.8 <= found < 1
