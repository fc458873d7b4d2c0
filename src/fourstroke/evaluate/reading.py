"""Reads the word on a sign with RapidOCR (PP-OCR in ONNX) and compares it with the word that was asked for.

Exact matches and NED = 1 - levenshtein / longer length, as text-rendering benchmarks count them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

READING_SIDE = 640
"""Shorter side in pixels to which smaller pictures are enlarged before reading."""


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
    longer = max(len(seen), len(asked))
    ned = 1.0 if longer == 0 else 1 - levenshtein(seen, asked) / longer
    return Reading(text=text, exact=seen == asked, ned=ned)


def read_line(pixels: np.ndarray) -> str:
    """The largest line of text in (H, W, 3) uint8 RGB, words from left to right; empty if there is none.

    Raises:
        ValueError: if RapidOCR is not installed.
    """
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    scale = max(1.0, READING_SIDE / min(picture.size))
    if scale > 1:
        picture = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS
        )
    answer = _reader()(np.asarray(picture)[..., ::-1])  # RapidOCR takes BGR
    if answer.boxes is None or answer.txts is None:
        return ""
    boxes = [np.asarray(box, float) for box in answer.boxes]
    spans = [(box[:, 1].min(), box[:, 1].max(), box[:, 0].min(), box[:, 0].max()) for box in boxes]
    largest = max(range(len(spans)), key=lambda i: (spans[i][1] - spans[i][0]) * (spans[i][3] - spans[i][2]))
    top, bottom = spans[largest][:2]
    line = [i for i, span in enumerate(spans) if top <= (span[0] + span[1]) / 2 <= bottom]
    return " ".join(answer.txts[i] for i in sorted(line, key=lambda i: spans[i][2]))


def levenshtein(a: str, b: str) -> int:
    """The least number of letters to insert, delete or replace that turns `a` into `b`."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (letter != other))
    return row[-1]


@functools.cache
def _reader() -> Callable[[np.ndarray], Any]:
    try:
        from rapidocr import RapidOCR
    except ImportError:
        raise ValueError("reading signs needs RapidOCR: pip install '.[eval]'") from None
    return RapidOCR(params={"Global.log_level": "error"})
