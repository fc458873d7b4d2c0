"""The page of goals: what is reached is bold, what was not measured empty, reports are kept with the scores."""

from __future__ import annotations

import json

import pytest


def _share(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "count": 9}


def test_goals_are_told_as_they_were_measured(tmp_path):
    pytest.importorskip("matplotlib")
    import goals

    composition = {"objects": _share(0.91), "style": _share(0.89)}
    scores = {
        "micro": {"composition": composition, "composition_first_10000": {"objects": _share(0.88)}},
        "micro-teacher": {"composition": {"objects": _share(0.95)}},
    }
    for model, found in scores.items():
        (tmp_path / model).mkdir()
        (tmp_path / model / "scores.json").write_text(json.dumps(found))
    for number, name in enumerate(goals.LOGS):
        log = tmp_path / name / "log.jsonl"
        log.parent.mkdir(parents=True)
        looks = [{"step": 1, "seconds": 60.0 * (1 + number), "scores": {"objects": 0.5}}, {"step": 2, "loss": 1.0}]
        log.write_text("".join(json.dumps(row) + "\n" for row in looks))
    rows = {
        "words": {"chinese": {"words_ned": _share(0.5), "words_exact": _share(0.2)}},
        "wordings": {"trained": {"objects": _share(0.9)}, "held out": {"objects": _share(0.84)}},
    }
    chapters = [
        {"kind": kind, "models": [{name: {"questions": 9, "readings": each} for name, each in found.items()}, {}]}
        for kind, found in rows.items()
    ]
    (tmp_path / "report.json").write_text(json.dumps({"chapters": chapters}))
    drawn = {"composition": _share(0.8), "words": _share(0.5), "diversity": 2.0, "saturation": 0.5}
    student = drawn | {"name": goals.STUDENT, "composition": _share(0.6), "diversity": 1.9, "saturation": 0.6}
    (tmp_path / "steps.json").write_text(json.dumps({"n": 2, "rows": [drawn | {"name": "teacher"}, student]}))
    words = ["--models", str(tmp_path), "--out", str(tmp_path / "goals"), "--steps", str(tmp_path / "steps.json")]
    goals.main([*words, "--report", str(tmp_path / "report.json")])
    page = (tmp_path / "goals.md").read_text()
    assert (
        "| objects | 0.9 | **0.910 (0.810 to 1.010)** | 0.880 (0.780 to 0.980) | **0.950 (0.850 to 1.050)** |" in page
    )
    assert "| style | 0.9 | 0.890 (0.790 to 0.990) |  |  |" in page
    assert "| objects in held-out wordings, less those in trained ones | -0.05 | -0.06 |" in page
    assert "| Chinese words, NED | 0.6 | 0.500 (0.400 to 0.600) |" in page
    assert "| edits made | 0.75 |  |  |  |" in page
    assert "| four steps: composition, of the teacher's | 0.97 | 0.750 |" in page
    assert "| four steps: words, of the teacher's | 0.9 | **1.000** |" in page
    assert "| four steps: diversity, of the teacher's | 0.9 | **0.950** |" in page
    assert "| four steps: saturation, the smaller by the larger | 0.95 | 0.833 |" in page
    assert (tmp_path / "goals.png").stat().st_size > 5_000
    kept = json.loads((tmp_path / "micro" / "scores.json").read_text())
    assert kept["report"] == rows
    assert kept["composition"] == composition
    assert "steps" not in kept
    goals.main(words)
    assert (tmp_path / "goals.md").read_text() == page
    assert max(len(line) for line in page.splitlines() if not line.startswith("|")) <= 120
