"""Questions about pictures to a model that sees, behind any OpenAI-compatible endpoint.

An answer that cannot be read (a refusal, talk) is asked for again with another seed, then counted and left out. What
the endpoint fails to answer is tried again by the endpoint's own rules (`enhance.endpoint`). Answers that could be read
are kept by the picture's content, the question and the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fourstroke.enhance.endpoint import Endpoint, EndpointError, NoWordsError
from fourstroke.enhance.protocol import THINK_CLOSE
from fourstroke.evaluate.answers import Answers, Shown, key
from fourstroke.ranges import Count, check_ranges

PROBE = "Which colour fills this picture? Answer with one word."
PROBES = {"red": (230, 20, 20), "blue": (20, 40, 230)}


class UnreadableError(ValueError):
    """An answer that does not hold what was asked for; the message begins as the answer does."""


@dataclass(frozen=True, kw_only=True)
class AskOptions:
    """Whom to ask about pictures, and how."""

    endpoint: Endpoint
    parallel: Count = 8
    """Questions at a time."""
    attempts: Count = 2
    """How often a question is asked whose answer cannot be read; each time with another seed."""
    cache: Path | None = None
    """An SQLite file of answers, added to and read again; None remembers them for the run."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class Question:
    """A question about pictures, in the order in which they are shown, and how its answer is read.

    `read` takes the model's words without its thoughts and raises UnreadableError.
    """

    pictures: tuple[Shown, ...]
    text: str
    read: Callable[[str], Any]


class Asker:
    """Asks, several questions at a time, and remembers what was answered."""

    def __init__(self, options: AskOptions) -> None:
        self.options = options
        self.answers = Answers(options.cache)

    def ask(self, questions: Sequence[Question]) -> list[Any | EndpointError | UnreadableError]:
        """What was read of the answer to each question, or why there is none."""
        with ThreadPoolExecutor(self.options.parallel) as pool:
            return list(pool.map(self._ask, questions))

    def probe(self) -> None:
        """See whether the endpoint sees: it is asked for the colours of two pictures.

        Raises:
            EndpointError: if it does not answer, or takes no pictures.
            ValueError: if it says the same of both, wrongly of one.
        """
        shown = [Shown(np.full((64, 64, 3), colour, np.uint8)) for colour in PROBES.values()]
        said = self.ask([Question((picture,), PROBE, str.strip) for picture in shown])
        for answer in said:
            if isinstance(answer, EndpointError) and not isinstance(answer, NoWordsError):
                raise answer
        words = [answer.casefold().strip(" .") if isinstance(answer, str) else "" for answer in said]
        if words[0] and words[0] == words[1]:
            colours = " and of ".join(f"a {colour} one" for colour in PROBES)
            raise ValueError(
                f"{self.options.endpoint.model} says {words[0][:40]!r} of {colours}: it does not see pictures; name a "
                "model that does, or set probe=false"
            )

    def _ask(self, question: Question) -> Any:
        model = self.options.endpoint.model
        place = key(model, question.text, [picture.digest for picture in question.pictures])
        if (kept := self.answers.get(place)) is not None:
            try:
                return question.read(kept)
            except UnreadableError:  # it was read for another purpose
                pass
        pictures = [{"type": "image_url", "image_url": {"url": picture.url}} for picture in question.pictures]
        messages = [{"role": "user", "content": [*pictures, {"type": "text", "text": question.text}]}]
        last: Exception = UnreadableError("no answer")
        for attempt in range(self.options.attempts):  # with another seed, or a deterministic server says the same again
            try:
                turn = self.options.endpoint.chat(messages, temperature=0.0, seed=attempt)
                words = turn.rpartition(THINK_CLOSE)[2]
                found = question.read(words)
            except (UnreadableError, NoWordsError) as error:
                last = error
            except EndpointError as error:  # it was tried again already
                return error
            else:
                self.answers.put(place, words)
                return found
        return last


def excerpt(words: str) -> str:
    """The beginning of an answer, in a message of one line."""
    return repr(" ".join(words.split())[:120])
