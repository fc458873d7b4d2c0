"""Files of prompts: what can be drawn, with input images if it is an edit, but no picture to learn from.

One prompt a line: plain text, or a JSON object with `prompt`, or with `rich` and perhaps `short`, and for an edit
`images`, the paths of its input images, relative to the file. Distillation learns from its teacher, and reinforcement
from rewards; both need no more than that.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fourstroke.data.sample import Caption, Dataset, Record, Sample, SampleError, Size, Split
from fourstroke.image_io import ImageError, image_size, open_image
from fourstroke.ranges import Natural, check_ranges
from fourstroke.textfile import TextError, decode, parse_json, read_lines


@dataclass(frozen=True)
class PromptLine:
    """A prompt in a rich and a short wording, the same where there is one, and its input images."""

    rich: str
    short: str
    images: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PromptsData:
    """The lines of a file; the first `held_out` of them are kept for validation."""

    kind: ClassVar[str] = "prompts"
    path: Path
    held_out: Natural = 0

    def __post_init__(self) -> None:
        check_ranges(self)

    def open(self, split: Split = "train") -> Prompts:
        """Read the file; raises ValueError if it cannot be used, or has no line of this split."""
        lines = read_prompts(self.path)
        kept = lines[self.held_out :] if split == "train" else lines[: self.held_out]
        if not kept:
            rest = "to train on" if split == "train" else "to validate with"
            raise ValueError(f"{self.path} has {len(lines)} prompts; held_out={self.held_out} leaves none {rest}")
        return Prompts(self.path, kept)


class Prompts:
    """Lines of a file as a dataset without pictures; `size` of a record is (0, 0), that nothing has."""

    def __init__(self, file: Path, lines: list[PromptLine]) -> None:
        self.name, self.folder, self.lines = file.stem, file.parent, lines

    def __len__(self) -> int:
        return len(self.lines)

    def record(self, index: int) -> Record:
        """Its wordings, and the sizes of its input images by their headers; raises SampleError."""
        line = self.lines[index]
        sizes: list[Size] = []
        for name in line.images:
            with self._named(name), (self.folder / name).open("rb") as file:
                sizes.append(image_size(file))
        captions = [Caption(line.short, "short"), Caption(line.rich, "rich")]
        return Record(
            name=f"{self.name}:{index}",
            size=(0, 0),
            captions=tuple(captions[line.short == line.rich :]),
            inputs=tuple(sizes),
        )

    def inputs(self, index: int) -> tuple[np.ndarray, ...]:
        """The input images, (height, width, 4) uint8 each; raises SampleError."""
        found = []
        for name in self.lines[index].images:
            with self._named(name):
                found.append(np.asarray(open_image(self.folder / name).convert("RGBA")))
        return tuple(found)

    def sample(self, index: int) -> Sample:
        """Raises SampleError: there is no picture."""
        raise SampleError("a file of prompts has no pictures to learn from; name another kind of data", "picture")

    def digest(self, index: int) -> str:
        """Of the line and its input images; raises SampleError."""
        found = hashlib.blake2b(repr(self.lines[index]).encode(), digest_size=16)
        for image in self.inputs(index):
            found.update(image.tobytes())
        return found.hexdigest()

    @contextlib.contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """Within the block what is wrong with an input image bears its name."""
        try:
            yield
        except ImageError as error:
            raise SampleError(f"{self.folder / name}: {error}", "broken") from None
        except OSError as error:
            raise SampleError(f"{self.folder / name}: cannot be read: {error.strerror}", "missing") from None


def input_images(dataset: Dataset, index: int) -> tuple[np.ndarray, ...]:
    """The input images of a sample, which may have no picture besides; raises SampleError."""
    return dataset.inputs(index) if isinstance(dataset, Prompts) else dataset.sample(index).inputs


def read_prompts(file: Path) -> list[PromptLine]:
    """All prompts of a file.

    Raises:
        ValueError: a missing or empty file, or a line that is no prompt; the message names the line.
    """
    found = []
    for number, line in read_lines(file, "prompts"):
        try:
            plain = decode(line).strip()
            row = parse_json(plain) if plain.startswith("{") else {"rich": plain}
            found.append(_prompt(row))
        except TextError as error:
            raise ValueError(f"{file}, line {number} {error}") from None
    if not found:
        raise ValueError(f"{file} holds no prompt")
    return found


def _prompt(row: Any) -> PromptLine:
    rich = row.get("rich") or row.get("prompt")
    short = row.get("short") or rich
    if not isinstance(rich, str) or not isinstance(short, str) or not (rich.strip() and short.strip()):
        raise TextError("has neither 'rich' nor 'prompt' as text, or a 'short' that is none")
    images = row.get("images", [])
    if not isinstance(images, list) or not all(isinstance(name, str) and name for name in images):
        raise TextError('names its input images otherwise than as "images": ["a.png"]')
    return PromptLine(rich, short, tuple(images))
