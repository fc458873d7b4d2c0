"""Folders, edits, mixtures and dead leaves: what is read, how it is named, and what is refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fourstroke.data.datasets.edits import EditsData
from fourstroke.data.datasets.folder import FolderData
from fourstroke.data.datasets.items import held_out
from fourstroke.data.datasets.leaves import LeavesData
from fourstroke.data.datasets.mixture import MixtureData, Part, stretches
from fourstroke.data.sample import Caption, SampleError, hints
from fourstroke.data.survey import survey
from tests.data.pictures import encoded, noise


def captions(dataset, name: str) -> list[tuple[str, str]]:
    index = next(i for i in range(len(dataset)) if dataset.items[i].name == name)
    return [(caption.text, caption.kind) for caption in dataset.record(index).captions]


def test_captions_lie_beside_pictures_in_three_forms(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg", "deep/c.webp", "d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        noise(len(name)).save(tmp_path / name)
    (tmp_path / "a.txt").write_text(" a red cat \n", encoding="utf-8-sig")
    (tmp_path / "b.caption").write_bytes("ein Käse".encode("utf-16"))
    (tmp_path / "deep" / "c.json").write_text(
        json.dumps({"caption": "one", "captions": {"short": "two", "rich": ["three", {"text": "four", "kind": "x"}]}})
    )
    dataset = FolderData(path=tmp_path).open()
    assert len(dataset) == 4
    assert captions(dataset, "a.png") == [("a red cat", "caption")]
    assert captions(dataset, "b.jpg") == [("ein Käse", "caption")]
    assert captions(dataset, "deep/c.webp") == [("one", "caption"), ("two", "short"), ("three", "rich"), ("four", "x")]
    assert captions(dataset, "d.png") == []


def test_a_metadata_file_names_pictures_and_columns_become_kinds(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for name in ("train/1.png", "train/2.png", "3.png"):
        noise(ord(name[-5])).save(tmp_path / name)
    rows = [{"file_name": "1.png", "text": "one"}, {"file_name": "gone.png", "text": "x"}, {"text": "nameless"}]
    lines = [*map(json.dumps, rows), "no json", json.dumps({"file_name": "2.png", "text": ["two", "zwei"]})]
    (tmp_path / "train" / "metadata.jsonl").write_text("\n".join(lines))
    (tmp_path / "metadata.csv").write_text("file_name,title,longer\n3.png,three,the third\n")
    dataset = FolderData(path=tmp_path).open()
    assert captions(dataset, "train/2.png") == [("two", "caption"), ("zwei", "caption")]
    assert captions(dataset, "3.png") == []
    skipped = {name: stage for name, (stage, _) in hints(dataset).skipped.items()}
    assert skipped == {
        "metadata.csv": "metadata",  # its captions are in columns of other names
        "train/gone.png": "missing",
        "train/metadata.jsonl:3": "metadata",
        "train/metadata.jsonl:4": "metadata",
    }
    named = FolderData(path=tmp_path, captions=("title", "longer")).open()
    assert captions(named, "3.png") == [("three", "title"), ("the third", "longer")]


def test_a_csv_of_other_columns_is_named_with_them_and_pictures_stay(tmp_path: Path) -> None:
    noise(0).save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("picture,label\na.png,x\n")
    dataset = FolderData(path=tmp_path).open()
    assert len(dataset) == 1
    said = "has no column file_name, only picture, label: rename it"
    assert hints(dataset).skipped == {"metadata.csv": ("metadata", said)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"file_name,label\na.png,x\n", "has no captions, only file_name, label: name their columns in data.captions"),
        (
            "file_name,text\na.png,Käse\n".encode("latin-1"),
            "is not UTF-8 (invalid continuation byte): save it as UTF-8",
        ),
        ("file_name,text\na.png,x\n".encode("utf-16"), "is not UTF-8 (invalid start byte): save it as UTF-8"),
    ],
)
def test_a_csv_without_captions_or_in_another_encoding_is_named_with_what_to_do(
    tmp_path: Path, content: bytes, said: str
) -> None:
    noise(0).save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_bytes(content)
    assert hints(FolderData(path=tmp_path).open()).skipped == {"metadata.csv": ("metadata", said)}


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-16-le", "holds null characters, as UTF-16 without its mark does"),
        ("latin-1", "is not UTF-8, from byte 2 on"),
    ],
)
def test_a_caption_in_another_encoding_is_named_with_what_to_do(tmp_path: Path, encoding: str, said: str) -> None:
    noise(0).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(("Kase" if encoding == "utf-16-le" else "Käse").encode(encoding))
    with pytest.raises(SampleError, match=f"^its caption a.txt {said}: save it as UTF-8$"):
        FolderData(path=tmp_path).open().record(0)


def test_kohyas_folders_repeat_and_name_their_pictures(tmp_path: Path) -> None:
    for name in ("12_sks dog/a.png", "12_sks dog/b.png", "3_/c.png", "plain/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        noise(ord(name[-5])).save(tmp_path / name)
    (tmp_path / "12_sks dog" / "b.txt").write_text("its own")
    dataset = FolderData(path=tmp_path).open()
    assert captions(dataset, "12_sks dog/a.png") == [("sks dog", "caption")]
    assert captions(dataset, "12_sks dog/b.png") == [("its own", "caption")]
    assert list(hints(dataset).repeats) == [12, 12, 1, 1]


def test_awkward_files_are_read_or_named_and_none_is_fatal(tmp_path: Path) -> None:
    noise(1).convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16).save(tmp_path / "sixteen.png")
    noise(2).save(tmp_path / "moving.gif", save_all=True, append_images=[noise(3)])
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(4, 40, 20).save(tmp_path / "turned.jpg", exif=exif)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.jpg").write_bytes(encoded(noise(5, 256, 256), "JPEG")[:1500])
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    noise(6).save(tmp_path / "odd.png")
    (tmp_path / "odd.txt").write_bytes("Käse".encode("latin-1"))
    (tmp_path / ".hidden.png").write_bytes(b"x")
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    dataset = FolderData(path=tmp_path).open()
    found, report = survey(dataset)
    used = [dataset.items[i].name for i in found[0].indices]
    assert used == ["cmyk.jpg", "cut.jpg", "moving.gif", "sixteen.png", "turned.jpg"]  # a cut is seen in decoding
    assert {name: stage for name, (stage, _) in report.skipped.items()} == {
        "empty.png": "broken",
        "huge.png": "broken",
        "odd.png": "caption",
        "phone.heic": "broken",
    }
    assert "pixels: make it smaller" in report.skipped["huge.png"][1]
    turned = next(i for i in range(len(dataset)) if dataset.items[i].name == "turned.jpg")
    assert dataset.record(turned).size == (20, 40) == dataset.sample(turned).image.shape[1::-1]


def test_nothing_usable_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        FolderData(path=tmp_path / "nowhere").open()
    with pytest.raises(ValueError, match=r"no pictures in .*: none of \.avif"):
        FolderData(path=tmp_path).open()
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no sample .* can be used: .*broken 1 \(a\.png: empty file\)$"):
        survey(FolderData(path=tmp_path).open())
    (tmp_path / "b.jpg").write_bytes(encoded(noise(5, 256, 256), "JPEG")[:1500])  # its header is whole
    with pytest.raises(ValueError, match=r"none of 1 pictures can be decoded: .*b\.jpg: damaged"):
        survey(FolderData(path=tmp_path).open())


def test_held_out_is_a_stable_share_by_name(tmp_path: Path) -> None:
    for number in range(40):
        noise(number, 8, 8).save(tmp_path / f"{number}.png")
    config = FolderData(path=tmp_path, held_out=0.25)
    train, kept = ({item.name for item in config.open(split).items} for split in ("train", "heldout"))
    assert train | kept == {f"{number}.png" for number in range(40)}
    assert not train & kept
    assert 4 <= len(kept) <= 16
    (tmp_path / "new.png").write_bytes((tmp_path / "0.png").read_bytes())
    assert kept <= {item.name for item in config.open("heldout").items}
    with pytest.raises(ValueError, match=r"^held_out=0 leaves none of the 41 samples of .* to heldout: raise") as told:
        FolderData(path=tmp_path).open("heldout")
    advice = float(str(told.value).rpartition("raise held_out to ")[2])
    assert len(FolderData(path=tmp_path, held_out=advice).open("heldout"))
    assert advice < 0.1
    shares = [held_out(f"picture {number}", 0.1) for number in range(4000)]
    assert 0.08 < np.mean(shares) < 0.12


def test_edits_hold_sources_instruction_target_and_mask(tmp_path: Path) -> None:
    for name, size in (("s.png", (32, 48)), ("t.png", (64, 64)), ("m.png", (64, 64)), ("s2.png", (16, 16))):
        noise(ord(name[0]), *size).save(tmp_path / name)
    Image.new("L", (64, 64), 255).save(tmp_path / "m.png")
    rows = [
        {"source": "s.png", "instruction": "make it blue", "target": "t.png", "mask": "m.png"},
        {"source": ["s.png", "s2.png"], "instruction": ["join them", "both"], "target": "t.png"},
        {"source": "gone.png", "instruction": "x", "target": "t.png"},
        {"source": "s.png", "target": "t.png"},
        {"instruction": "x", "target": "t.png"},
    ]
    (tmp_path / "edits.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = EditsData(path=tmp_path / "edits.jsonl").open()
    assert len(dataset) == 2
    first, second = dataset.sample(0), dataset.record(1)
    assert first.record.captions == (Caption("make it blue", "instruction"),)
    assert first.record.inputs == ((32, 48),)
    assert second.inputs == ((32, 48), (16, 16))
    assert first.image.shape == (64, 64, 4)
    assert first.mask is not None
    assert first.mask.min() == 255
    assert len({dataset.record(i).name for i in range(2)}) == 2
    assert dataset.digest(0) != dataset.digest(1)
    reasons = [reason for _, reason in hints(dataset).skipped.values()]
    assert [key.split(":")[1] for key in hints(dataset).skipped] == ["3", "4", "5"]
    assert "names gone.png, which is not there" in reasons[0]
    assert "has no instruction" in reasons[1]
    assert "needs target and source; it has instruction, target" in reasons[2]
    (tmp_path / "s.png").unlink()
    with pytest.raises(SampleError, match="its source: cannot be read") as caught:
        dataset.sample(0)
    assert caught.value.name == "t.png"


def test_a_mixture_is_its_parts_with_their_names_and_shares(tmp_path: Path) -> None:
    noise(0).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    folder, leaves = FolderData(path=tmp_path), LeavesData(samples=3, size=16)
    inner = MixtureData(parts=(Part(data=leaves, weight=1), Part(data=leaves, weight=3)))
    dataset = MixtureData(parts=(Part(data=folder, weight=9), Part(data=inner, weight=1))).open()
    assert len(dataset) == 2 + 3 + 3
    assert [(s.first, round(s.weight, 3)) for s in stretches(dataset)] == [(0, 0.9), (2, 0.025), (5, 0.075)]
    assert dataset.record(0).name == f"0-{tmp_path.name}/a.png"
    with pytest.raises(SampleError) as caught:
        dataset.record(1)
    assert caught.value.name == f"0-{tmp_path.name}/b.png"
    assert dataset.digest(0) == folder.open().digest(0)
    with pytest.raises(ValueError, match="weight is above 0"):
        MixtureData(parts=(Part(data=folder, weight=0),))


def test_leaves_are_the_same_everywhere_and_never_held_out_and_trained_on() -> None:
    config = LeavesData(samples=4, size=32)
    train, kept = config.open(), config.open("heldout")
    pictures = [train.sample(i).image for i in range(4)]
    assert np.array_equal(pictures[2], config.open().sample(2).image)
    assert not any(np.array_equal(kept.sample(0).image, picture) for picture in pictures)
    assert len({train.digest(i) for i in range(4)} | {kept.digest(0)}) == 5


def test_leaves_have_the_spectrum_of_photographs() -> None:
    """The power of natural pictures falls as 1 / f^2, more or less, over all scales (Lee, Mumford, Huang 2001)."""
    dataset = LeavesData(samples=12, size=128).open()
    grey = np.stack([dataset.sample(i).image[..., :3].mean(2) for i in range(12)])
    grey = (grey - grey.mean((1, 2), keepdims=True)) * np.hanning(128)[:, None] * np.hanning(128)
    power = (np.abs(np.fft.fft2(grey)) ** 2).mean(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
    band = (frequency > 0.02) & (frequency < 0.35)
    slope = np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)[0]
    assert -3.2 < slope < -1.6
