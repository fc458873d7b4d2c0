"""What of a report is compared: two rows of one model, and one row of two models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from fourstroke.evaluate.paired import compare_shares, difference_apart
from fourstroke.evaluate.report.chapter import ALL, Chapter, ComparedChapter, Question, Rows, Scores
from fourstroke.evaluate.report.runner import ColumnRunner
from fourstroke.evaluate.statistics import Share

Found = dict[str, Any]
"""Plain data: `ours` and `theirs` by name, `model`, the number of `questions`, `readings` by name; and the `bars`, if
readings are no differences but what share of theirs ours are."""


def compare_rows(chapter: Chapter, rows: Rows, runner: ColumnRunner) -> list[Found]:
    """The differences of a model's rows that the chapter asks for."""
    found = []
    for contrast in chapter.contrasts if isinstance(chapter, ComparedChapter) else ():
        if rows.get(contrast.ours) and rows.get(contrast.theirs):
            ours, theirs = (_readings(runner, rows[name]) for name in (contrast.ours, contrast.theirs))
            told = {"ours": contrast.ours, "theirs": contrast.theirs, "model": runner.column.name}
            values = _compared(compare_shares if contrast.paired else difference_apart, ours, theirs)
            found.append(told | {"questions": len(ours), "readings": values})
    return found


def compare_models(chapter: Chapter, rows: Rows, ours: ColumnRunner, theirs: ColumnRunner) -> list[Found]:
    """The differences of two models, in the row of all or in each, and how much of theirs ours keeps where that counts.

    Both have answered all questions.
    """
    found = []
    bars = chapter.bars if isinstance(chapter, ComparedChapter) else {}
    for name, row in {ALL: rows[ALL]}.items() if rows.get(ALL) else rows.items():
        first, second = (_readings(runner, row) for runner in (ours, theirs))
        told = {"ours": ours.column.name, "theirs": theirs.column.name, "row": name, "questions": len(row)}
        found.append(told | {"readings": _compared(compare_shares, first, second)})
        ratios = _compared(partial(compare_shares, ratio=True), first, second)
        if kept := {key: value for key, value in ratios.items() if key in bars}:
            found.append(told | {"readings": kept, "bars": dict(bars)})
    return [each for each in found if each["readings"]]


def _readings(runner: ColumnRunner, row: Sequence[Question]) -> list[Scores]:
    return [runner.reading(question) for question in row]


def _compared(
    compare: Callable[[Sequence[tuple[float, float]], Sequence[tuple[float, float]]], Share | None],
    ours: Sequence[Scores],
    theirs: Sequence[Scores],
) -> dict[str, Any]:
    """By name, the difference or the ratio, with its interval; what one of both is not asked is left out."""
    found = {}
    for name in dict.fromkeys(name for each in ours for name in each):
        first, second = ([each.get(name, (0.0, 0.0)) for each in side] for side in (ours, theirs))
        if (value := compare(first, second)) is not None:
            found[name] = dataclasses.asdict(value)
    return found
