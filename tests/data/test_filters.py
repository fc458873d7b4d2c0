"""Filters: each refuses what it is for, by name and with a reason, and nothing else."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fourstroke.data.datasets.folder import FolderData
from fourstroke.data.filters import (
    CaptionFilter,
    DuplicateFilter,
    EntropyFilter,
    ScorerFilter,
    SizeFilter,
    dhash,
    entropy,
)
from fourstroke.data.survey import survey
from tests.data.pictures import noise


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good one, a small one, a long one, a copy in JPEG, a nearly blank one, and one without a caption."""
    for name, image in {
        "a.png": noise(1),
        "blank.png": Image.new("RGB", (64, 64), (250, 250, 250)),
        "copy.jpg": noise(1, 80, 80),
        "long.png": noise(2),
        "small.png": noise(3, 20, 64),
        "unsaid.png": noise(4),
    }.items():
        image.save(tmp_path / name)
        if name != "unsaid.png":
            (tmp_path / name).with_suffix(".txt").write_text("word " * (500 if name == "long.png" else 3))
    return tmp_path


@pytest.mark.parametrize("workers", [0, 1])
def test_every_stage_names_what_it_refuses(folder: Path, workers: int) -> None:
    filters = (
        SizeFilter(least=32),
        CaptionFilter(characters=1000),
        DuplicateFilter(distance=4),
        EntropyFilter(least=1.0),
    )
    dataset = FolderData(path=folder).open()
    found, report = survey(dataset, filters, captioned=True, workers=workers)
    assert [dataset.items[i].name for i in found[0].indices] == ["a.png"]
    assert {name: stage for name, (stage, _) in report.skipped.items()} == {
        "small.png": "size",
        "long.png": "caption",
        "unsaid.png": "caption",
        "copy.jpg": "duplicate",
        "blank.png": "entropy",
    }
    assert report.skipped["copy.jpg"][1] == "looks like a.png"
    assert report.counts == {"caption": 2, "size": 1, "duplicate": 1, "entropy": 1}
    assert str(report).startswith("1 samples, 5 skipped: caption 2 (")
    assert report.plain()["skipped"]["size"] == {"small.png": "20 x 64 pixels, less than 32 a side"}
    assert survey(dataset)[1].used == 6


def test_tokens_are_counted_by_a_tokenizer(folder: Path) -> None:
    tokenizer = Path(__file__).parents[2] / "models" / "micro" / "processor"
    _, report = survey(FolderData(path=folder).open(), (CaptionFilter(tokens=100, tokenizer=tokenizer),))
    assert list(report.skipped) == ["long.png"]
    assert "tokens" in report.skipped["long.png"][1]
    with pytest.raises(ValueError, match="tokens needs the folder of a tokenizer"):
        CaptionFilter(tokens=3)


def test_hashes_survive_scaling_and_tell_pictures_apart() -> None:
    base = np.asarray(noise(7, 128, 96).convert("RGBA"))
    small = np.asarray(noise(7, 64, 48).convert("RGBA"))
    other = np.asarray(noise(8, 128, 96).convert("RGBA"))
    assert (dhash(base) ^ dhash(small)).bit_count() <= 2
    assert (dhash(base) ^ dhash(other)).bit_count() > 10


@pytest.mark.parametrize("distance", [0, 3, 10])
def test_duplicates_are_found_up_to_the_distance_and_no_further(distance: int) -> None:
    rng, value = np.random.default_rng(distance), 0x0123456789ABCDEF
    for trial in range(50):
        bits = rng.permutation(64)[: distance + trial % 2]
        other = value ^ sum(1 << int(bit) for bit in bits)
        opened = DuplicateFilter(distance=distance).open()
        assert opened.judge("first", value) is None
        assert (opened.judge("second", other) is not None) == (trial % 2 == 0)


def test_entropy_is_that_of_the_grey_levels() -> None:
    four = np.repeat(np.array([0, 80, 160, 255], np.uint8), 16).reshape(8, 8, 1).repeat(4, 2)
    four[..., 3] = 255
    assert entropy(four) == pytest.approx(2.0)
    assert entropy(np.zeros((8, 8, 4), np.uint8)) == 0


class _Scorer(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        score = 0.0 if "word word word" in body["captions"] else 9.0
        answer = json.dumps({"score": score} if self.path == "/score" else {"points": score}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def scorer() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Scorer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_scorer_is_asked_by_http(folder: Path, scorer: str) -> None:
    dataset = FolderData(path=folder).open()
    found, report = survey(dataset, (ScorerFilter(url=f"{scorer}/score", least=5.0),))
    assert [dataset.items[i].name for i in found[0].indices] == ["long.png", "unsaid.png"]
    assert report.skipped["a.png"] == ("scorer", "scored 0")
    with pytest.raises(ValueError, match="does not answer"):
        survey(dataset, (ScorerFilter(url=f"{scorer}/other", least=5.0),))
