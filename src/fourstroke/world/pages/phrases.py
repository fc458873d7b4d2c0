"""Phrases that read like titles, bullets, dishes or dates, from a small grammar for each script.

`assets/phrases.json` has for each script word lists by part of speech and templates by role. A ``{name}`` in a template
is a word of that list, or a number of that kind; the rest are frame words, which both splits show.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from fourstroke.chance import pick
from fourstroke.world.atlas import INDEX
from fourstroke.world.graph import Split, is_held_out
from fourstroke.world.pages.type import CrowdedError

Case = Literal["upper", "title", "sentence", "lower"]
SMALL_WORDS = frozenset(("and", "of", "the", "for", "in", "at", "to", "with", "from", "km", "и", "до", "от", "км"))
FIELD = re.compile(r"\{(\w+)\}")


@functools.lru_cache(maxsize=1)
def grammar() -> dict[str, Any]:
    """Word lists and templates by script."""
    return json.loads((INDEX.parent / "phrases.json").read_text("utf-8"))


@functools.lru_cache(maxsize=256)
def words_of(script: str, name: str, split: Split) -> tuple[str, ...]:
    """The words of a list that belong to a split."""
    wanted = split == "heldout"
    return tuple(word for word in grammar()[script]["words"][name].split() if is_held_out("word", word) == wanted)


class Writer:
    """Writes the phrases of one page in one script and remembers which content words it used."""

    def __init__(self, rng: np.random.Generator, script: str, split: Split) -> None:
        self.rng, self.script, self.split = rng, script, split
        self.rules: dict[str, Any] = grammar()[script]
        self.words: list[str] = []
        self.templates: list[list[str]] = []

    def phrase(self, role: str, most: int, case: Case = "sentence") -> tuple[str, ...]:
        """The words of a phrase of the role: at most ``most``, or as few as its templates have.

        No content word comes twice on a page, and a template only when there is no other.

        Raises:
            CrowdedError: if the split's words run out.
        """
        templates = [template.split(" ") for template in self.rules[role]]
        shortest = min(len(template) for template in templates)
        fitting = [template for template in templates if len(template) <= max(most, shortest)]
        longest = max(len(template) for template in fitting)
        longer = [template for template in fitting if len(template) >= longest - 1]
        template = pick(self.rng, [fresh for fresh in longer if fresh not in self.templates] or longer)
        self.templates.append(template)
        words = [self._filled(token) for token in template]
        words = " ".join(words).split(" ")
        return tuple(cased(word, case, first=i == 0, script=self.script) for i, word in enumerate(words))

    def price(self) -> str:
        """A price as the script's country writes it."""
        return self._value("price")

    def series(self, count: int) -> tuple[str, ...]:
        """``count`` labels, at most six, that follow one another: months, quarters, weekdays, years."""
        names = pick(self.rng, [names for names in self.rules["series"] if len(names) >= count])
        start = int(self.rng.random() * (len(names) - count + 1))
        return tuple(names[start : start + count])

    def _filled(self, token: str) -> str:
        return FIELD.sub(lambda field: self._value(field[1]), token)

    def _value(self, name: str) -> str:
        if name in ("price", "date"):
            return self._filled(pick(self.rng, self.rules[name]))
        if name not in self.rules["words"]:
            return NUMBERS[name](self.rng, self.rules)
        words = [word for word in words_of(self.script, name, self.split) if word not in self.words]
        if not words:
            raise CrowdedError(f"no {self.split} words of the kind {name!r} are left")
        self.words.append(pick(self.rng, words))
        return self.words[-1]


def cased(word: str, case: Case, first: bool, script: str) -> str:
    """A word of a phrase in a case; titles keep small words small, and Russian ones capitalise the first alone."""
    if case == "upper":
        return word.upper()
    if case == "lower":
        return word.lower()
    if not first and (case == "sentence" or script == "cyrillic" or word.lower() in SMALL_WORDS):
        return word
    return word[:1].upper() + word[1:]


def _between(low: int, high: int, step: int = 1) -> Callable[[np.random.Generator, Any], int]:
    return lambda rng, _: low + step * int(rng.random() * ((high - low) // step + 1))


_hour, _number, _year = _between(8, 21), _between(1, 40), _between(2019, 2030)
_tens, _cents = _between(1, 19), _between(0, 95, 5)
NUMBERS: dict[str, Callable[[np.random.Generator, Any], str]] = {
    "percent": lambda rng, _: f"{5 * _tens(rng, _)}%",
    "number": lambda rng, _: str(_number(rng, _)),
    "year": lambda rng, _: str(_year(rng, _)),
    "day": lambda rng, _: str(1 + int(rng.random() * 28)),
    "m": lambda rng, _: str(1 + int(rng.random() * 12)),
    "mm": lambda rng, _: f"{1 + int(rng.random() * 12):02d}",
    "hour": lambda rng, _: f"{_hour(rng, _)}:{pick(rng, ('00', '15', '30'))}",
    "hours": lambda rng, _: f"{7 + int(rng.random() * 5)}-{16 + int(rng.random() * 7)}",
    "coin": lambda rng, _: f"{1 + int(rng.random() * 18)}.{_cents(rng, _):02d}",
    "whole": lambda rng, _: str(10 + 5 * int(rng.random() * 37)),
    "letter": lambda rng, rules: pick(rng, rules["letters"]),
    "month": lambda rng, rules: pick(rng, rules["months"]),
    "weekday": lambda rng, rules: pick(rng, rules["weekdays"]),
}
