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
import torch
from PIL import Image

from fourstroke.checkpoint import read_rows
from fourstroke.evaluate.report.chapter import Question, Scores
from fourstroke.files import append_line, save_image
from fourstroke.folder import ModelInfo, find_model, lineage, read_info
from fourstroke.pictures import slug
from fourstroke.pipeline import Pipeline
from fourstroke.vae.autoencoder import to_pixels

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
        found = hashlib.sha256(json.dumps([self.steps or self.info.own_steps, self.scale]).encode())
        for folder in lineage(self.folder):
            for file in sorted(folder.rglob("*")):
                if file.suffix in (".safetensors", ".json") and file.name not in ("scores.json", "data.json"):
                    found.update(f"{file.relative_to(folder)} {file.stat().st_size}".encode())
                    with file.open("rb") as stream:
                        found.update(stream.read(PART))
                        stream.seek(max(0, file.stat().st_size - PART))
                        found.update(stream.read(PART))
        return f"{slug(self.name, 40)}-{found.hexdigest()[:8]}"


class ColumnRunner:
    """One model at work; `folder` holds what it has answered."""

    def __init__(self, column: Column, folder: Path, batch: int, device: str | None) -> None:
        self.column, self.batch, self.device = column, batch, device
        self.folder = folder / column.key
        self.log = self.folder / "readings.jsonl"
        rows = read_rows(self.log) if self.log.exists() else []
        self.readings: dict[str, Scores] = {row["key"]: _pairs(row["readings"]) for row in rows if "key" in row}
        self.drawn = sum(row.get("drawn", 0) for row in rows)
        self.seconds = sum(row.get("seconds", 0.0) for row in rows)
        self._pipe: Pipeline | None = None

    @property
    def pipe(self) -> Pipeline:
        """The model, loaded when it is first needed."""
        if self._pipe is None:
            self._pipe = Pipeline.from_pretrained(self.column.folder, device=self.device)
        return self._pipe

    def waiting(self, questions: Sequence[Question]) -> int:
        """Pictures that are still to be drawn, and those to be judged."""
        files = {self.file(question, seed) for question in questions for seed in question.seeds}
        missing = sum(not file.exists() for file in files)
        return missing + sum(len(q.seeds) for q in questions if _name(q) not in self.readings)

    def answer(self, questions: Sequence[Question], on_done: OnDone) -> list[Scores]:
        """What judges read of each question's pictures; both are kept as they come."""
        for part in self._missing(questions):
            start = time.perf_counter()
            pictures = self._draw(part)
            row = {"drawn": len(part), "seconds": round(time.perf_counter() - start, 3)}
            for (question, seed), picture in zip(part, pictures, strict=True):
                save_image(picture, self.file(question, seed))
            if part[0][0].original is None:
                self._note(row)
                self.drawn, self.seconds = self.drawn + row["drawn"], self.seconds + row["seconds"]
            on_done(len(part))
        for question in questions:
            if (name := _name(question)) not in self.readings:
                found = question.judge(self.pictures(question))
                self._note({"key": name, "readings": {k: list(v) for k, v in found.items()}})
                self.readings[name] = found
                on_done(len(question.seeds))
        return [self.reading(question) for question in questions]

    def reading(self, question: Question) -> Scores:
        """What the judge said of a question that is answered."""
        return self.readings[_name(question)]

    def close(self) -> None:
        """Let go of the model; what it drew stays."""
        self._pipe = None

    def pictures(self, question: Question) -> list[np.ndarray]:
        """Those of a question, one a seed, as they were kept."""
        return [np.asarray(Image.open(self.file(question, seed))) for seed in question.seeds]

    def file(self, question: Question, seed: int) -> Path:
        """Where a picture is kept."""
        return self.folder / f"{question.key}-{seed}.png"

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

    def _draw(self, part: Sequence[tuple[Question, int]]) -> list[Image.Image]:
        first = part[0][0]
        if first.original is not None:
            return self._copy([question.original for question, _ in part if question.original is not None])
        return self.pipe(
            [question.prompt for question, _ in part],
            images=[Image.fromarray(image) for image in first.images] or None,
            seed=[seed for _, seed in part],
            width=first.size[0],
            height=first.size[1],
            num_inference_steps=self.column.steps,
            guidance_scale=self.column.guidance,
            transparent=first.transparent,
        ).images

    @torch.inference_mode()
    def _copy(self, originals: Sequence[np.ndarray]) -> list[Image.Image]:
        """RGB of what the autoencoder makes of pictures of one size."""
        from fourstroke.evaluate.reconstruction import as_tensor

        model = self.pipe.autoencoder
        weight = next(model.parameters())
        x = torch.stack([as_tensor(picture) for picture in originals]).to(weight.device, weight.dtype)
        return [Image.fromarray(each) for each in to_pixels(model.decode(model.encode(x))[:, :3])]

    def _note(self, row: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        append_line(self.log, json.dumps(row))


def _name(question: Question) -> str:
    return f"{question.key} {','.join(map(str, question.seeds))} {question.judged}"


def _pairs(plain: dict[str, Any]) -> Scores:
    return {name: (float(total), float(count)) for name, (total, count) in plain.items()}
