"""What a text says of the things that it names: how many, how large, in what style; and whether nothing is behind them.

Rules over the ways in which captions of the drawn world, and people, say it, as `places` has them for places.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

_NUMBERS = {"a": 1, "an": 1, "one": 1, "single": 1, "1": 1, "two": 2, "2": 2, "three": 3, "3": 3, "four": 4, "4": 4}
_SIZES = {
    **dict.fromkeys(("small", "little", "tiny", "smaller", "smallest"), "small"),
    **dict.fromkeys(("large", "big", "huge", "larger", "bigger", "largest", "far exceeds"), "large"),
    "has much more room": "large",
    "medium-sized": "medium-sized",
}
_STYLES = {"flat": "flat", "flat-style": "flat", "3d": "3d", "clip-art": "clip-art", "rendered": "rendered"}
_STYLES |= {"render": "rendered"}
_BETWEEN = frozenset(("glossy", "much", "exactly", "just", "simple"))
"""Words between a thing's number, size and style."""

_SIZE = rf"({'|'.join(sorted(_SIZES, key=len, reverse=True))})\b"
_AFTER = re.compile(rf"(?:,? (?:is|are|that is|that are|should be|shown|drawn|the|much|all in all,?))*,? {_SIZE}")
_THAN = re.compile(r"\b(larger|bigger|smaller) than (?:[\w-]+ ){0,4}$")
_LOOSE = re.compile(rf"\b{_SIZE}(?! (?:faint|dots))")
_OF_THEM = re.compile(r"[^.;]*?\b(two|three|four|[2-4]) of them\b")
_STYLE_OF_ALL = re.compile(
    r"\b(flat|3d|clip-art|rendered)(?:, simple)? (?:style|look|illustration|one)\b"
    r"|\b(?:as|in) (?:an? |glossy )?(3d|clip-art|render)\b"
)
_STYLE_AFTER = re.compile(r" (?:glossy )?(flat-style|flat|3d|clip-art|rendered)\b")
_TRANSPARENT = re.compile(
    r"\btransparent background|\bbackground(?: \w+){0,3} transparent|\beverything is transparent|\bstickers?\b"
)


class Mention(NamedTuple):
    """A thing where a text names it: `several` is None where one and several are spelt alike."""

    title: str
    thing: str
    start: int
    end: int
    several: bool | None


@dataclass
class ThingFacts:
    """What is said of a thing, wherever it is named; empty where nothing is."""

    numbers: set[int] = field(default_factory=set)
    several: bool = False
    """Whether it is named in the plural."""
    sizes: set[str] = field(default_factory=set)
    styles: set[str] = field(default_factory=set)


def transparent(text: str) -> bool:
    """Whether a text without quotations wants nothing behind its things."""
    return _TRANSPARENT.search(text.lower()) is not None


def altered(request: dict[str, ThingFacts], rewrite: dict[str, ThingFacts]) -> list[str]:
    """What a request says of its things that the rewrite says otherwise, or no more, in words; both by `facts_of`.

    What has no colour in the request may have one in the rewrite. Things that the rewrite lost are left aside.
    """
    found, sized = [], any(facts.sizes for facts in rewrite.values())
    for title, asked in request.items():
        told = [facts for other, facts in rewrite.items() if other == title or other.endswith(f" {title}")]
        if not told:
            continue
        numbers, sizes, styles = (
            set().union(*(getattr(f, key) for f in told)) for key in ("numbers", "sizes", "styles")
        )
        number = max(asked.numbers, default=0)
        if number > 1 and (number not in numbers or numbers - {1, number}):
            found.append(f"{title}: {number}")
        if number == 1 and not asked.several and (numbers - {1} or any(f.several for f in told)):
            found.append(f"one {title}")
        if asked.sizes and not asked.sizes & sizes and (sizes or not sized):
            found.append(f"{title}: {' '.join(sorted(asked.sizes))}")
        if asked.styles and not asked.styles & styles:
            found.append(f"{title}: {' '.join(sorted(asked.styles))}")
    return found


def facts_of(text: str, mentions: Sequence[Mention]) -> dict[str, ThingFacts]:
    """By title, what a text (lower case, without quotations) says of the things that it names.

    A style that is said of the whole is that of all things without a colour that have none of their own.
    """
    found: dict[str, ThingFacts] = {}
    for mention in mentions:
        facts = found.setdefault(mention.title, ThingFacts())
        before, after = text[: mention.start], text[mention.end :]
        numbered = _read_before(before, facts)
        if match := _OF_THEM.match(after):
            facts.numbers.add(_NUMBERS[match[1]])
        elif mention.several:
            facts.several = True
        elif not numbered and mention.several is False:
            facts.numbers.add(1)
        if match := _AFTER.match(after):
            facts.sizes.add(_SIZES[match[1]])
        if match := _STYLE_AFTER.match(after):
            facts.styles.add(_STYLES[match[1]])
        if match := _THAN.search(before):
            facts.sizes.add("large" if match[1] == "smaller" else "small")
    if len(found) == 1:
        for facts in found.values():
            facts.sizes = facts.sizes or {_SIZES[size] for size in _LOOSE.findall(text)}
    of_all = {_STYLES[match[1] or match[2]] for match in _STYLE_OF_ALL.finditer(text)}
    for mention in mentions:
        if mention.title == mention.thing:  # without a colour
            found[mention.title].styles = found[mention.title].styles or set(of_all)
    return found


def _read_before(text: str, facts: ThingFacts) -> bool:
    """Read the words right before a thing into its facts; returns whether one of them is a number."""
    for word in reversed(text.replace(",", " ").split()):
        if word in _SIZES:
            facts.sizes.add(_SIZES[word])
        elif word in _STYLES:
            facts.styles.add(_STYLES[word])
        elif word not in _BETWEEN:
            facts.numbers |= {_NUMBERS[word]} if word in _NUMBERS else set()
            return word in _NUMBERS
    return False
