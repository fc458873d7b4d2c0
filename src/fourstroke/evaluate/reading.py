"""Reads the word on a sign with RapidOCR (PP-OCR in ONNX) and compares it with the word that was asked for.

Exact matches and NED = 1 - levenshtein / longer length, as text-rendering benchmarks count them. The models that
RapidOCR brings know Latin and Chinese; Cyrillic lines are found by them and read by Tesseract.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

READING_SIDE = 640
"""Shorter side in pixels to which smaller pictures are enlarged before reading."""
LINE_HEIGHT = 96
"""Height in pixels at which a line is read alone."""
TESSERACT = {"cyrillic": "rus"}
"""By script that RapidOCR cannot read, the language of Tesseract that can."""
NO_READER = "words are read by RapidOCR, which is not installed: pip install '.[eval]'"
HELP = {
    "cyrillic": "reading Cyrillic needs Tesseract with Russian: apt install tesseract-ocr tesseract-ocr-rus",
}
"""By script, what is missing where `can_read` says no."""


Span = tuple[float, float, float, float]
"""Top, bottom, left and right of a box."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was read, against what was asked."""

    text: str
    exact: bool
    """Equal but for case and spaces."""
    ned: float
    """Similarity in [0, 1]; 1 is equal."""


def compare(text: str, word: str) -> Reading:
    """Compares a reading with the asked word; neither case nor spaces count."""
    seen, asked = ("".join(t.casefold().split()) for t in (text, word))
    return Reading(text=text, exact=seen == asked, ned=similarity(seen, asked))


def similarity(a: str, b: str) -> float:
    """NED of two texts as they are: 1 - levenshtein / longer length; 1 of two empty ones."""
    longer = max(len(a), len(b))
    return 1.0 if longer == 0 else 1 - levenshtein(a, b) / longer


@functools.cache
def can_read(script: str = "latin") -> bool:
    """Whether RapidOCR is installed, and for a script that it does not know, Tesseract with its language."""
    if importlib.util.find_spec("rapidocr") is None:
        return False
    if script not in TESSERACT:
        return True
    if shutil.which("tesseract") is None:
        return False
    told = subprocess.run(["tesseract", "--list-langs"], capture_output=True, text=True)
    return TESSERACT[script] in told.stdout.split()


def readable(script: str) -> bool:
    """`can_read`, and where it says no, what is missing is told once, on stderr."""
    if not can_read(script):
        _tell(script)
    return can_read(script)


@functools.cache
def _tell(script: str) -> None:
    print(f"{HELP.get(script, NO_READER)}; such words are not judged", file=sys.stderr, flush=True)


def read_line(pixels: np.ndarray, script: str = "latin") -> str:
    """The largest line of text in (H, W, 3) uint8 RGB, words from left to right; empty if there is none.

    Raises:
        ValueError: if what reads the script is not installed.
    """
    found = _read(pixels, script)
    if not found:
        return ""
    _, (top, bottom, *_) = max(found, key=lambda item: (item[1][1] - item[1][0]) * (item[1][3] - item[1][2]))
    line = [item for item in found if top <= (item[1][0] + item[1][1]) / 2 <= bottom]
    return " ".join(text for text, _ in sorted(line, key=lambda item: item[1][2]))


def read_lines(pixels: np.ndarray, script: str = "latin") -> list[str]:
    """All texts in (H, W, 3) uint8 RGB, row by row from the top, those of a row from left to right.

    Raises:
        ValueError: if what reads the script is not installed.
    """
    rows: list[list[tuple[str, Span]]] = []
    for item in sorted(_read(pixels, script), key=lambda item: item[1][0]):
        middle = (item[1][0] + item[1][1]) / 2
        if rows and rows[-1][0][1][0] <= middle <= rows[-1][0][1][1]:
            rows[-1].append(item)
        else:
            rows.append([item])
    return [text for row in rows for text, _ in sorted(row, key=lambda item: item[1][2])]


def read_alone(pixels: np.ndarray, script: str = "latin") -> str:
    """What stands on the one line that fills (H, W, 3) uint8 RGB; no box is looked for.

    Raises:
        ValueError: if what reads the script is not installed.
    """
    line = Image.fromarray(np.ascontiguousarray(pixels))
    line = line.resize((max(1, round(line.width * LINE_HEIGHT / line.height)), LINE_HEIGHT), Image.Resampling.LANCZOS)
    if script in TESSERACT:
        return _tesseract(line, (0, line.height, 0, line.width), script)
    answer = _reader()(np.asarray(line)[..., ::-1], use_det=False, use_cls=False, use_rec=True)
    return " ".join(map(str, answer.txts or ()))


def _read(pixels: np.ndarray, script: str) -> list[tuple[str, Span]]:
    """Texts with their boxes."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    scale = max(1.0, READING_SIDE / min(picture.size))
    if scale > 1:
        picture = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS
        )
    known = script not in TESSERACT
    options = {"use_det": True, "use_cls": True, "use_rec": known}  # it keeps those of the call before
    answer = _reader()(np.asarray(picture)[..., ::-1], **options)  # BGR
    if answer.boxes is None or (known and answer.txts is None):
        return []
    boxes = [np.asarray(box, float) for box in answer.boxes]
    spans = [(box[:, 1].min(), box[:, 1].max(), box[:, 0].min(), box[:, 0].max()) for box in boxes]
    if not known:
        return [(_tesseract(picture, span, script), span) for span in spans]
    return list(zip(map(str, answer.txts), spans, strict=True))


def _tesseract(picture: Image.Image, span: Span, script: str) -> str:
    """The letters and digits in a box, with points and colons between digits."""
    if not can_read(script):
        raise ValueError(HELP[script])
    top, bottom, left, right = span
    line = io.BytesIO()
    picture.crop((round(left), round(top), round(right), round(bottom))).save(line, "PNG")
    for mode in ("7", "8"):  # a line; where it sees none, a word
        command = ["tesseract", "-", "-", "-l", TESSERACT[script], "--psm", mode]
        told = subprocess.run(command, input=line.getvalue(), capture_output=True, check=True)
        if seen := _letters(told.stdout.decode("utf-8", "replace")):
            return seen
    return ""


def _letters(text: str) -> str:
    """Words of letters and digits, one space between them; points, commas and colons stay between digits."""
    return " ".join(re.sub(r"(?!(?<=\d)[.,:](?=\d))[\W_]", " ", text).split())


def levenshtein(a: str, b: str) -> int:
    """The least number of letters to insert, delete or replace that turns `a` into `b`."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (letter != other))
    return row[-1]


@functools.cache
def _reader() -> Callable[..., Any]:
    try:
        from rapidocr import RapidOCR
    except ImportError:
        raise ValueError("reading signs needs RapidOCR: pip install '.[eval]'") from None
    return RapidOCR(params={"Global.log_level": "error"})
