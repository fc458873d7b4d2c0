"""Whether the words that a picture was to show can be read in it, with RapidOCR.

What the text-rendering benchmarks count: whole texts read exactly, NED = 1 - levenshtein / longer length, and the share
of words (CVTG-2K, LongText-Bench, OneIG-Bench). Neither case nor spaces count. The texts are those that the suite names
in a row's `words`, `texts` or `text`; else those in quotation marks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fourstroke.data.sample import Record
from fourstroke.enhance.checks import quoted, script
from fourstroke.evaluate.answers import Answers, Shown, key
from fourstroke.evaluate.judges import PictureJudge, Reading
from fourstroke.evaluate.reading import TESSERACT, can_read, compare, read_lines, readable

KEYS = ("words", "texts", "text")
SINGLE = re.compile(r"(?<!\w)'([^']+)'(?!\w)")
"""CVTG-2K's quotation marks; elsewhere they may be apostrophes."""
UNSPACED = ("CJK", "KANA", "THAI", "LAO", "KHMER")
"""Scripts without spaces between words: characters count in place of words."""
ENOUGH = 0.5
"""Runs of lines are looked at while a text has this share of their length."""


@dataclass(frozen=True, kw_only=True)
class OcrJudge:
    """Reads the words of pictures: `exact`, `ned` and `words`, for pictures that are to show any."""

    kind: ClassVar[str] = "ocr"
    cache: Path | None = None
    """An SQLite file of what was read, added to and read again; None remembers it for the run."""

    def open(self, folder: Path | None = None) -> OcrReader:
        """The reader; raises ValueError if RapidOCR is not installed."""
        if not can_read():
            raise ValueError("the judge ocr needs RapidOCR: pip install '.[eval]'")
        return OcrReader(self.cache)


class OcrReader(PictureJudge):
    """Reads pictures, each once."""

    def __init__(self, cache: Path | None = None) -> None:
        super().__init__("ocr", ("exact", "ned", "words"))
        self.answers = Answers(cache)

    def read(self, pictures: Sequence[np.ndarray], records: Sequence[Record]) -> list[Reading]:
        """Means over the texts that are asked for; nothing where none is, or nothing that reads them."""
        found: list[Reading] = []
        for picture, record in zip(pictures, records, strict=True):
            texts = asked_texts(record)
            own = script_of(texts)
            found.append(scores(texts, self.lines(picture, own)) if texts and readable(own) else {})
        return found

    def lines(self, picture: np.ndarray, script: str = "latin") -> list[str]:
        """What stands in a picture, from top to bottom."""
        reader = f"tesseract {script}" if script in TESSERACT else "rapidocr"
        place = key(reader, _version(), Shown(picture).digest)
        lines = self.answers.get(place)
        if lines is None:
            lines = read_lines(picture[..., :3], script)
            self.answers.put(place, lines)
        return [str(line) for line in lines]

    def groups(self, record: Record) -> dict[str, str]:
        """The script of the texts."""
        return {"script": found.lower()} if (found := script(" ".join(asked_texts(record)))) else {}


def script_of(texts: Sequence[str]) -> str:
    """The script of most of their letters, as `evaluate.reading` names it."""
    return (script(" ".join(texts)) or "latin").lower()


def asked_texts(record: Record) -> list[str]:
    """The texts that a picture is to show; none if it is to show none."""
    prompt = record.captions[0].text if record.captions else ""
    for name in KEYS:
        told = record.meta.get(name)
        texts: Any = [told] if isinstance(told, str) else told
        known = isinstance(texts, (list, tuple)) and all(isinstance(text, str) for text in texts)
        if told and known and told != prompt:  # in a file of one's own `text` may be the prompt
            return [text for text in texts if text.strip()]
    return quoted(prompt) or (SINGLE.findall(prompt) if record.meta.get("suite") == "cvtg" else [])


def scores(texts: Sequence[str], lines: Sequence[str]) -> dict[str, float]:
    """How well texts (one or more) are read, in [0, 1]: the share read exactly, mean NED, the share of words.

    A text is looked for among the lines and among runs of neighbouring lines, whichever is most like it.
    """
    read = Counter(_words(" ".join(lines)))
    nearest, asked = [_nearest(text, lines) for text in texts], [Counter(_words(text)) for text in texts]
    total = sum(words.total() for words in asked)
    hit = (sum(asked, Counter[str]()) & read).total()
    return {
        "exact": sum(ned == 1 for ned in nearest) / len(texts),
        "ned": sum(nearest) / len(texts),
        "words": hit / total if total else 0.0,
    }


def likeness(texts: Sequence[str], lines: Sequence[str]) -> float:
    """Mean NED of the texts (one or more), each with the line or run of lines that is most like it; 1 is equal."""
    return sum(_nearest(text, lines) for text in texts) / len(texts)


def _nearest(text: str, lines: Sequence[str]) -> float:
    """NED of a text with the line, the run of lines or all lines together that are most like it."""
    length = len("".join(text.split()))
    best = 0.0
    for first in range(len(lines)):
        run = ""
        for line in lines[first:]:
            run = f"{run} {line}"
            size = len("".join(run.split()))
            if size * ENOUGH > length and run != f" {line}":
                break
            if size >= length * best and length >= size * best:  # else it cannot be better
                best = max(best, compare(run, text).ned)
        if best == 1:
            break
    return max(best, compare(" ".join(lines), text).ned)


def _words(text: str) -> list[str]:
    """Words without punctuation; characters where a script has no spaces."""
    found: list[str] = []
    for word in re.findall(r"\w+", text.casefold()):
        found += list(word) if script(word) in UNSPACED else [word]
    return found


@cache
def _version() -> str:
    return version("rapidocr")
