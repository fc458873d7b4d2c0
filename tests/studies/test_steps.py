"""The study of steps: a tiny one writes its page, and goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

MODEL = Path(__file__).parents[2] / "models" / "micro"


@pytest.mark.filterwarnings("ignore:Mean of empty slice")  # two prompts may ask for no relation
def test_a_study_that_was_stopped_keeps_its_rows(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    import steps

    def two(teacher, student, guidance):
        assert guidance == 2.0
        return [
            steps.Setting(name="teacher, 4 steps", pipe=teacher, steps=4, guidance=1.0),
            steps.Setting(name="student, 1 step", pipe=steps.with_steps(student, 1), steps=1, guidance=1.0),
        ]

    monkeypatch.setattr(steps, "settings", two)
    monkeypatch.setattr(steps, "ROUNDS", 1)
    monkeypatch.setattr(steps, "SHEET_PROMPTS", 2)
    words = ["--teacher", str(MODEL), "--student", str(MODEL), "--n", "2", "--diversity", "1", "--device", "cpu"]
    words += ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "steps")]
    measured, measure = [], steps.measure

    def stopped(setting, *rest):
        if measured:
            raise KeyboardInterrupt
        measured.append(setting.name)
        return measure(setting, *rest)

    monkeypatch.setattr(steps, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        steps.main(words)
    (kept,) = (tmp_path / "runs").rglob("teacher, 4 steps.json")
    first = json.loads(kept.read_text())

    def second(setting, *rest):
        measured.append(setting.name)
        return measure(setting, *rest)

    monkeypatch.setattr(steps, "measure", second)
    monkeypatch.setattr(steps, "times", lambda *_: pytest.fail("the pictures were timed again"))
    steps.main(words)
    assert measured == ["teacher, 4 steps", "student, 1 step"]
    rows = json.loads((tmp_path / "steps.json").read_text())["rows"]
    assert [row["kept"] is None for row in rows] == [True, False]
    assert first.items() <= rows[0].items()
    assert "| student, 1 step | 1 |" in (tmp_path / "steps.md").read_text()
    assert (tmp_path / "steps-sheet.jpg").stat().st_size > 5_000
    monkeypatch.setattr(steps, "times", lambda chosen, _: dict.fromkeys((setting.name for setting in chosen), 1.0))
    monkeypatch.setattr(steps, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):  # other numbers are another study
        steps.main([*words, "--n", "3"])


def test_the_teacher_is_drawn_at_the_students_levels_too():
    import steps

    from fourstroke import Pipeline

    teacher, student = Pipeline.from_pretrained(MODEL.with_name("micro-teacher")), Pipeline.from_pretrained(MODEL)
    rows = {row.name: row for row in steps.settings(teacher, student, 2.0)}
    untrained = rows["teacher at the student's levels, 4 steps"]
    assert untrained.evaluations == 4
    assert rows["teacher at the student's levels, 4 steps, guidance 2"].evaluations == 8
    assert untrained.pipe.transformer is teacher.transformer
    grids = [row.pipe.sigmas(row.number, 64).tolist() for row in (untrained, rows["student, 4 steps"])]
    assert grids[0] == grids[1] != rows["teacher, 4 steps"].pipe.sigmas(4, 64).tolist()
