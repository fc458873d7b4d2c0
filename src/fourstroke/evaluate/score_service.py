"""Scorers elsewhere, each in an environment of its own, behind `POST /score`.

Two forms. `unirl`, JSON: requests with a history of turns (text, picture) and the rewards that are wanted; results with
numbers by reward and metric, and errors for what failed. For an edit the first turn has the picture before. `verl`, the
form of verl-omni's scorers: a pickled list of JPEGs and prompts to the address as it is, and a pickled list of numbers
back; nothing but plain values is unpickled.
"""

from __future__ import annotations

import base64
import io
import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image

from fourstroke.data.sample import Record
from fourstroke.enhance.endpoint import EndpointError, Service
from fourstroke.evaluate.answers import Answers, Shown, key
from fourstroke.evaluate.asking import UnreadableError
from fourstroke.evaluate.judges import INPUTS, PictureJudge, Reading
from fourstroke.evaluate.viescore import input_picture
from fourstroke.image_io import ImageError
from fourstroke.ranges import Count, Natural, Positive, check_ranges
from fourstroke.text.vision import over_white

SCORE = "score"


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """A scoring service and what to ask it for."""

    url: str
    """Before `/score` with `form: unirl`; the whole address with `form: verl`."""
    reward: str = ""
    """The scorer (clip, hpsv3, imagereward …), which `form: verl` does not name."""
    form: Literal["unirl", "verl"] = "unirl"
    timeout: Positive = 120.0
    retries: Natural = 2
    together: Count = 16
    """Pictures in one call."""
    cache: Path | None = None
    """An SQLite file of scores, added to and read again; None remembers them for the run."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if (self.form == "unirl") != bool(self.reward):
            raise ValueError("name the reward of a service with form=unirl; with form=verl there is none")
        Service(url=self.url)


@dataclass(frozen=True, kw_only=True)
class HttpJudge(ScoreOptions):
    """What a service says of a picture, by metric, in its own scale."""

    kind: ClassVar[str] = "http"

    def open(self, folder: Path | None = None) -> ScoreClient:
        """The client; the service is not asked yet."""
        return ScoreClient(self)


class ScoreClient(PictureJudge):
    """Asks a service for scores, several pictures a call, and remembers them."""

    def __init__(self, options: ScoreOptions) -> None:
        super().__init__(options.reward or options.url)
        self.options, self.answers = options, Answers(options.cache)
        self.service = Service(url=options.url, timeout=options.timeout, retries=options.retries)

    def read(self, pictures: Sequence[np.ndarray], records: Sequence[Record]) -> list[Reading]:
        """The numbers of each picture by metric; `score` where the service does not name them."""
        found: dict[int, Reading] = {}
        waiting: list[tuple[int, str, list[Shown], str]] = []
        for index, (picture, record) in enumerate(zip(pictures, records, strict=True)):
            try:
                shown = [*map(input_picture, record.meta.get(INPUTS, ())), Shown(picture)]
            except ImageError as error:
                found[index] = error
                continue
            text = record.captions[0].text
            place = key(self.options.url, self.options.reward, text, [each.digest for each in shown])
            if (kept := self.answers.get(place)) is not None:
                found[index] = kept
            else:
                waiting.append((index, place, shown, text))
        for start in range(0, len(waiting), self.options.together):
            part = waiting[start : start + self.options.together]
            for (index, place, _, _), reading in zip(part, self._call([row[2:] for row in part]), strict=True):
                found[index] = reading
                if not isinstance(reading, Exception):
                    self.answers.put(place, reading)
        return [found[index] for index in range(len(records))]

    def _call(self, rows: Sequence[tuple[list[Shown], str]]) -> list[Reading]:
        try:
            return (self._unirl if self.options.form == "unirl" else self._verl)(rows)
        except EndpointError as error:
            return [error] * len(rows)

    def _unirl(self, rows: Sequence[tuple[list[Shown], str]]) -> list[Reading]:
        reward = self.options.reward
        asked = [
            {
                "history": [
                    {"text": text, "image_b64": base64.b64encode(_encoded(shown, "PNG")).decode()} for shown in pictures
                ],
                "required_rewards": [reward],
            }
            for pictures, text in rows
        ]
        answer = self.service.post("score", {"requests": asked})
        results, errors = (answer.get(name) if isinstance(answer, dict) else None for name in ("results", "errors"))
        if not isinstance(results, list) or len(results) != len(rows):
            raise EndpointError(f"{self.options.url} gave no result for each of {len(rows)} pictures")
        errors = errors if isinstance(errors, list) and len(errors) == len(rows) else [None] * len(rows)
        return [self._numbers(result, error) for result, error in zip(results, errors, strict=True)]

    def _numbers(self, result: Any, error: Any) -> Reading:
        found = result.get(self.options.reward) if isinstance(result, dict) else None
        readings: dict[str, Any] = found if isinstance(found, dict) else {SCORE: found}
        if readings and all(_number(value) for value in readings.values()):
            return {str(name): float(value) for name, value in readings.items()}
        said = error.get(self.options.reward) if isinstance(error, dict) else None
        why = said if said is not None else result
        return UnreadableError(f"{self.options.url} gave no number for {self.options.reward}: {str(why)[:200]}")

    def _verl(self, rows: Sequence[tuple[list[Shown], str]]) -> list[Reading]:
        pictures, prompts = [_encoded(shown[-1], "JPEG") for shown, _ in rows], [text for _, text in rows]
        asked = {"images": pictures, "prompts": prompts, "metadata": {}}
        answer = plain_pickle(self.service.send("", pickle.dumps(asked), "application/octet-stream"), self.options.url)
        if isinstance(answer, dict) and "error" in answer:
            raise EndpointError(f"{self.options.url} answered: {str(answer['error'])[:200]}")
        scores = answer.get("scores") if isinstance(answer, dict) else None
        if not isinstance(scores, list) or len(scores) != len(rows):
            raise EndpointError(f"{self.options.url} gave no score for each of {len(rows)} pictures")
        bad = UnreadableError(f"{self.options.url} gave something else than a number")
        return [{SCORE: float(value)} if _number(value) else bad for value in scores]


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is no plain value")


def plain_pickle(data: bytes, source: str) -> Any:
    """What a pickle of plain values holds: no class is ever looked up. Raises EndpointError for anything else."""
    try:
        return _Plain(io.BytesIO(data)).load()
    except Exception as error:  # all kinds come of bytes that are no pickle
        raise EndpointError(f"{source} answered with something else than plain values: {error}") from None


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _encoded(shown: Shown, form: str) -> bytes:
    """A picture in its own size."""
    stream = io.BytesIO()
    image = Image.fromarray(shown.pixels)
    (over_white(image) if form == "JPEG" else image).save(stream, form)
    return stream.getvalue()
