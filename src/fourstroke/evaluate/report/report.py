"""Makes a report: every chapter of every model, the page written anew after each, so that what is there can be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fourstroke.data.sample import DatasetConfig
from fourstroke.evaluate.report.chapter import Chapter, LeftOutError, Question, Rows, Scores, summarise
from fourstroke.evaluate.report.contrasts import Found, compare_models, compare_rows
from fourstroke.evaluate.report.runner import AnswerStore, Column, ColumnRunner
from fourstroke.progress import Progress
from fourstroke.version import __version__


@dataclass(kw_only=True)
class Part:
    """A chapter with its questions, and what each model was found to answer, by row; none for what is still to do."""

    chapter: Chapter
    rows: Rows
    found: list[dict[str, dict[str, Any]] | None] = field(default_factory=list)
    differences: list[Found] = field(default_factory=list)
    """Between rows, and between the first model and the others."""

    @property
    def questions(self) -> list[Question]:
        """All of them, each once."""
        return list({id(q): q for row in self.rows.values() for q in row}.values())

    @property
    def known(self) -> list[Question]:
        """Those whose true pictures are known."""
        return [question for question in self.questions if question.truth is not None]


@dataclass(kw_only=True)
class Report:
    """All that the page shows."""

    columns: list[Column]
    runners: list[ColumnRunner]
    parts: list[Part]
    left_out: dict[str, str]
    """Titles of chapters and why they are not there."""

    @property
    def done(self) -> bool:
        """Whether every chapter is there for every model."""
        return all(found is not None for part in self.parts for found in part.found)

    def plain(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        models = [
            {
                "name": column.name,
                "model": column.model,
                "steps": column.steps or column.info.own_steps,
                "guidance": column.scale,
                "seconds_per_picture": runner.kept.seconds / runner.kept.drawn if runner.kept.drawn else None,
            }
            for column, runner in zip(self.columns, self.runners, strict=True)
        ]
        chapters = [
            {"kind": p.chapter.kind, "title": p.chapter.title, "models": p.found, "differences": p.differences}
            for p in self.parts
        ]
        told = {"fourstroke": __version__, "done": self.done, "models": models}
        return told | {"chapters": chapters, "left_out": self.left_out}


def open_report(
    columns: Sequence[Column],
    chapters: Sequence[Chapter],
    data: DatasetConfig,
    n: int,
    folder: Path,
    batch: int = 8,
    device: str | None = None,
) -> Report:
    """Ask every chapter what it can ask of the data; pictures are kept in `folder`.

    Raises:
        ValueError: if there is no such model, two are the same, or no chapter has a question.
    """
    if len({column.key for column in columns}) < len(columns):
        raise ValueError("two of the models are the same and draw alike; give one of them other steps or guidance")
    parts, left_out = [], {}
    for chapter in chapters:
        try:
            rows = chapter.rows(data, n, columns[0].info)
        except LeftOutError as error:
            left_out[chapter.title] = str(error)
        else:
            parts.append(Part(chapter=chapter, rows=rows, found=[None] * len(columns)))
    if not parts:
        raise ValueError(f"there is nothing to report: {'; '.join(left_out.values())}")
    copies = {key: AnswerStore(folder / key) for key in {column.autoencoder_key for column in columns}}
    runners = [
        ColumnRunner(column, AnswerStore(folder / column.key), copies[column.autoencoder_key], batch, device)
        for column in columns
    ]
    return Report(columns=list(columns), runners=runners, parts=parts, left_out=left_out)


def make_report(report: Report, on_chapter: Callable[[Report], None]) -> None:
    """Answer all questions, one model after the other, and call back after each chapter."""
    waiting = set[object]()  # what several chapters or models ask alike is drawn and judged once
    for runner in report.runners:
        for part in report.parts:
            waiting |= runner.waiting(part.questions) | runner.waiting([q.copied() for q in part.known])
    with Progress("drawing and judging", max(1, len(waiting)), "") as progress:
        for place, runner in enumerate(report.runners):
            for part in report.parts:
                runner.answer(part.questions, progress.add)
                most = runner.answer([question.copied() for question in part.known], progress.add)
                ceilings = {id(question): scores for question, scores in zip(part.known, most, strict=True)}
                part.found[place] = {name: _found(runner, row, ceilings) for name, row in part.rows.items() if row}
                part.differences += compare_rows(part.chapter, part.rows, runner)
                if place:
                    part.differences += compare_models(part.chapter, part.rows, report.runners[0], runner)
                on_chapter(report)
            runner.close()


def _found(runner: ColumnRunner, row: Sequence[Question], ceilings: Mapping[int, Scores]) -> dict[str, Any]:
    """What a model was found to answer, and its autoencoder alone: `ceiling`, where true pictures are known."""
    found: dict[str, Any] = {"questions": len(row), "readings": _plain(list(map(runner.reading, row)))}
    most = [ceilings[id(question)] for question in row if id(question) in ceilings]
    return found | ({"ceiling": _plain(most)} if most else {})


def _plain(readings: Sequence[Scores]) -> dict[str, Any]:
    return {name: dataclasses.asdict(value) for name, value in summarise(readings).items()}
