"""Shards and parquet files: what is a sample, what is skipped, and how those from elsewhere are kept."""

from __future__ import annotations

import functools
import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fourstroke.data.datasets.parquet import ParquetData
from fourstroke.data.datasets.webdataset import WebDatasetData, expand
from fourstroke.data.sample import SampleError, hints
from fourstroke.data.survey import survey
from tests.data.pictures import encoded, noise, write_shard


def shard(folder: Path, number: int, count: int = 4) -> Path:
    members = {}
    for index in range(count):
        members[f"{index:03}.jpg"] = encoded(noise(10 * number + index), "JPEG")
        members[f"{index:03}.txt"] = f"picture {number}-{index}".encode()
    return write_shard(folder / f"part-{number:03}.tar", members)


def test_members_of_one_name_are_a_sample(tmp_path: Path) -> None:
    write_shard(
        tmp_path / "a.tar",
        {
            "x/1.JPG": encoded(noise(1), "JPEG"),
            "x/1.json": json.dumps({"caption": "one", "width": 3}).encode(),
            "x/1.cls": b"7",
            "x/2.source1.png": encoded(noise(2, 32, 32)),
            "x/2.source0.png": encoded(noise(3, 16, 16)),
            "x/2.target.png": encoded(noise(4)),
            "x/2.mask.png": encoded(noise(5)),
            "x/2.txt": b"turn it",
            "x/3.txt": b"nothing to see",
            "x/4.png": b"broken",
            "x/._5.png": b"hidden",
            "readme": b"words",
        },
    )
    dataset = WebDatasetData(shards=str(tmp_path / "a.tar")).open()
    assert [dataset.items[i].name for i in range(len(dataset))] == ["x/1", "x/2", "x/4"]
    assert dataset.record(0).captions[0].text == "one"
    edit = dataset.sample(1)
    assert edit.record.inputs == ((16, 16), (32, 32))
    assert edit.mask is not None
    assert set(hints(dataset).skipped) == {"x/3", "readme"}
    _, report = survey(dataset)
    assert report.counts == {"shard": 2, "broken": 1}


def test_shards_are_found_by_glob_and_braces_and_named_in_samples(tmp_path: Path) -> None:
    for number in range(3):
        shard(tmp_path, number)
    whole = WebDatasetData(shards=str(tmp_path / "part-*.tar")).open()
    spelled = WebDatasetData(shards=str(tmp_path / "part-{000..002}.tar")).open()
    assert len(whole) == len(spelled) == 12
    assert whole.record(5).name == "part-001.tar/001"
    assert list(hints(whole).blocks) == [0, 4, 8]
    assert expand("a{1..3}b{x,y}") == ["a1bx", "a1by", "a2bx", "a2by", "a3bx", "a3by"]
    assert expand("pipe:awk '{print}'") == ["pipe:awk '{print}'"]
    train, kept = (WebDatasetData(shards=str(tmp_path), held_out=0.3).open(split) for split in ("train", "heldout"))
    assert len(train) + len(kept) == 12
    assert len(kept) > 0
    assert hints(train).blocks[0] == 0
    assert len(hints(train).blocks) <= 3


def test_damaged_shards_give_what_they_have_and_are_named(tmp_path: Path) -> None:
    path = shard(tmp_path, 0)
    path.write_bytes(path.read_bytes()[:5000])
    shard(tmp_path, 1)
    (tmp_path / "part-002.tar").write_bytes(b"x" * 2000)
    (tmp_path / "part-003.tar").write_bytes(b"")
    dataset = WebDatasetData(shards=(str(tmp_path / "part-{000..004}.tar"),)).open()
    found, report = survey(dataset)
    assert 4 <= len(found[0].indices) < 8
    assert {"part-002.tar", "part-003.tar", "part-004.tar"} <= {Path(name).name for name in report.skipped}
    assert all(stage == "shard" for stage, _ in report.skipped.values())
    with pytest.raises(ValueError, match=r"no pictures in the shards .*part-002\.tar; skipped: .* \(damaged"):
        WebDatasetData(shards=str(tmp_path / "part-002.tar")).open()


class _Files(http.server.SimpleHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "far").mkdir()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(_Files, directory=str(tmp_path / "far"))
    )
    _Files.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_shards_from_elsewhere_are_fetched_once_and_equal_local_ones(tmp_path: Path, address: str) -> None:
    for number in range(2):
        shard(tmp_path / "far", number)
    local = WebDatasetData(shards=str(tmp_path / "far")).open()
    config = WebDatasetData(shards=f"{address}/part-{{000..001}}.tar", cache=tmp_path / "kept")
    for _ in range(2):
        far = config.open()
        assert [far.record(i) for i in range(8)] == [local.record(i) for i in range(8)]
        assert [far.digest(i) for i in range(8)] == [local.digest(i) for i in range(8)]
    assert sorted(_Files.asked) == ["/part-000.tar", "/part-001.tar"]
    piped = WebDatasetData(shards=f"pipe:cat {tmp_path}/far/part-000.tar", cache=tmp_path / "kept").open()
    assert np.array_equal(piped.sample(2).image, local.sample(2).image)


def test_the_folder_of_fetched_shards_is_bounded_and_what_went_comes_again(tmp_path: Path, address: str) -> None:
    sizes = [shard(tmp_path / "far", number).stat().st_size for number in range(3)]
    config = WebDatasetData(
        shards=f"{address}/part-{{000..002}}.tar", cache=tmp_path / "kept", cache_gb=sum(sizes[:2]) / 1e9
    )
    far = config.open()
    for _ in range(2):
        for index in (0, 4, 8):
            far.sample(index)
            assert sum(file.stat().st_size for file in (tmp_path / "kept").glob("*.tar")) <= sum(sizes[:2])
    assert len(_Files.asked) > 3
    asked = len(_Files.asked)
    config.open().record(11)  # notes stay
    assert len(_Files.asked) == asked


def test_shards_that_cannot_be_fetched_are_named(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    shard(tmp_path / "far", 0)
    config = WebDatasetData(
        shards=(f"{address}/part-{{000..001}}.tar", "pipe:echo no such bucket >&2; exit 3"), cache=tmp_path / "kept"
    )
    dataset = config.open()
    reasons = [reason for _, reason in hints(dataset).skipped.values()]
    assert len(dataset) == 4
    assert "404" in reasons[0]
    assert "the command ended with 3: no such bucket" in reasons[1]
    for file in (tmp_path / "kept").glob("*.tar"):
        os.remove(file)
    (tmp_path / "far" / "part-000.tar").unlink()
    with pytest.raises(SampleError, match=r"cannot be fetched: .*404"):
        dataset.sample(0)


def test_shards_that_are_not_there_are_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^no shards at .*none-\*\.tar: no file is so named$"):
        WebDatasetData(shards=str(tmp_path / "none-*.tar")).open()
    with pytest.raises(ValueError, match=r"skipped: .*gone\.tar \(there is no such file\)$"):
        WebDatasetData(shards=str(tmp_path / "gone.tar")).open()


def write_parquet(path: Path, first: int, count: int, **more: list[object]) -> None:
    images = [{"bytes": encoded(noise(first + i)), "path": f"{first + i}.png"} for i in range(count)]
    texts = [f"picture {first + i}" for i in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, "text": texts, **more}), path, row_group_size=3)


def test_parquet_as_hugging_face_keeps_it(tmp_path: Path) -> None:
    import datasets

    folder = tmp_path / "data"
    write_parquet(folder / "train-00000-of-00002.parquet", 0, 7)
    write_parquet(folder / "train-00001-of-00002.parquet", 7, 4)
    write_parquet(folder / "test-00000-of-00001.parquet", 90, 2)
    ours = ParquetData(path=str(tmp_path), files="train-*.parquet").open()
    theirs = datasets.load_dataset(
        "parquet", data_files=str(folder / "train-*.parquet"), split="train", cache_dir=str(tmp_path / "hf")
    )
    theirs = theirs.cast_column("image", datasets.Image())
    assert len(ours) == len(theirs) == 11
    for index in (0, 6, 7, 10):
        sample = ours.sample(index)
        assert np.array_equal(sample.image[..., :3], np.asarray(theirs[index]["image"].convert("RGB")))
        assert sample.record.captions[0].text == theirs[index]["text"]
    assert list(hints(ours).blocks) == [0, 3, 6, 7, 10]
    train, kept = (
        ParquetData(path=str(tmp_path), files="train-*.parquet", held_out=0.4).open(s) for s in ("train", "heldout")
    )
    names = [{part.record(i).name for i in range(len(part))} for part in (train, kept)]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 11


def test_columns_of_parquet_are_named_in_the_recipe(tmp_path: Path) -> None:
    before = [{"bytes": encoded(noise(50 + i, 32, 32)), "path": None} for i in range(3)]
    write_parquet(tmp_path / "a.parquet", 0, 3, before=before, order=["blue", "red", None])
    dataset = ParquetData(path=str(tmp_path / "a.parquet"), inputs=("before",), captions=("order",)).open()
    record = dataset.record(1)
    assert record.inputs == ((32, 32),)
    assert [(caption.text, caption.kind) for caption in record.captions] == [("red", "order")]
    assert dataset.record(2).captions == ()
    with pytest.raises(ValueError, match="has no column picture; its columns are image, text, before, order"):
        ParquetData(path=str(tmp_path), image="picture").open()
    with pytest.raises(ValueError, match="no such file or folder"):
        ParquetData(path=str(tmp_path / "nowhere" / "x")).open()
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
    assert "no parquet file" in hints(ParquetData(path=str(tmp_path)).open()).skipped["b.parquet"][1]


def test_rows_without_a_picture_are_named(tmp_path: Path) -> None:
    images = [{"bytes": encoded(noise(1)), "path": None}, {"bytes": None, "path": None}, None]
    pq.write_table(pa.table({"image": images, "caption": ["a", "b", "c"]}), tmp_path / "a.parquet")
    _, report = survey(ParquetData(path=str(tmp_path)).open())
    assert report.used == 1
    assert {name: reason for name, (_, reason) in report.skipped.items()} == {
        "a.parquet:1": "the row holds no picture",
        "a.parquet:2": "the row holds no picture",
    }


def test_damaged_row_groups_are_named_and_the_others_read(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", 0, 3)
    write_parquet(tmp_path / "b.parquet", 3, 3)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    start = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(0).data_page_offset
    data[4 : start + 60] = b"\xff" * (start + 56)
    (tmp_path / "a.parquet").write_bytes(data)
    _, report = survey(ParquetData(path=str(tmp_path)).open())
    assert report.used == 3
    assert list(report.skipped) == ["a.parquet:0", "a.parquet:1", "a.parquet:2"]
    assert all(stage == "broken" and "row group is damaged" in why for stage, why in report.skipped.values())
