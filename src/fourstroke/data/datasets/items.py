"""Samples that lie in files: a picture, captions beside it, and the images that it was edited from."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from fourstroke.data.datasets import captions
from fourstroke.data.sample import Caption, Hints, Record, Sample, SampleError, Size, Split
from fourstroke.image_io import ImageError, decode_image, image_size, read_bytes

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif", ".jxl")
)
"""Of files that are taken for pictures; whichever cannot be read here is named."""


class Blob(Protocol):
    """Bytes of a file, wherever they lie."""

    def read(self) -> bytes:
        """All of them; raises ImageError."""

    def open(self) -> IO[bytes]:
        """To read a part of them; raises ImageError."""


@dataclass(frozen=True)
class File:
    """A file, or `size` bytes of one from `offset` on."""

    path: Path
    offset: int = 0
    size: int | None = None

    def read(self) -> bytes:
        """All bytes; raises ImageError."""
        return read_bytes(self.path, self.offset, -1 if self.size is None else self.size)

    def open(self) -> IO[bytes]:
        """The bytes as a stream; raises ImageError."""
        if self.size is not None:
            return io.BytesIO(self.read())
        try:
            return self.path.open("rb")
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror}") from None


@dataclass(frozen=True, kw_only=True)
class Item:
    """A sample that has not been read."""

    name: str
    image: Blob
    captions: tuple[Caption, ...] = ()
    notes: tuple[tuple[str, Blob], ...] = ()
    """Files with more captions, by name."""
    inputs: tuple[Blob, ...] = ()
    mask: Blob | None = None
    sizes: tuple[Size, ...] = ()
    """Of the picture and its inputs, where they are known already."""
    digest: str = ""
    """Of the pictures' bytes, where it is known already."""
    repeat: int = 1
    meta: Mapping[str, Any] = field(default_factory=dict)


class Items(Protocol):
    """Items by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Item: ...


class ItemDataset:
    """Items as a dataset; files are read when they are asked for."""

    def __init__(self, name: str, items: Items, hints: Hints, keys: Sequence[str] = ()) -> None:
        self.name, self.items, self.hints, self.keys = name, items, hints, keys

    def __len__(self) -> int:
        return len(self.items)

    def record(self, index: int) -> Record:
        """Sizes by the headers of the files, and captions; raises SampleError."""
        item = self.items[index]
        with named(item.name):
            sizes = item.sizes or (_size(item.image, "picture"), *(_size(blob, "source") for blob in item.inputs))
            return self._record(item, sizes[0], sizes[1:])

    def sample(self, index: int) -> Sample:
        """The decoded picture, with what belongs to it; raises SampleError."""
        item = self.items[index]
        with named(item.name):
            return self._sample(item)

    def digest(self, index: int) -> str:
        """Of the bytes of the picture's file and of those of its inputs; raises SampleError."""
        item, digest = self.items[index], hashlib.blake2b(digest_size=16)
        if item.digest:
            return item.digest
        with named(item.name):
            for blob in (item.image, *item.inputs):
                data = _read(blob)
                digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()

    def _sample(self, item: Item) -> Sample:
        image = _pixels(item.image, "picture")
        inputs = tuple(_pixels(blob, "source") for blob in item.inputs)
        mask = None
        if item.mask is not None:
            mask = _pixels(item.mask, "mask")[..., :3].max(2)
            if mask.shape != image.shape[:2]:
                raise SampleError(f"its mask has {mask.shape[1]} x {mask.shape[0]} pixels, not its own size", "mask")
        sizes = tuple((pixels.shape[1], pixels.shape[0]) for pixels in inputs)
        record = self._record(item, (image.shape[1], image.shape[0]), sizes)
        return Sample(record=record, image=image, inputs=inputs, mask=mask)

    def _record(self, item: Item, size: Size, inputs: tuple[Size, ...]) -> Record:
        found = list(item.captions)
        for name, blob in item.notes:
            found += captions.from_file(name, _read(blob, "caption"), self.keys)
        return Record(name=item.name, size=size, captions=tuple(found), inputs=inputs, meta=item.meta)


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Give the SampleErrors of the block the name of a sample, or put the name of its part before it."""
    try:
        yield
    except SampleError as error:
        error.name = f"{name}/{error.name}" if error.name else name
        raise


def held_out(name: str, fraction: float) -> bool:
    """Whether a sample of this name is among the `fraction` of all that is never trained on: a hash of it says so."""
    return _place(name) < fraction * 2**64


def _place(name: str) -> int:
    """Of a name, a hash of 64 bits."""
    return int.from_bytes(hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def of_split(items: Sequence[Item], split: Split, fraction: float, where: object) -> list[Item]:
    """The items of a split; raises ValueError if there is none."""
    kept = [item for item in items if held_out(item.name, fraction) == (split == "heldout")]
    if items and not kept:
        advice = "lower held_out"
        if split == "heldout":
            least = min(_place(item.name) for item in items) / 2**64
            advice = f"raise held_out to {math.floor(least * 100 + 1) / 100:g}"
        raise ValueError(
            f"held_out={fraction:g} leaves none of the {len(items)} samples of {where} to {split}: {advice}"
        )
    return kept


def starts(lengths: Sequence[int]) -> list[int]:
    """First index of each of several consecutive parts."""
    return [0, *np.cumsum(lengths[:-1]).tolist()] if lengths else []


def nothing(what: str, skipped: Mapping[str, tuple[str, str]]) -> ValueError:
    """The error of a dataset without a sample, which names the first that cannot be used."""
    for name, (_, reason) in skipped.items():
        more = f" and {len(skipped) - 1} more" if len(skipped) > 1 else ""
        return ValueError(f"{what}; skipped: {name} ({reason}){more}")
    return ValueError(what)


def _size(blob: Blob, what: str) -> Size:
    try:
        with blob.open() as file:
            return image_size(file)
    except ImageError as error:
        raise _broken(error, what) from None


def _pixels(blob: Blob, what: str) -> np.ndarray:
    try:
        return np.asarray(decode_image(blob.read()).convert("RGBA"))
    except ImageError as error:
        raise _broken(error, what) from None


def _read(blob: Blob, what: str = "picture") -> bytes:
    try:
        return blob.read()
    except ImageError as error:
        raise _broken(error, what) from None


def _broken(error: ImageError, what: str) -> SampleError:
    return SampleError(str(error) if what == "picture" else f"its {what}: {error}", "broken")
