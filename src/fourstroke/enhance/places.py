"""Where a text says that things stand, read by rules over the ways in which people and captions say it.

The rules know the world's phrases (`world.caption`) and looser ones. Things come as marks `<0>`, `<1>`, …, in the
order in which a text first names them; a text that says nothing about places gives nothing.
"""

from __future__ import annotations

import re
from itertools import pairwise, permutations

Place = tuple[str, str, str]
"""(a, "left of" | "above" | "in front of", b), or of a lone one (a, "at", "left" | "right" | "top" | … | "center")."""

_NOISE = re.compile(
    r"\b(an?|the|one|two|three|four|large|medium-sized|small|side by side|side|of picture|of the picture"
    r"|flat|flat-style|glossy 3d|clip-art|rendered"
    r"|is|are|that stands?|stands?|standing|sits?|alone|can be seen|which|there|placed|also"
    r"|in an? (?:row|column|group)(?! from))(?![\w-])|[^\w<>\s-]"
)
_LEFT = r"(?:(?:to|on|at) )?left of"
_RIGHT = r"(?:(?:to|on|at) )?right of"
_RELATIONS = {
    _LEFT: (0, "left of"),
    _RIGHT: (1, "left of"),
    r"above|over|on top of|atop": (0, "above"),
    r"below|under|underneath|beneath": (1, "above"),
    r"in front of|overlapping|(?:that )?(?:hid(?:es|ing)|cover(?:s|ing)) part of": (0, "in front of"),
    r"(?:partly )?(?:behind|hidden by|covered by)": (1, "in front of"),
}
"""Ways to say a relation: which of its two things comes first in (a, relation, b), and the relation."""
_BESIDE = {
    r"(?:to|on) (?:its|their) left": (1, "left of"),
    r"(?:to|on) (?:its|their) right": (0, "left of"),
    r"above it|over it": (1, "above"),
    r"below it|under it|beneath it": (0, "above"),
}
_AT = {
    r"(?:on|to|at) left": ("left", 0, 0),
    r"(?:on|to|at) right": ("right", 0, 2),
    r"(?:at|on) top|in upper part": ("top", 1, 0),
    r"(?:at|on) bottom|in lower part": ("bottom", 1, 2),
}
"""Ways to say a place: its name, its axis (0 across, 1 down) and how far along it lies."""
_CORNER = re.compile(r"<(\d+)> (?:at|in) (top|bottom|upper|lower) (left|right)")
_MIDDLE = re.compile(r"<(\d+)> (?:in|at) (?:middle|center|centre)")
_ROW = re.compile(r"<(\d+)>(?: and)? <(\d+)> and <(\d+)> in (?:row|column) from (left|right|top|bottom)")
_FROM = re.compile(r"from (left|right|top|bottom) to \w+ (?:one sees )?<(\d+)>(?: and)? <(\d+)> and <(\d+)>")
_THEN = re.compile(r"<(\d+)> [^<]*then <(\d+)> then <(\d+)>")
_PAIR_BELOW = re.compile(r"at (top|bottom) <(\d+)> on left and <(\d+)> on right")
_IN_FRONT = re.compile(
    r"in foreground <(\d+)>|<(\d+)> in (?:foreground|front(?! of))"
    r"|<(\d+)> in front of (?:it|them)|in front of (?:it|them) <(\d+)>"
)
_OF_TWO = re.compile(r"<(\d+)> and <(\d+)> <(\d+)> (?:on|to|at) (left|right|top|bottom)\b(?! of)")
_PLACE = r"(?:at|on|in) (?:top|bottom|left|right|middle|center|centre|upper part|lower part)\b(?! of)"
_SIGN = re.compile(
    rf"\b{_PLACE} (?:(?!with |and )[\w-]+ ){{0,2}}(?:sign|board)\b"
    rf"|\b(?:sign|board)\b(?: (?!and\b)[\w-]+){{0,3}}? {_PLACE}"
)
"""A sign with its place, which is none of the things' around it."""
_BETWEEN = re.compile(r"<(\d+)> between <(\d+)>[^<]*? and <(\d+)>")


def places(text: str, names: list[str]) -> set[Place]:
    """What `text` (lower case, its things as marks `<index into names>`) says of where they stand.

    Relations are closed: of a row of three, all three pairs are given.
    """
    parts = [" ".join(_NOISE.sub(" ", part).split()) for part in re.split(r"[.;:?!]+(?:\s|$)", text)]
    parts = [_SIGN.sub("sign", part) for part in parts]
    text = " ".join(part for part in parts if part)
    found = _stated(text).union(*(_of_both(part) for part in parts))
    axes = _along(parts)
    for axis, relation in enumerate(("left of", "above")):
        at = axes[axis]
        if len(at) == 1 and len(names) == 2:  # of two things, the other stands at the other end
            (known, where), *_ = at.items()
            at = at | {1 - known: 2 - where}
        found |= {(a, relation, b) for a, b in permutations(at, 2) if at[a] < at[b]}
    found |= {
        (a, relation, c)
        for a, relation, b in found
        for b_, other, c in found
        if b == b_ and relation == other and a != c
    }
    if len(names) == 2:
        nearer = {int(index) for match in _IN_FRONT.finditer(text) for index in match.groups() if index}
        found |= {(index, "in front of", 1 - index) for index in nearer}
    if len(names) == 1:
        return {(names[0], "at", where) for part in parts for where in _lone(part)}
    return {(names[a], relation, names[b]) for a, relation, b in found if a != b}


def _stated(text: str) -> set[tuple[int, str, int]]:
    """Relations that are said as such."""
    found: set[tuple[int, str, int]] = set()

    def add(first: int, second: int, swap: int, relation: str) -> None:
        found.add((second, relation, first) if swap else (first, relation, second))

    for words, (swap, relation) in _RELATIONS.items():
        for match in re.finditer(
            rf"<(\d+)>(?: is| are| stands| sits)? (?:{words}) <(\d+)>(?= on left and <(\d+)>)?", text
        ):
            add(int(match[1]), int(match[2]), swap, relation)
            if match[3]:
                add(int(match[1]), int(match[3]), swap, relation)
        them = re.finditer(rf"<(\d+)> (?:{_LEFT}|{_RIGHT}) <(\d+)>(?: and)? with <(\d+)> (?:{words}) them", text)
        for match in them:
            for under in (1, 2):
                add(int(match[3]), int(match[under]), swap, relation)
    for words, (swap, relation) in _BESIDE.items():
        for match in re.finditer(rf"<(\d+)> with <(\d+)> (?:{words})\b", text):
            add(int(match[1]), int(match[2]), swap, relation)
    for match in _OF_TWO.finditer(text):
        first, second, one = (int(match[i]) for i in (1, 2, 3))
        if one in (first, second):
            relation = "left of" if match[4] in ("left", "right") else "above"
            add(one, first + second - one, match[4] in ("right", "bottom"), relation)
    rows = [(match[4], match.group(1, 2, 3)) for match in _ROW.finditer(text)]
    rows += [(match[1], match.group(2, 3, 4)) for match in _FROM.finditer(text)]
    for start, row in rows:
        line = [int(index) for index in row]
        relation = "left of" if start in ("left", "right") else "above"
        for a, b in pairwise(line if start in ("left", "top") else line[::-1]):
            found.add((a, relation, b))
    return found


def _of_both(part: str) -> set[tuple[int, str, int]]:
    """Relations of one thing to all others that a sentence names: `<2> above them`."""
    named = {int(name) for name in re.findall(r"<(\d+)>", part)}
    found = set()
    for words, (swap, relation) in _RELATIONS.items():
        for match in re.finditer(rf"<(\d+)> (?:{words}) (?:them|both)\b", part):
            for other in named - {int(match[1])}:
                found.add((other, relation, int(match[1])) if swap else (int(match[1]), relation, other))
    return found


def _along(parts: list[str]) -> tuple[dict[int, int], dict[int, int]]:
    """How far along each axis things are said to stand: 0, 1 (the middle) or 2.

    Where a sentence begins with a place, places belong to the things that follow them.
    """
    axes: tuple[dict[int, int], dict[int, int]] = ({}, {})
    for part in parts:
        ahead = any(re.match(rf"(?:\w+ ){{0,3}}?(?:{words})\b(?! of)", part) for words in _AT)
        for words, (_, axis, where) in _AT.items():
            before = rf"\b(?:{words}) <(\d+)>"
            after = rf"<(\d+)> (?:{words})\b(?! of)"
            for pattern in (before, rf"{after}(?! <)") if ahead else (after,):
                for match in re.finditer(pattern, part):
                    axes[axis].setdefault(int(match[1]), where)
    text = " ".join(part for part in parts if part)
    for match in _PAIR_BELOW.finditer(text):
        axes[1].update(dict.fromkeys((int(match[2]), int(match[3])), 0 if match[1] == "top" else 2))
    for match in _CORNER.finditer(text):
        axes[1][int(match[1])] = 0 if match[2] in ("top", "upper") else 2
        axes[0][int(match[1])] = 0 if match[3] == "left" else 2
    middle = [int(match[1]) for match in _MIDDLE.finditer(text)]
    middle += [int(match[2]) for match in _THEN.finditer(text)]
    for match in _BETWEEN.finditer(text):
        inner, *ends = (int(match[i]) for i in (1, 2, 3))
        middle.append(inner)
        for at in axes:
            for end, other in (ends, ends[::-1]):
                if end in at and at[end] != 1:
                    at.setdefault(other, 2 - at[end])
    for at in axes:
        if at:
            at |= dict.fromkeys(set(middle) - at.keys(), 1)
    return axes


def _lone(part: str) -> list[str]:
    """Where a sentence says that a lone thing stands."""
    ways = {name: words for words, (name, _, _) in _AT.items()} | {"center": "(?:in|at) (?:middle|center|centre)"}
    return [
        name for name, words in ways.items() if re.search(rf"<0> (?:{words})\b|^(?:{words})(?: left| right)? <0>", part)
    ]
