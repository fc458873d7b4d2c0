"""A report is one page that stands alone; what is drawn and judged is kept, and never done twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from fourstroke import registry
from fourstroke.cli import main
from fourstroke.evaluate import models
from fourstroke.evaluate.models import copies
from fourstroke.evaluate.report.chapter import ALL, Contrast, LeftOutError, Question, summarise
from fourstroke.evaluate.report.command import ReportCommand
from fourstroke.evaluate.report.page import CEILING, _difference, _kept, page, read_logs
from fourstroke.evaluate.report.report import make_report, open_report
from fourstroke.evaluate.report.runner import Column
from fourstroke.pipeline import Pipeline

DATA = "kind: leaves\nsize: 32\nsamples: 4\n"


def brightness(pictures: Sequence[np.ndarray]) -> dict[str, tuple[float, float]]:
    return {"mean": (float(pictures[0].mean()) / 255, 1), "bright": (float(pictures[0].mean() > 128), 1)}


@dataclass(frozen=True, kw_only=True)
class Greys:
    kind: ClassVar[str] = "greys"
    title: ClassVar[str] = "How bright"
    about: ClassVar[str] = "Means of pixels."
    units: ClassVar[dict[str, str]] = {"mean": ""}

    def rows(self, data, n, info):
        prompts = ["a <b>cat</b>", *(f"a red circle {number}" for number in range(n - 1))]
        asked = [
            Question(prompt=prompt, judge=brightness, judged="greys", size=(32, 32), seeds=(seed,))
            for seed, prompt in enumerate(prompts)
        ]
        return {ALL: asked, "the first": asked[:1]}


@dataclass(frozen=True, kw_only=True)
class Nothing(Greys):
    kind: ClassVar[str] = "nothing"
    title: ClassVar[str] = "Colours & sounds"

    def rows(self, data, n, info):
        raise LeftOutError("there is <nothing> to hear")


@dataclass(frozen=True, kw_only=True)
class Whites(Greys):
    """White stickers are asked for."""

    kind: ClassVar[str] = "whites"

    def rows(self, data, n, info):
        white = np.full((32, 32, 4), 255, np.uint8)
        rows = super().rows(data, n, info)
        known = {id(q): replace(q, transparent=True, truth=lambda: white) for q in rows[ALL]}
        return {name: [known[id(q)] for q in row] for name, row in rows.items()} | {"others": rows[ALL][:1]}


@dataclass(frozen=True, kw_only=True)
class Halves(Greys):
    """The same prompts in two rows, from other noise."""

    kind: ClassVar[str] = "halves"
    contrasts: ClassVar[tuple[Contrast, ...]] = (
        Contrast(ours="second", theirs="first"),
        Contrast(ours="second", theirs="none"),
    )
    bars: ClassVar[dict[str, float]] = {"mean": 0.97}

    def rows(self, data, n, info):
        (first, *_) = super().rows(data, n, info).values()
        return {"first": first, "second": [replace(question, seeds=(question.seeds[0] + 100,)) for question in first]}


@pytest.fixture(autouse=True)
def _offered(monkeypatch):
    for kind in (Greys, Whites, Halves, Nothing):
        monkeypatch.setitem(registry._offered["chapters"], kind.kind, f"{__name__}:{kind.__name__}")


@pytest.fixture
def drawn(monkeypatch) -> list[str]:
    """The prompts that pipelines are asked for."""
    seen: list[str] = []
    call = Pipeline.__call__

    def counting(self, prompt, **options):
        seen.extend(prompt)
        return call(self, prompt, **options)

    monkeypatch.setattr(Pipeline, "__call__", counting)
    return seen


def opened(tiny_folder, folder, steps=(None,), n=5, batch=2):
    columns = [Column(model=str(tiny_folder), steps=count) for count in steps]
    return open_report(columns, [Greys(), Nothing()], None, n, folder, batch)


def test_a_run_that_was_interrupted_goes_on_and_comes_to_the_same(tiny_folder, tmp_path, drawn, monkeypatch):
    whole = opened(tiny_folder, tmp_path / "whole")
    make_report(whole, lambda report: None)
    assert len(drawn) == 5
    judged, rested = [], brightness

    def tired(pictures):
        judged.append(1)
        if len(judged) == 3:
            raise KeyboardInterrupt
        return rested(pictures)

    monkeypatch.setattr(f"{__name__}.brightness", tired)
    drawn.clear()
    for batch in (4, 3):
        report = opened(tiny_folder, tmp_path / "parts", batch=batch)
        try:
            make_report(report, lambda report: None)
        except KeyboardInterrupt:
            assert not report.done
            assert "Unfinished: 1 chapters" in page(report, {}, 2)
    assert len(drawn) == 5
    assert len(judged) == 6  # the one that was not noted is judged again
    assert report.plain()["chapters"] == whole.plain()["chapters"]
    monkeypatch.setattr(f"{__name__}.brightness", lambda pictures: pytest.fail("it was judged before"))
    again = opened(tiny_folder, tmp_path / "parts")
    make_report(again, lambda report: None)
    assert again.plain()["chapters"] == whole.plain()["chapters"]
    assert again.done


def test_pictures_are_those_of_the_pipeline_whatever_the_batch(tiny_folder, tiny, tmp_path):
    report = opened(tiny_folder, tmp_path, n=3, batch=3)
    make_report(report, lambda report: None)
    question = report.parts[0].questions[2]
    expected = tiny(question.prompt, seed=2, width=32, height=32).images[0]
    (found,) = report.runners[0].pictures(question)
    assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 1


def test_other_weights_and_other_steps_are_other_pictures(tiny_folder, tmp_path, drawn):
    make_report(opened(tiny_folder, tmp_path, n=2), lambda report: None)
    both = opened(tiny_folder, tmp_path, steps=(None, 2), n=2)
    make_report(both, lambda report: None)
    assert len(drawn) == 4
    text = page(both, {}, 1)
    assert "tiny, 3 steps" in text
    assert "tiny, 2 steps" in text
    with pytest.raises(ValueError, match="two of the models are the same"):
        opened(tiny_folder, tmp_path, steps=(None, 3))
    other = shutil.copytree(tiny_folder, tmp_path / "tiny")
    column = Column(model=str(tiny_folder))
    assert Column(model=str(other)).key == column.key  # the same weights elsewhere are the same model
    weights = next((other / "transformer").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-4] + b"seed")
    assert Column(model=str(other)).key != column.key


def test_the_autoencoder_shows_what_models_could_reach(tiny_folder, tiny, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(models, "copies", lambda *given: made.append(given) or copies(*given))
    columns = [Column(model=str(tiny_folder), steps=steps) for steps in (None, 2)]
    report = open_report(columns, [Whites()], None, 3, tmp_path)
    make_report(report, lambda report: None)
    assert [len(pictures) for _, pictures in made] == [3]  # both models have the same autoencoder
    (copy,) = copies(tiny.autoencoder, [np.full((32, 32, 4), 255, np.uint8)])
    for found in report.parts[0].found:
        assert found[ALL]["ceiling"]["mean"]["value"] == pytest.approx(brightness([copy])["mean"][0])
        assert found["the first"]["ceiling"]["mean"]["count"] == 1
        assert "ceiling" not in found["others"]
    text = page(report, {}, 1)
    assert text.count(CEILING) == 2
    assert text.index("tiny, 3 steps</td>") < text.index("tiny, 2 steps</td>") < text.index(CEILING)
    report.parts[0].found[1][ALL]["ceiling"] = {}
    assert page(report, {}, 1).count(CEILING) == 2  # now below the first model
    alone = open_report(columns[:1], [Whites()], None, 3, tmp_path)
    assert not alone.runners[0].waiting(alone.parts[0].questions)
    make_report(alone, lambda report: None)
    assert len(made) == 1
    assert page(alone, {}, 1).count(CEILING) == 2


def test_rows_and_models_are_compared(tiny_folder, tmp_path):
    columns = [Column(model=str(tiny_folder), steps=steps) for steps in (1, 3)]
    report = open_report(columns, [Halves(), Greys()], None, 4, tmp_path)
    make_report(report, lambda report: None)
    part, other = report.parts
    means = [{name: row["readings"]["mean"]["value"] for name, row in found.items()} for found in part.found]
    told = [(each["ours"], each["theirs"], "bars" in each) for each in part.differences]
    student, teacher = (column.name for column in columns)
    rows, models = ("second", "first", False), [(student, teacher, False), (student, teacher, True)] * 2
    assert told == [rows, rows, *models]
    values = [each["readings"]["mean"] for each in part.differences]
    for found, mean in zip(values[:2], means, strict=True):
        assert found["value"] == pytest.approx(mean["second"] - mean["first"])
    for row, (gap, kept) in zip(("first", "second"), (values[2:4], values[4:]), strict=True):
        assert gap["value"] == pytest.approx(means[0][row] - means[1][row])
        assert kept["value"] == pytest.approx(means[0][row] / means[1][row])
        assert kept["low"] <= kept["value"] <= kept["high"]
    assert [(each["row"], "bars" in each) for each in other.differences] == [(ALL, False)]  # of all alone
    assert report.plain()["chapters"][0]["differences"] == part.differences
    text = page(report, {}, 1)
    assert f"second minus first<i>{student}, 4 prompts</i>" in text
    assert f"{student} as a share of {teacher}<i>first, 4 prompts</i>" in text
    assert f"<b>{values[0]['value']:+.3f}</b> <i>{values[0]['low']:+.3f} to {values[0]['high']:+.3f}</i>" in text
    assert f"{100 * values[3]['value']:.1f} %</b>" in text
    assert "at least 97 is asked" in text


def test_a_share_below_its_bar_is_marked():
    value = {"value": 0.96, "low": 0.9, "high": 1.01, "count": 9}
    assert _kept(value, 0.97) == '<td><b class="bad">96.0 %</b> <i>90.0 to 101.0, at least 97 is asked</i></td>'
    assert 'class="good"' in _kept(value, 0.96)
    assert _difference(value, "%") == "<td><b>+96.0 points</b> <i>+90.0 to +101.0</i></td>"
    assert _difference({**value, "value": -0.5}, "dB").startswith("<td><b>-0.5 dB</b>")


def test_the_page_stands_alone_and_says_what_is_left_out(tiny_folder, tmp_path, capsys):
    (tmp_path / "data.yaml").write_text(DATA)
    run = tmp_path / "dit"
    run.mkdir()
    (run / "log.jsonl").write_text("".join(json.dumps({"step": step, "loss": 1 / step}) + "\n" for step in (1, 2, 3)))
    words = ["eval", "report", str(tiny_folder), "--data", str(tmp_path / "data.yaml"), "--n", "3", "--show", "2"]
    chosen = [f"--chapter={name}" for name in ("greys", "nothing", "reconstruction", "variety")]
    out = tmp_path / "out" / "page.html"
    assert main([*words, *chosen, "--log", str(run), "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["page"] == str(out)
    text = out.read_text(encoding="utf-8")
    assert "a &lt;b&gt;cat&lt;/b&gt;" in text
    assert "<b>cat" not in text
    assert "http" not in text
    assert text.count("data:image/webp;base64") > 4
    assert "there is &lt;nothing&gt; to hear" in text
    assert "no dataset has captions" in text
    assert "loss" in text
    assert "Unfinished" not in text
    found = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert found["done"] is True
    chapters = {chapter["kind"]: chapter["models"][0] for chapter in found["chapters"]}
    mean = chapters["greys"]["all"]["readings"]["mean"]
    assert mean["low"] <= mean["value"] <= mean["high"]
    assert mean["count"] == 3
    assert chapters["greys"]["the first"]["questions"] == 1
    assert 0 < chapters["reconstruction"]["leaves"]["readings"]["psnr"]["value"] < 60
    assert found["left_out"]["Colours & sounds"] == "there is <nothing> to hear"
    assert found["models"][0]["seconds_per_picture"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--beside", "x:steps"], "no model at x:steps"),
        (["--beside", "x:step=4"], "unknown key 'step'; did you mean 'steps'?"),
        (["--chapter", "grey"], "did you mean 'greys'?"),
        (["--log", "nowhere"], "has no log.jsonl"),
        (["--model", "micro"], "leave --model out"),
        (["--out", "x.json"], "name the page, such as x.html"),
        (["--chapter", "nothing"], "nothing to report: there is <nothing> to hear"),
    ],
)
def test_what_cannot_be_is_one_line(words, said, tiny_folder, tmp_path, capsys):
    (tmp_path / "data.yaml").write_text(DATA)
    options = ["--data", str(tmp_path / "data.yaml"), "--n", "1"]
    assert main(["eval", "report", str(tiny_folder), *options, "--out", str(tmp_path / "r.html"), *words]) == 2
    _, err = capsys.readouterr()
    assert said in err
    assert err.count("\n") == 1


def test_a_column_is_named_with_its_options():
    command = ReportCommand(of="micro", beside=("micro:steps=40,guidance=2",))
    (column,) = map(command._beside, command.beside)
    assert (column.model, column.steps, column.guidance) == ("micro", 40, 2.0)
    assert column.name == "micro, 40 steps, guidance 2"


def test_shares_count_things_and_means_count_questions():
    found = summarise([{"objects": (1, 2), "psnr": (30.0, 1)}, {"objects": (4, 4)}, {"psnr": (40.0, 1)}])
    assert (found["objects"].value, found["objects"].count) == (5 / 6, 6)
    assert found["psnr"].value == 35
    assert summarise([{"words": (0, 0)}]) == {}


def test_a_log_is_a_run_or_a_file(tmp_path):
    rows = [{"step": 1, "loss": 2.0}, {"step": 1, "scores": {"psnr": 20.0}}]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for place in (tmp_path, tmp_path / "log.jsonl"):
        assert read_logs([place]) == {tmp_path.name: {"psnr": [(1, 20.0)], "loss": [(1, 2.0)]}}
