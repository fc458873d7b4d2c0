"""Every suite is read in its true format, drawn, and laid out as its official scorer walks it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fourstroke.evaluate.drawn import read_drawn
from fourstroke.evaluate.suites.kinds import Prompts
from fourstroke.evaluate.suites.suite import Wanted, find_suite, read_suite
from fourstroke.pipeline import Pipeline
from fourstroke.registry import kinds
from tests.evaluate.suites import downloads

EDITS = "gedit", "imgedit"


def _draw(suite: str, source: Path | None, out: Path, **rest) -> dict:
    return Prompts(suite=suite, source=source, out=out, steps=1, batch=16, **rest).run("micro", "cpu")


def test_every_suite_has_a_download_here() -> None:
    assert kinds("suites").keys() == downloads.SUITES.keys() | {"world"}


@pytest.mark.parametrize("name", downloads.SUITES)
def test_a_suite_is_drawn_as_its_scorer_walks_it(name: str, loaded: Pipeline, tmp_path: Path) -> None:
    download, walk, expected = downloads.SUITES[name]
    source = tmp_path / "download"
    source.mkdir()
    download(source)
    told = _draw(name, source, tmp_path / "out", repeats=3 if name == "compbench" else None)  # of 10
    found = walk(tmp_path / "out")
    assert {prompt: len(pictures) for prompt, pictures in found.items()} == expected
    if name not in EDITS:  # whose size is that of the picture before
        assert {size for pictures in found.values() for size in pictures} == {(128, 128)}
    rows = read_drawn(tmp_path / "out")
    assert len({row.seed for row in rows}) == len(rows) == told["folders"][str(tmp_path / "out")]["pictures"]
    assert {row.suite for row in rows} == {name}
    assert all(row.path.is_file() and all(path.is_file() for path in row.input_paths) for row in rows)
    assert len({row.id for row in rows}) == len(read_suite(find_suite(name)[0], Wanted(source=source)).prompts)
    assert str(tmp_path / "out") in told["scorer"][str(tmp_path / "out")]


def test_questions_and_words_go_with_the_pictures(loaded: Pipeline, tmp_path: Path) -> None:
    downloads.oneig(tmp_path)
    read = read_suite(find_suite("oneig")[0], Wanted(source=tmp_path)).prompts
    expected = [
        {"id": 1, "question": "A kettle?", "dependency": []},
        {"id": 2, "question": "Blue?", "dependency": [1]},
    ]
    assert read[0][1].meta["questions"] == expected
    assert read[1][1].meta["text"] == "tea"
    downloads.dpg(tmp_path)
    questions = read_suite(find_suite("dpg")[0], Wanted(source=tmp_path)).prompts[0][1].meta["questions"]
    assert [(row["id"], row["dependency"]) for row in questions] == [(1, []), (2, [1])]


def test_the_other_language_is_read_where_there_is_one(tmp_path: Path) -> None:
    downloads.oneig(tmp_path)
    downloads.gedit(tmp_path)
    downloads.qwen_image_bench(tmp_path)
    for name, count in (("oneig", 1), ("gedit", 1), ("qwen_image_bench", 2)):
        read = read_suite(find_suite(name)[0], Wanted(source=tmp_path, language="zh"))
        assert len(read.prompts) == count
    assert read.prompts[0][1].text == "一只猫"


def test_further_seeds_of_a_suite_of_one_picture_are_layouts_of_their_own(loaded: Pipeline, tmp_path: Path) -> None:
    downloads.cvtg(tmp_path / "download")
    _draw("cvtg", tmp_path / "download", tmp_path / "out", repeats=2)
    assert downloads.cvtg_walk(tmp_path / "out").keys() == downloads.cvtg_walk(tmp_path / "out/repeat-1").keys()


def test_the_world_needs_no_download(loaded: Pipeline, tmp_path: Path) -> None:
    _draw("world", None, tmp_path / "out", n=3)
    rows = read_drawn(tmp_path / "out")
    assert [row.id for row in rows] == ["0", "1", "2"]
    assert all("objects" in row.meta["scene"] for row in rows)


def test_a_part_is_taken_evenly_and_keeps_its_seeds(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("".join(f"a cat, {number}\n" for number in range(10)))
    suite, _ = find_suite(str(tmp_path / "p.txt"))
    part = read_suite(suite, Wanted(source=tmp_path / "p.txt", n=3)).prompts
    assert [number for number, _ in part] == [0, 3, 6]


def _text(name: str, text: bytes) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text)
        return root

    return write


@pytest.mark.parametrize(
    ("suite", "write", "said"),
    [
        ("geneval", lambda root: None, "is read from its download: name that with --source"),
        ("geneval", lambda root: root / "gone", "gone is not there"),
        ("geneval", lambda root: root, "has no prompts/evaluation_metadata.jsonl and no .*: is it GenEval"),
        ("geneval", _text("evaluation_metadata.jsonl", b"{}\n"), r"nothing to draw .* \(1 rows: no prompt\)"),
        ("geneval", _text("evaluation_metadata.jsonl", b"[1]\n"), "line 1 is no JSON object"),
        ("geneval", _text("evaluation_metadata.jsonl", '{"prompt": "ä"}'.encode("latin-1")), "is not UTF-8"),
        ("geneval", _text("evaluation_metadata.jsonl", "{}".encode("utf-16")), "is UTF-16; save it as UTF-8"),
        ("oneig", _text("OneIG-Bench.csv", b"category,id,prompt\nPortrait,1,a\n"), "has no column prompt_en; it has"),
        ("oneig", _text("OneIG-Bench.csv", b"category,id,prompt_en\nNew,000,a\n"), "1 rows: no id"),
        ("dpg", _text("dpg_bench/prompts/1.txt", "ä".encode("latin-1")), "is not UTF-8, from byte 1 on"),
        ("compbench", _text("examples/dataset/other.txt", b"a cat\n"), "has no color_val.txt"),
        ("cvtg", _text("CVTG/2.json", b"[]"), "has no data_list: is it CVTG-2K, of this version"),
        ("longtext", _text("text_prompts.jsonl", b'{"prompt": "a"}\n'), "1 rows: no id"),
        ("gedit", _text("data/a.parquet", b"no table"), "is no parquet file that can be read"),
        ("gedit", _text("data/a.txt", b""), "has no parquet file"),
        ("imgedit", _text("basic_edit.json", b"[]"), "is no object of edits by key"),
        ("imgedit", _text("basic_edit.json", b'{"1": {"id": "a.jpg", "prompt": "x"}}'), "none of the pictures of"),
        ("lines", _text("prompts.txt", b"\n \n"), "it is empty"),
        ("nothing", lambda root: root, "there is no 'nothing' among the suites"),
        ("gone.txt", lambda root: root, "there is no file of prompts gone.txt"),
    ],
)
def test_what_cannot_be_read_is_one_line(suite: str, write: Callable[[Path], Path], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said) as told:
        read_suite(find_suite(suite)[0], Wanted(source=write(tmp_path)))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "\ufeffa cat\n\n  a dog \r\na cat\n"),
        ("p.csv", "\ufeffid,prompt\n,a cat\n,a dog\n,\n,a cat\n"),
        ("p.tsv", "caption\tother\na cat\tx\na dog\ty\n"),
        ("p.json", '["a cat", {"text": "a dog"}]'),
        ("p.jsonl", '{"rich": "a cat"}\n\n{"prompt": "a dog"}\n{"prompt": ""}\n{"prompt": "a cat"}\n'),
    ],
)
def test_plain_files_are_read(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    suite, file = find_suite(str(tmp_path / name))
    assert [prompt.text for _, prompt in read_suite(suite, Wanted(source=file)).prompts] == ["a cat", "a dog"]


def test_pictures_to_edit_are_relative_to_their_file(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "make it red", "images": ["a.png"]}))
    suite, file = find_suite(str(tmp_path / "p.jsonl"))
    assert read_suite(suite, Wanted(source=file)).prompts[0][1].inputs == (str(tmp_path / "a.png"),)
