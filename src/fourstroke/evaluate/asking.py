"""Questions about pictures to a model that sees, behind any OpenAI-compatible endpoint.

An answer that cannot be read (a refusal, talk) is asked for again with another seed, then counted and left out. What
the endpoint fails to answer is tried again by the endpoint's own rules (`enhance.endpoint`). Answers that could be read
are kept by the picture's content, the question and the model.
"""

from __future__ import annotations

import math
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

TOKENS = 5
"""The likeliest tokens of an answer that are looked at."""
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

    def ask(self, questions: Sequence[Question]) -> list[Any]:
        """What was read of the answer to each question, or the EndpointError or UnreadableError in its place."""
        with ThreadPoolExecutor(self.options.parallel) as pool:
            return list(pool.map(self._ask, questions))

    def chances(self, questions: Sequence[Question], words: Sequence[tuple[str, ...]]) -> list[Any]:
        """The probability that the answer to each question begins as one of its words, by the likeliest tokens; else
        errors as those of `ask`.
        """
        with ThreadPoolExecutor(self.options.parallel) as pool:
            return list(pool.map(self._chance, questions, words))

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
        place = self._key(question)
        if (kept := self.answers.get(place)) is not None:
            try:
                return question.read(kept)
            except UnreadableError:  # it was read for another purpose
                pass
        messages = _messages(question)
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

    def _chance(self, question: Question, words: tuple[str, ...]) -> float | EndpointError | UnreadableError:
        place = self._key(question, "chance", *words)
        if (kept := self.answers.get(place)) is not None:
            return float(kept)
        endpoint, asked = self.options.endpoint, {"logprobs": True, "top_logprobs": TOKENS, "max_tokens": 1}
        body = {"model": endpoint.model, "messages": _messages(question), "temperature": 0.0, **asked}
        try:
            answer = endpoint.post("chat/completions", body)
            tokens = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            found = [(str(t["token"]).strip().casefold(), math.exp(min(0.0, t["logprob"]))) for t in tokens]
        except EndpointError as error:
            return error
        except (KeyError, IndexError, TypeError):
            return UnreadableError(f"{endpoint.url} gave no probabilities of tokens; set soft=false")
        chance = min(1.0, sum(p for token, p in found if token and any(word.startswith(token) for word in words)))
        self.answers.put(place, chance)
        return chance

    def _key(self, question: Question, *more: str) -> str:
        return key(self.options.endpoint.model, question.text, [shown.digest for shown in question.pictures], *more)


def _messages(question: Question) -> list[dict[str, Any]]:
    pictures = [{"type": "image_url", "image_url": {"url": picture.url}} for picture in question.pictures]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": question.text}]}]


def excerpt(words: str) -> str:
    """The beginning of an answer, in a message of one line."""
    return repr(" ".join(words.split())[:120])
