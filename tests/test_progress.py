"""Bars on terminals, lines elsewhere; standard output stays clean."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest
import torch

from fourstroke import progress
from fourstroke.progress import Progress
from fourstroke.train.log import Log


class Terminal(io.StringIO):
    """Standard error that somebody looks at."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds; move it by hand."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_lines_come_every_ten_seconds_and_at_the_end(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("drawing", 100) as bar:
        for done in range(1, 101):
            clock[0] += 0.25
            bar.to(done)
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert lines == [
        "drawing: 40/100 pictures, 4 a second, 0:15 left",
        "drawing: 80/100 pictures, 4 a second, 0:05 left",
        "drawing: 100/100 pictures, 4 a second, 0:00 left",
    ]
    assert printed.out == ""


def test_what_was_done_before_a_resume_is_no_speed(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress("encoding", 300, done=200)
    clock[0] += 20
    bar.add(20)
    assert capsys.readouterr().err == "encoding: 220/300 pictures, 1 a second, 1:20 left\n"


def test_a_terminal_has_a_bar_with_rate_and_time_left() -> None:
    on_picture = progress.pictures("judging")
    with contextlib.redirect_stderr(Terminal()) as terminal:
        for done in range(1, 4):
            on_picture(done, 3)
    last = terminal.getvalue().split("\r")[-1]
    assert last.startswith("judging: 100%|")
    assert "3/3 [" in last
    assert "pictures" in last
    assert last.endswith("\n")


def test_work_that_tells_by_itself_has_no_lines(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress("training", 1.0, "", lines=False)
    clock[0] += 60
    bar.to(1.0)
    assert capsys.readouterr() == ("", "")


def test_training_has_its_lines_above_its_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.redirect_stderr(Terminal()) as terminal, Log(tmp_path, log_seconds=0.0) as log:
        for step in (1, 2):
            log.add(step, float(step), {"loss": torch.tensor(0.5)}, step / 2, 4)
    assert [line[:16] for line in capsys.readouterr().out.splitlines()] == [" 50.0 %  step 1 ", "100.0 %  step 2 "]
    assert "training  50 %|" in terminal.getvalue()
    assert "step 2" in terminal.getvalue()
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2]
