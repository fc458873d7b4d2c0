"""Folders of drawn pictures: rows come back as they were written, whoever writes at once and whatever a kill leaves."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path

import pytest
from PIL import Image

from fourstroke.evaluate import drawn
from fourstroke.evaluate.drawn import DrawnPicture, append, append_row, read_drawn, read_scores
from fourstroke.image_io import ImageError


def _row(index: int, **rest) -> DrawnPicture:
    return DrawnPicture(**({"file": f"{index:05d}/a.png", "id": str(index), "prompt": "a cat", "seed": index} | rest))


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    full = _row(2, prompt="eine rote Kuh", asked="Kuh", inputs=("in.png", "/x/y.png"), suite="s", model="m", steps=4,
                guidance=1.5, meta={"tags": ["a"], "q": {"1": "ü?"}})  # fmt: skip
    append(tmp_path, full)
    append(tmp_path, _row(1))
    read = read_drawn(tmp_path)
    assert read == [_row(1), full]
    assert read[1].path == tmp_path / "00002/a.png"
    assert (read[0].wanted, read[1].wanted) == ("a cat", "Kuh")
    assert "asked" not in (tmp_path / "pictures.jsonl").read_text().splitlines()[1]


def test_of_two_rows_of_a_file_the_last_counts(tmp_path: Path) -> None:
    append(tmp_path, _row(1))
    append(tmp_path, _row(1, prompt="a dog"))
    assert [picture.prompt for picture in read_drawn(tmp_path)] == ["a dog"]


def test_half_a_row_is_passed_over_and_cut_off(tmp_path: Path) -> None:
    append(tmp_path, _row(1))
    with (tmp_path / "pictures.jsonl").open("a") as file:
        file.write('{"file": "00002/a.png", "id": ')
    assert len(read_drawn(tmp_path)) == 1
    append(tmp_path, _row(3))
    assert [picture.id for picture in read_drawn(tmp_path)] == ["1", "3"]


def _write(folder: Path, first: int) -> None:
    for index in range(first, first + 40):
        append(folder, _row(index, prompt="cat " * index))


def _in_halves(file: Path, line: str) -> None:
    """As a file system far away may write."""
    data = (line + "\n").encode()
    with file.open("ab", buffering=0) as out:
        for half in (data[:20], data[20:]):
            out.write(half)
            time.sleep(0.001)


def test_processes_write_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn, "append_line", _in_halves)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write, args=(tmp_path, 40 * number)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [picture.seed for picture in read_drawn(tmp_path)] == list(range(120))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": "1", "prompt": "a"}, "line 2 has no 'file'"),
        ({"file": "a.png", "id": 1, "prompt": "a"}, "another thing than text"),
        ({"file": "a.png", "id": "1", "prompt": "a", "seed": "x"}, "another thing than a number"),
        ({"file": "../a.png", "id": "1", "prompt": "a"}, "outside the folder"),
        ({"file": "a.png", "id": "1", "prompt": "a", "inputs": "b"}, "no list of files"),
        ({"file": "a.png", "id": "1", "prompt": "a", "meta": []}, "'meta' that is no object"),
        ([], "line 2 is no JSON object"),
    ],
)
def test_a_wrong_row_is_named(row, said: str, tmp_path: Path) -> None:
    append(tmp_path, _row(1))
    append_row(tmp_path / "pictures.jsonl", row)
    with pytest.raises(ValueError, match=said):
        read_drawn(tmp_path)


def test_a_plain_folder_is_read_with_and_without_captions(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg", "sub/c.png", "same.png", "same.jpg", "scores/no.png", "inputs/no.png", ".x/no.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa cat \n")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    read = {picture.file: picture for picture in read_drawn(tmp_path)}
    assert list(read) == ["a.png", "b.jpg", "broken.png", "same.jpg", "same.png", "sub/c.png"]
    assert [read["a.png"].prompt, read["b.jpg"].prompt] == ["a cat", ""]
    assert [read["sub/c.png"].id, read["same.png"].id] == ["sub/c", "same.png"]
    assert read["a.png"].open().size == (4, 4)
    with pytest.raises(ImageError):
        read["broken.png"].open()


def test_the_note_of_our_own_pngs_is_read(tmp_path: Path) -> None:
    from fourstroke.pictures import write_pictures
    from fourstroke.pipeline import Output

    list(write_pictures(Output([Image.new("RGB", (4, 4))], ["a red cat"], [7]), tmp_path, "micro"))
    (picture,) = read_drawn(tmp_path)
    assert (picture.prompt, picture.seed, picture.model) == ("a red cat", 7, "micro")


def test_inputs_are_found_here_or_in_the_download(tmp_path: Path) -> None:
    folder, download = tmp_path / "out", tmp_path / "download"
    for place in (folder, download):
        place.mkdir()
    (folder / "here.png").touch()
    (download / "there.png").touch()
    (folder / "recipe.json").write_text(json.dumps({"source": str(download)}))
    append(folder, _row(1, inputs=("here.png", "there.png", str(tmp_path / "x.png"), "gone.png")))
    (picture,) = read_drawn(folder)
    expected = folder / "here.png", download / "there.png", tmp_path / "x.png", folder / "gone.png"
    assert picture.input_paths == expected


@pytest.mark.parametrize(("name", "said"), [("gone", "there is no folder"), ("", "holds no drawn picture")])
def test_a_folder_without_pictures_is_one_line(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        read_drawn(tmp_path / name)


def test_scores_are_read_by_judge_and_file(tmp_path: Path) -> None:
    file = tmp_path / "scores" / "ocr.jsonl"
    for scores in ({"ned": 0.5}, {"ned": 0.25, "words": True, "note": "x", "bad": float("nan")}):
        append_row(file, {"file": "a.png", "scores": scores})
    assert read_scores(tmp_path) == {"ocr": {"a.png": {"ned": 0.25, "words": 1.0}}}
    append_row(file, {"scores": {}})
    with pytest.raises(ValueError, match="line 3 has no 'file'"):
        read_scores(tmp_path)
