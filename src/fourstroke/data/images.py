"""Pictures of folders and webdataset shards, in order of their names: read safely, broken ones are reported.

VAE-2.0 report, section Curriculum, trains on real pictures; these are anybody's own. A shard is a tar file whose
members are pictures (captions and other members beside them are passed over). What cannot be read is skipped, counted
and named, never fatal; a folder without a single picture is an error at once.
"""

from __future__ import annotations

import itertools
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from fourstroke.image_io import ADDRESS, MAX_PIXELS, ImageError, decode_image, is_address, read_bytes

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"))


@dataclass(frozen=True)
class Entry:
    """Where a picture lies: a file, or `size` bytes at `offset` of a shard."""

    name: str
    path: Path
    offset: int = 0
    size: int | None = None

    def read(self) -> bytes:
        """Its bytes; raises ImageError if the file is gone."""
        return read_bytes(self.path, self.offset, -1 if self.size is None else self.size)


@dataclass
class Report:
    """What became of a set of pictures; one that was read twice counts twice."""

    used: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    """Name to reason."""

    def __str__(self) -> str:
        if not self.skipped:
            return f"{self.used} pictures read, none skipped"
        few = [f"{name} ({why})" for name, why in itertools.islice(self.skipped.items(), 5)]
        more = f" and {len(self.skipped) - len(few)} more" if len(self.skipped) > len(few) else ""
        return f"{self.used} pictures read, {len(self.skipped)} skipped: {', '.join(few)}{more}"


class Images:
    """The pictures of a file, a folder with all below it, or webdataset shards (.tar), in order of their names.

    Raises:
        ValueError: if there is nothing of the name, or no picture in it.
    """

    def __init__(self, source: str | Path) -> None:
        source = Path(source)
        if not source.exists():
            reason = ADDRESS if is_address(source) else "there is no such file or folder"
            raise ValueError(f"no pictures at {source}: {reason}")
        self.report = Report()
        files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
        root = source if source.is_dir() else source.parent
        self.entries: list[Entry] = []
        for path in files:
            name = path.relative_to(root).as_posix()
            if path.suffix.lower() == ".tar":
                self.entries += self._members(path, name)
            elif path.suffix.lower() in SUFFIXES:
                self.entries.append(Entry(name, path))
        if not self.entries:
            broken = f"; {self.report}" if self.report.skipped else ""
            raise ValueError(f"no pictures in {source}: neither {' '.join(sorted(SUFFIXES))} nor .tar shards{broken}")

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        """Name and picture (H, W, 4) uint8 of each that can be read; `report` says what came of the others."""
        for entry in self.entries:
            try:
                picture = read_image(entry.read())
            except ImageError as error:
                self.skip(entry.name, str(error))
                continue
            self.report.used += 1
            yield entry.name, picture

    def spread(self, count: int) -> None:
        """Put `count` pictures evenly spread over all first, in order, and the others behind them: a few classes of a
        folder of classes do not stand for all.
        """
        total = len(self.entries)
        first = [total * index // count for index in range(count)] if 0 < count < total else range(total)
        chosen = set(first)
        rest = [entry for index, entry in enumerate(self.entries) if index not in chosen]
        self.entries = [self.entries[index] for index in first] + rest

    def skip(self, name: str, reason: str) -> None:
        """Note that a picture is not used."""
        self.report.skipped[name] = reason

    def _members(self, path: Path, name: str) -> list[Entry]:
        """The pictures of a shard, as far as it can be read."""
        entries: list[Entry] = []
        try:
            with tarfile.open(path, "r:") as shard:
                for member in shard:
                    if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES:
                        entries.append(Entry(f"{name}/{member.name}", path, member.offset_data, member.size))
        except (tarfile.TarError, OSError, EOFError) as error:
            self.skip(name, f"damaged shard: {' '.join(str(error).split())}")
        return entries


def read_image(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """An encoded picture as (H, W, 4) uint8 sRGB values and alpha, opaque if it knows no transparency.

    Read as `image_io.decode_image` does; raises ImageError as it does.
    """
    return np.asarray(decode_image(data, max_pixels).convert("RGBA"))


def square(picture: np.ndarray, side: int) -> np.ndarray:
    """(H, W, 3 or 4) uint8 as ImageNet's pictures are measured at a size: the shorter side scaled to `side` (by halves
    with a box filter while it is twice as long, then bicubic), the centre cut out.
    """
    image = Image.fromarray(picture)
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    size = max(side, round(image.width * scale)), max(side, round(image.height * scale))
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)))


def crop_to_multiple(picture: np.ndarray, multiple: int) -> np.ndarray:
    """The centre of (H, W, c) whose sides are multiples of `multiple`; raises ImageError where nothing is left."""
    height, width = (side // multiple * multiple for side in picture.shape[:2])
    if not height or not width:
        raise ImageError(f"{picture.shape[1]} x {picture.shape[0]} pixels, less than {multiple} a side")
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]
