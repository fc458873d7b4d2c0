"""Questions with known answers, put to a model that sees: how GenEval 2 (TIFA) and DPG-Bench score prompts.

A picture's score is the share of its questions that are answered rightly; one whose parents are not counts as wrong
(DPG-Bench). With `soft`, the probability of the right answer stands beside it, if the endpoint gives probabilities of
tokens (Soft-TIFA of GenEval 2: arithmetic and geometric mean). Scores depend on the model that is asked: DPG's own
figures come of mPLUG-large, GenEval 2's of Qwen3-VL-8B.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from fourstroke.data.sample import Record
from fourstroke.enhance.protocol import json_objects
from fourstroke.evaluate.answers import Shown
from fourstroke.evaluate.asking import Asker, AskOptions, Question, UnreadableError, excerpt
from fourstroke.evaluate.judges import PictureJudge, Reading
from fourstroke.evaluate.questions import PictureQuestion, QuestionFile, questions_of

YES, NO = frozenset(("yes", "true", "是", "是的", "对", "有")), frozenset(("no", "false", "不是", "否", "不", "没有"))
COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
LEAST = 1e-12
"""What a probability of nothing counts as in a geometric mean."""


@dataclass(frozen=True, kw_only=True)
class VqaJudge(AskOptions):
    """The share of a picture's questions that a model which sees answers rightly: `score`, and `all` of them."""

    kind: ClassVar[str] = "vqa"
    questions: Path | None = None
    """A DPG-Bench CSV, or JSON rows by `id` or `prompt`; None takes those of the suite's rows."""
    soft: bool = False
    """Also ask for the probability of the right answer."""
    probe: bool = True
    """See first whether the endpoint sees."""

    def open(self, folder: Path | None = None) -> VqaClient:
        """The client; the endpoint is not asked yet. Raises ValueError for questions that cannot be read."""
        return VqaClient(self)


class VqaClient(PictureJudge):
    """Asks the questions of pictures, one at a time as the benchmarks do."""

    def __init__(self, options: VqaJudge) -> None:
        names = ("score", "all", *(("soft_am", "soft_gm") if options.soft else ()))
        super().__init__(options.endpoint.model, names)
        self.options, self.asker = options, Asker(options)
        self.file = None if options.questions is None else QuestionFile(options.questions)

    def questions(self, record: Record) -> list[PictureQuestion]:
        """Those of a picture; raises ValueError for questions that cannot be read."""
        if self.file is not None:
            return self.file.of(record)
        try:
            return questions_of(record.meta)
        except ValueError as error:
            raise ValueError(f"{record.name} {error}") from None

    def read(self, pictures: Sequence[np.ndarray], records: Sequence[Record]) -> list[Reading]:
        """`score`, `all`, and the share of each tag; nothing where there are no questions."""
        own = [self.questions(record) for record in records]
        shown = [Shown(picture) for picture in pictures]
        asked = [
            Question((picture,), wording(question), partial(right, question))
            for picture, questions in zip(shown, own, strict=True)
            for question in questions
        ]
        answers = iter(self.asker.ask(asked))
        soft = iter(self.asker.chances(asked, [forms(q) for each in own for q in each]) if self.options.soft else ())
        found: list[Reading] = []
        for questions in own:
            said = [next(answers) for _ in questions]
            chances = [next(soft) for _ in questions] if self.options.soft else []
            failed = next((each for each in (*said, *chances) if isinstance(each, Exception)), None)
            found.append(failed or (scores(questions, said) | soft_scores(chances) if questions else {}))
        return found


def scores(questions: Sequence[PictureQuestion], right: Sequence[bool]) -> dict[str, float]:
    """The shares of a picture's questions (one or more) that are right and whose parents are."""
    hit = {question.number: ok for question, ok in zip(questions, right, strict=True)}
    counted = [hit[q.number] and all(hit.get(parent, True) for parent in q.parents) for q in questions]
    found = {"score": sum(counted) / len(counted), "all": float(all(counted))}
    for tag in dict.fromkeys(q.tag for q in questions if q.tag):
        own = [ok for ok, question in zip(counted, questions, strict=True) if question.tag == tag]
        found[f"score/{tag}"] = sum(own) / len(own)
    return found


def soft_scores(chances: Sequence[float]) -> dict[str, float]:
    """Arithmetic and geometric mean of probabilities; nothing of none."""
    if not chances:
        return {}
    logs = [math.log(max(chance, LEAST)) for chance in chances]
    return {"soft_am": sum(chances) / len(chances), "soft_gm": math.exp(sum(logs) / len(logs))}


def wording(question: PictureQuestion) -> str:
    """A question as it is asked."""
    text = question.text if question.text.endswith(("?", ".", "？", "。")) else f"{question.text}?"
    return f"{text} Answer with {'yes or no alone' if question.answer in YES | NO else 'one word'}."


def right(question: PictureQuestion, said: str) -> bool:
    """Whether an answer is the right one; raises UnreadableError if it is none."""
    told = [value for found in json_objects(said) for value in found.values() if isinstance(value, str | bool | int)]
    words = [word.casefold() for word in re.findall(r"\w+", str(told[-1]) if told else said)]
    if not words:
        raise UnreadableError("no answer")
    if question.answer in YES | NO:
        heard = [word in YES for word in words if word in YES | NO]
        if not heard or (words[0] not in YES | NO and len(set(heard)) > 1):
            raise UnreadableError(f"neither yes nor no: {excerpt(said)}")
        return heard[0] == (question.answer in YES)
    asked = [_count(word) for word in re.findall(r"\w+", question.answer)]
    return _within(asked, [_count(word) for word in words])


def forms(question: PictureQuestion) -> tuple[str, ...]:
    """The right answer as its first token may begin."""
    return tuple(dict.fromkeys((question.answer, _count(question.answer))))


def _within(part: Sequence[str], whole: Sequence[str]) -> bool:
    return any(list(whole[k : k + len(part)]) == list(part) for k in range(len(whole) - len(part) + 1))


def _count(word: str) -> str:
    """A number in words as digits, another word as it is."""
    return str(COUNTS.index(word)) if word in COUNTS else word
