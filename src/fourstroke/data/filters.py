"""Filters: which samples a run uses. Each refuses by a stage's name and with a reason; none of them ends a run.

Report, section Data: broken files, small pictures, duplicates, low entropy and low scores are taken out by stages.
Rotation by EXIF is applied in reading. A filter looks at records, which cost a header each, or at pixels.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol

import numpy as np
from PIL import Image

from fourstroke.data.sample import Record, Sample
from fourstroke.ranges import Count, Finite, Natural, NonNegative, Positive, check_ranges
from fourstroke.registry import Registered
from fourstroke.text.encoder import MAX_TOKENS
from fourstroke.text.templates import IMAGE_TOKEN

HASH_BITS = 64
ATTEMPTS = 3


class Filter(Protocol):
    """Something that refuses samples; an instance serves one pass over a dataset."""

    def check(self, record: Record) -> str | None:
        """Why a record is refused, or None."""

    @property
    def pixels(self) -> bool:
        """Whether `measure` and `judge` are wanted."""

    def measure(self, sample: Sample) -> Any:
        """What `judge` needs of a sample; called in any process."""

    def judge(self, name: str, measured: Any) -> str | None:
        """Why a sample is refused, or None; called in the order of the dataset."""


class FilterConfig(Protocol):
    """A kind of filter in a recipe: a frozen dataclass of its options."""

    kind: ClassVar[str]

    def open(self) -> Filter:
        """A filter at its beginning; raises ValueError if it cannot work."""


Filters = tuple[Annotated[FilterConfig, Registered("filters")], ...]
"""A recipe's key: `filters: [{kind: size, least: 256}, {kind: duplicate}]`."""


class RecordFilter:
    """A filter of records alone."""

    pixels = False

    def __init__(self, check: Callable[[Record], str | None]) -> None:
        self.check = check

    def measure(self, sample: Sample) -> Any:
        """Nothing."""

    def judge(self, name: str, measured: Any) -> str | None:
        """Nothing is refused."""
        return None


class PixelFilter:
    """A filter of pixels alone."""

    pixels = True

    def __init__(self, measure: Callable[[Sample], Any], judge: Callable[[str, Any], str | None]) -> None:
        self.measure, self.judge = measure, judge

    def check(self, record: Record) -> str | None:
        """Nothing is refused."""
        return None


@dataclass(frozen=True, kw_only=True)
class SizeFilter:
    """Pictures with a side of less than `least` pixels, or of more than `ratio` times the other."""

    kind: ClassVar[str] = "size"
    least: Count = 1
    ratio: Positive | None = None

    def __post_init__(self) -> None:
        check_ranges(self)

    def open(self) -> Filter:
        """A filter of records."""

        def check(record: Record) -> str | None:
            width, height = record.size
            if min(record.size) < self.least:
                return f"{width} x {height} pixels, less than {self.least} a side"
            if self.ratio is not None and max(record.size) > self.ratio * min(record.size):
                return f"{width} x {height} pixels, one side more than {self.ratio:g} times the other"
            return None

        return RecordFilter(check)


@dataclass(frozen=True, kw_only=True)
class CaptionFilter:
    """Samples with a caption of too few or too many characters, or tokens of the tokenizer in a folder."""

    kind: ClassVar[str] = "caption"
    least: Natural = 1
    characters: Count | None = None
    tokens: Count | None = None
    tokenizer: Path | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        if (self.tokens is None) != (self.tokenizer is None):
            raise ValueError("tokens needs the folder of a tokenizer as tokenizer, and tokenizer a number of tokens")

    def open(self) -> Filter:
        """A filter of records; raises CheckpointError if the tokenizer cannot be read."""
        tokenizer: Any = None
        if self.tokenizer is not None:
            from fourstroke.pretrained import load_tokenizer

            tokenizer = load_tokenizer(self.tokenizer)

        def check(record: Record) -> str | None:
            for caption in record.captions:
                if tokenizer is not None and IMAGE_TOKEN in caption.text:
                    return f"a caption with {IMAGE_TOKEN}, which stands for input images"
                length = len(caption.text)
                if length < self.least or length > (self.characters or length):
                    return f"a caption of {length} characters"
                if self.tokens and length > self.tokens:  # a token has a character or more, almost always
                    count = len(tokenizer(caption.text, add_special_tokens=False)["input_ids"])
                    if count > self.tokens:
                        return f"a caption of {count} tokens, more than {self.tokens}: shorten it"
            return None

        return RecordFilter(check)


def encodable(filters: Filters, text: Path | None) -> Filters:
    """Filters, and after them one that refuses captions which the text encoder in the folder `text` would not take."""
    if text is None:
        return filters
    return *filters, CaptionFilter(least=0, tokens=MAX_TOKENS, tokenizer=text / "processor")


@dataclass(frozen=True, kw_only=True)
class DuplicateFilter:
    """Pictures that look like an earlier one: difference hashes (`dhash`) of at most `distance` bits apart."""

    kind: ClassVar[str] = "duplicate"
    distance: Natural = 2

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.distance >= HASH_BITS // 2:
            raise ValueError(f"distance={self.distance}: any two pictures are that near; choose less than 32")

    def open(self) -> Filter:
        """A filter that remembers what it has seen."""
        # hashes that differ in `distance` bits agree in one of distance + 1 bands at least
        edges = np.linspace(0, HASH_BITS, self.distance + 2).astype(int).tolist()
        seen: list[dict[int, list[tuple[int, str]]]] = [{} for _ in edges[1:]]

        def judge(name: str, value: int) -> str | None:
            bands = [value >> low & (1 << high - low) - 1 for low, high in itertools.pairwise(edges)]
            for band, table in zip(bands, seen, strict=True):
                for other, first in table.get(band, ()):
                    if (other ^ value).bit_count() <= self.distance:
                        return f"looks like {first}"
            for band, table in zip(bands, seen, strict=True):
                table.setdefault(band, []).append((value, name))
            return None

        return PixelFilter(lambda sample: dhash(sample.image), judge)


@dataclass(frozen=True, kw_only=True)
class EntropyFilter:
    """Pictures whose grey levels hold less than `least` bits: blank ones, and scans of empty pages."""

    kind: ClassVar[str] = "entropy"
    least: NonNegative = 1.0

    def __post_init__(self) -> None:
        check_ranges(self)

    def open(self) -> Filter:
        """A filter of pixels."""

        def judge(name: str, bits: float) -> str | None:
            return f"{bits:.2f} bits of grey" if bits < self.least else None

        return PixelFilter(lambda sample: entropy(sample.image), judge)


@dataclass(frozen=True, kw_only=True)
class ScorerFilter:
    """Pictures to which a server gives a score of less than `least`.

    It gets `{"image": PNG in base64, "captions": […]}` by POST and answers `{"score": number}`.
    """

    kind: ClassVar[str] = "scorer"
    url: str
    least: Finite
    timeout: Positive = 30.0

    def __post_init__(self) -> None:
        check_ranges(self)

    def open(self) -> Filter:
        """A filter of pixels; where the server does not answer, `measure` raises ValueError."""

        def judge(name: str, score: float) -> str | None:
            return f"scored {score:g}" if score < self.least else None

        return PixelFilter(self._score, judge)

    def _score(self, sample: Sample) -> float:
        file = io.BytesIO()
        Image.fromarray(sample.image).save(file, "PNG")
        texts = [caption.text for caption in sample.record.captions]
        body = json.dumps({"image": base64.b64encode(file.getvalue()).decode(), "captions": texts}).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        for attempt in range(ATTEMPTS):
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    return float(json.load(answer)["score"])
            except (KeyError, TypeError, ValueError):
                raise ValueError(f'the scorer at {self.url} does not answer {{"score": number}}') from None
            except OSError as error:
                reason = str(error)
                time.sleep(attempt)
        raise ValueError(f"the scorer at {self.url} does not answer: {reason}")


def dhash(picture: np.ndarray) -> int:
    """The difference hash of (h, w, 4) uint8: in 64 bits, whether each of 8 x 9 grey cells is darker than the next."""
    small = np.asarray(_grey(picture).resize((9, 8), Image.Resampling.BOX), np.int16)
    return int.from_bytes(np.packbits(small[:, :-1] < small[:, 1:]).tobytes(), "big")


def entropy(picture: np.ndarray) -> float:
    """Shannon entropy of the grey levels of (h, w, 4) uint8, 0 to 8 bits."""
    shares = np.bincount(np.asarray(_grey(picture)).ravel(), minlength=256) / (picture.shape[0] * picture.shape[1])
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


def _grey(picture: np.ndarray) -> Image.Image:
    """(h, w, 4) uint8 in grey, over white where it is transparent."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("L")
