"""Answers a report's questions with one model, and keeps every picture and reading, so that no work is done twice."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fourstroke.checkpoint import read_rows
from fourstroke.evaluate.report.chapter import Question, Scores
from fourstroke.files import append_line, save_image
from fourstroke.folder import ModelInfo, find_model, lineage, part, read_info
from fourstroke.pictures import slug
from fourstroke.pipeline import Pipeline

PART = 1 << 25
"""Bytes of each end of a file by which it is known: small models whole."""
OnDone = Callable[[int], None]
"""Called with so many more pictures drawn, or judged."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A model of a report, with how it draws; None is the model's own."""

    model: str
    steps: int | None = None
    guidance: float | None = None

    @cached_property
    def folder(self) -> Path:
        """Where the model is; raises CheckpointError."""
        return find_model(self.model)

    @cached_property
    def info(self) -> ModelInfo:
        """The model's own defaults."""
        return read_info(self.folder)

    @property
    def name(self) -> str:
        """What tables call it."""
        steps = self.steps or self.info.own_steps
        told = Path(self.model).name
        told = self.folder.resolve().parent.name if told in ("model", "", "..") else told  # runs/dit/model
        guided = "" if self.scale == 1 else f", guidance {self.scale:g}"
        return f"{told}, {steps} step{'s' * (steps > 1)}{guided}"

    @property
    def scale(self) -> float:
        """Of guidance."""
        return self.info.guidance_scale if self.guidance is None else self.guidance

    @cached_property
    def key(self) -> str:
        """A folder's name, of the weights and of how they draw."""
        told = json.dumps([self.steps or self.info.own_steps, self.scale])
        return f"{slug(self.name, 40)}-{_digest(lineage(self.folder), told)}"

    @cached_property
    def autoencoder_key(self) -> str:
        """The same, of the autoencoder, which several models may share."""
        return f"autoencoder-{_digest([part(lineage(self.folder), 'vae')])}"


class AnswerStore:
    """Pictures, and what judges read of them, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "readings.jsonl"
        rows = read_rows(self.log) if self.log.exists() else []
        self.readings: dict[str, Scores] = {row["key"]: _pairs(row["readings"]) for row in rows if "key" in row}
        self.drawn = sum(row.get("drawn", 0) for row in rows)
        self.seconds = sum(row.get("seconds", 0.0) for row in rows)

    def note(self, row: dict[str, Any]) -> None:
        """Add a row to the log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        append_line(self.log, json.dumps(row))


class ColumnRunner:
    """One model at work, which keeps its answers in `kept`, and in `copies` those of its autoencoder alone."""

    def __init__(self, column: Column, kept: AnswerStore, copies: AnswerStore, batch: int, device: str | None) -> None:
        self.column, self.kept, self.copies, self.batch, self.device = column, kept, copies, batch, device
        self._pipe: Pipeline | None = None

    @property
    def pipe(self) -> Pipeline:
        """The model, loaded when it is first needed."""
        if self._pipe is None:
            self._pipe = Pipeline.from_pretrained(self.column.folder, device=self.device)
        return self._pipe

    def waiting(self, questions: Sequence[Question]) -> set[tuple[str, Path]]:
        """Pictures that are still to be drawn, and those to be judged, each by the judge."""
        found = set()
        for question in questions:
            files = [self.file(question, seed) for seed in question.seeds]
            found |= {("", file) for file in files if not file.exists()}
            if _name(question) not in self._kept(question).readings:
                found |= {(question.judged, file) for file in files}
        return found

    def answer(self, questions: Sequence[Question], on_done: OnDone) -> list[Scores]:
        """What judges read of each question's pictures; both are kept as they come."""
        for group in self._missing(questions):
            start = time.perf_counter()
            pictures = self._draw(group)
            row = {"drawn": len(group), "seconds": round(time.perf_counter() - start, 3)}
            for (question, seed), picture in zip(group, pictures, strict=True):
                save_image(picture, self.file(question, seed))
            if group[0][0].original is None:
                self.kept.note(row)
                self.kept.drawn, self.kept.seconds = self.kept.drawn + row["drawn"], self.kept.seconds + row["seconds"]
            on_done(len(group))
        for question in questions:
            name, kept = _name(question), self._kept(question)
            if name not in kept.readings:
                found = question.judge(self.pictures(question))
                kept.note({"key": name, "readings": {k: list(v) for k, v in found.items()}})
                kept.readings[name] = found
                on_done(len(question.seeds))
        return [self.reading(question) for question in questions]

    def reading(self, question: Question) -> Scores:
        """What the judge said of a question that is answered."""
        return self._kept(question).readings[_name(question)]

    def close(self) -> None:
        """Let go of the model; what it drew stays."""
        self._pipe = None

    def pictures(self, question: Question) -> list[np.ndarray]:
        """Those of a question, one a seed, as they were kept."""
        return [np.asarray(Image.open(self.file(question, seed))) for seed in question.seeds]

    def file(self, question: Question, seed: int) -> Path:
        """Where a picture is kept."""
        return self._kept(question).folder / f"{question.key}-{seed}.png"

    def _kept(self, question: Question) -> AnswerStore:
        return self.kept if question.original is None else self.copies

    def _missing(self, questions: Sequence[Question]) -> Iterator[list[tuple[Question, int]]]:
        """What is to be drawn, in parts that can be drawn together."""
        groups: dict[tuple[object, ...], dict[tuple[str, int], tuple[Question, int]]] = {}
        for question in questions:
            alone = question.key if question.images else ""
            kind = (question.size, question.transparent, alone, question.original is None)
            for seed in question.seeds:
                if not self.file(question, seed).exists():  # each is written whole or not at all
                    groups.setdefault(kind, {})[question.key, seed] = question, seed
        for group in groups.values():
            rows = list(group.values())
            yield from (rows[start : start + self.batch] for start in range(0, len(rows), self.batch))

    def _draw(self, group: Sequence[tuple[Question, int]]) -> list[Image.Image]:
        from fourstroke.evaluate.models import copies

        first = group[0][0]
        if first.original is not None:
            originals = [question.original for question, _ in group if question.original is not None]
            channels = 4 if first.transparent else 3
            return [Image.fromarray(copy[..., :channels]) for copy in copies(self.pipe.autoencoder, originals)]
        return self.pipe(
            [question.prompt for question, _ in group],
            images=[Image.fromarray(image) for image in first.images] or None,
            seed=[seed for _, seed in group],
            width=first.size[0],
            height=first.size[1],
            num_inference_steps=self.column.steps,
            guidance_scale=self.column.guidance,
            transparent=first.transparent,
        ).images


def _digest(folders: Sequence[Path], told: str = "") -> str:
    """Of the weights and the settings in folders, and of what is told of them."""
    found = hashlib.sha256(told.encode())
    for folder in folders:
        for file in sorted(folder.rglob("*")):
            if file.suffix in (".safetensors", ".json") and file.name not in ("scores.json", "data.json"):
                found.update(f"{file.relative_to(folder)} {file.stat().st_size}".encode())
                with file.open("rb") as stream:
                    found.update(stream.read(PART))
                    stream.seek(max(0, file.stat().st_size - PART))
                    found.update(stream.read(PART))
    return found.hexdigest()[:8]


def _name(question: Question) -> str:
    return f"{question.key} {','.join(map(str, question.seeds))} {question.judged}"


def _pairs(plain: dict[str, Any]) -> Scores:
    return {name: (float(total), float(count)) for name, (total, count) in plain.items()}
