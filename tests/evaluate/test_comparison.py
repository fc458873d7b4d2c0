"""Folders side by side: only what all have is compared, and the page shows it, whoever drew."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from fourstroke.cli import main
from fourstroke.evaluate.compare_command import Compare
from fourstroke.evaluate.comparison import compare, read_entries
from fourstroke.evaluate.drawn import DrawnPicture, append, append_row

PROMPTS = ["a cat", "a dog <b>", "a fish", "a tree"]


def _folder(root: Path, name: str, good: float, listed: bool = True) -> Path:
    """Two seeds of four prompts, scored `good` and a little more with each prompt."""
    for number, prompt in enumerate(PROMPTS):
        for repeat in range(2):
            file = f"{number}/{repeat}.png"
            (root / name / str(number)).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30), (number * 60, repeat * 90, 0)).save(root / name / file)
            if listed:
                row = DrawnPicture(file=file, id=f"p{number}", prompt=prompt, seed=1000 * number + repeat, model="m",
                                   steps=4, guidance=1.0)  # fmt: skip
                append(root / name, row)
            scores = {"score": good + 0.1 * number, "flat_noise": good, "contrast": good}
            append_row(root / name / "scores/vqa.jsonl", {"file": file, "scores": scores})
    return root / name


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [_folder(tmp_path, "a", 0.2), _folder(tmp_path, "b", 0.5), _folder(tmp_path, "c", 0.1, listed=False)]


def _score(found: dict, name: str) -> dict:
    return next(row for row in found["scores"] if row["score"] == name)


def test_figures_are_of_the_same_prompts(folders: list[Path]) -> None:
    found = compare(read_entries(folders))
    row = _score(found, "score")
    assert [round(mean["value"], 9) for mean in row["means"]] == [0.35, 0.65, 0.25]
    assert row["differences"][1][0]["value"] == pytest.approx(0.3)
    assert [row["wins"][1][0]["value"], row["wins"][0][1]["value"], row["wins"][0][0]] == [1.0, 0.0, None]
    assert _score(found, "flat_noise")["wins"][1][0]["value"] == 0.0
    assert _score(found, "contrast")["wins"][1][0] is None
    assert (row["pictures"], found["prompts"]) == (8, 4)


def test_what_one_has_lost_counts_for_none(folders: list[Path]) -> None:
    (folders[0] / "0/0.png").unlink()
    (folders[0] / "3/0.png").write_bytes(b"no picture")
    (folders[0] / "3/1.png").unlink()
    (folders[1] / "1/0.png").unlink()
    found = compare(read_entries(folders))
    assert [entry["lost"] for entry in found["entries"]] == [3, 1, 0]
    assert (_score(found, "score")["pictures"], found["prompts"]) == (4, 3)
    assert round(_score(found, "score")["means"][1]["value"], 9) == 0.6


def test_pictures_of_others_are_matched_by_their_place(folders: list[Path]) -> None:
    entries = read_entries(folders)
    assert entries[2].pictures.keys() == entries[0].pictures.keys()
    assert entries[2].pictures[("p2", 1)].file == "2/1.png"


def test_a_judge_that_one_has_not_met_leaves_a_gap(folders: list[Path]) -> None:
    append_row(folders[1] / "scores/ocr.jsonl", {"file": "0/0.png", "scores": {"ned": 0.5}})
    (folders[1] / "scores/fid.json").write_text('{"totals": {"fid": {"value": 12.5}, "x": {"value": 1, "low": 0}}}')
    found = compare(read_entries(folders))
    assert _score(found, "ned")["means"][0] is None
    assert found["totals"] == [{"judge": "fid", "score": "fid", "better": "lower", "values": [None, 12.5, None]}]


def test_a_score_without_a_picture_in_common_says_so(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, file in zip(folders, ("0/0.png", "1/0.png", "2/0.png"), strict=True):
        append_row(folder / "scores/ocr.jsonl", {"file": file, "scores": {"ned": 0.5}})
    out = tmp_path / "page.html"
    assert main(["eval", "compare", *map(str, folders), "--out", str(out)]) == 0
    assert "ocr/ned: no judged picture in common\n" in capsys.readouterr().out
    assert out.read_text(encoding="utf-8").count(">no judged picture in common<") == 3
    row = _score(json.loads((tmp_path / "page.json").read_text()), "ned")
    assert (row["pictures"], row["means"]) == (0, [None] * 3)


class _Page(HTMLParser):
    """Tags must close in order; pictures and words are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_stands_alone(folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    assert main(["eval", "compare", *map(str, folders), "--out", str(out), "--show", "2", "--seeds", "1"]) == 0
    assert "vqa/score: a 0.35 (" in capsys.readouterr().out
    text = out.read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert len(page.images) == 2 * 3
    assert all(src.startswith("data:image/webp;base64,") for src in page.images)
    assert not re.search(r"(src|href)=.?(http|/|\.)", text)
    assert "2 of 4 prompts" in page.words
    assert "against a: +0.3 (+0.3 to +0.3) · wins 100 %" in page.words
    assert json.loads((tmp_path / "page.json").read_text())["prompts"] == 4


def test_words_of_prompts_are_no_markup(folders: list[Path], tmp_path: Path) -> None:
    Compare(entries=tuple(map(str, folders)), out=tmp_path / "page.html").run(None, None)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "a dog &lt;b&gt;" in text
    assert "a dog <b>" not in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a", "b", "--model", "m"], "leave --model out"),
        (["a", "nowhere"], "nowhere is no folder of drawn pictures; to draw with it as a model, name a --suite"),
        (["a", "a"], "the same folder is named twice"),
        (["a", "empty"], "holds no drawn picture"),
        (["a", "other"], "have no prompt in common"),
        (["a", "--out", "p.json"], "name the page, such as p.html"),
        (["a", "b", "--suite", "gone.txt", "--n", "0"], "n=0: it must be a whole number"),
    ],
)
def test_what_cannot_be_compared_is_one_line(words, said, folders, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "other/x.png")
    assert main(["eval", "compare", *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "compare.html").exists()
