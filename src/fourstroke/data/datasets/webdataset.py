"""Tar shards as webdataset writes them: members of one name up to the first dot are a sample.

`000.jpg` (or any picture) with `000.txt`, `000.caption` or `000.json` is a picture with captions. An edit has its
images as `000.source.jpg` (or `source0`, `source1` …), its result as `000.target.jpg` or `000.jpg`, and a mask, if
there is one, as `000.mask.png`. Shards are read at any place. Those from elsewhere are fetched whole into a folder of
bounded size, and what they hold is noted there once.
"""

from __future__ import annotations

import glob
import io
import re
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, ClassVar

from fourstroke.data.datasets import captions
from fourstroke.data.datasets.items import SUFFIXES, Blob, File, Item, ItemDataset, nothing, of_split, starts
from fourstroke.data.datasets.remote import ShardStore, is_remote
from fourstroke.data.sample import Caption, Dataset, Hints, SampleError, Split
from fourstroke.files import user_path
from fourstroke.image_io import ImageError, read_bytes
from fourstroke.ranges import Fraction, Positive, check_ranges

THREADS = 4
PICTURE = ("", "image", "target", "output", "edited")
"""What may stand between the first dot and the suffix of the picture itself."""
SOURCE = re.compile(r"(source|input|original)[._-]?(\d*)")
BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, kw_only=True)
class WebDatasetData:
    """Samples of shards."""

    kind: ClassVar[str] = "webdataset"
    shards: tuple[str, ...] | str
    """Files, globs, http(s) addresses, or `pipe:COMMAND` whose output is a shard; `{000..127}` and `{a,b}` are spelled
    out."""
    captions: tuple[str, ...] = ()
    """Keys of `.json` members that hold captions; the usual ones where this is left out."""
    held_out: Fraction = 0.0
    """Share that is kept for validation, chosen by a hash of the name."""
    cache: Path = Path("~/.cache/fourstroke/shards")
    """Where fetched shards lie."""
    cache_gb: Positive = 50.0
    """Most that they take; those that were not read for longest go first."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def open(self, split: Split = "train") -> Dataset:
        """List the shards' members; raises ValueError if there is no sample."""
        named = (self.shards,) if isinstance(self.shards, str) else self.shards
        shards = [found for pattern in named for spelled in expand(pattern) for found in _found(spelled)]
        if not shards:
            raise ValueError(f"no shards at {', '.join(named)}: no file is so named")
        store = ShardStore(user_path(self.cache), int(self.cache_gb * 1e9))
        skipped: dict[str, tuple[str, str]] = {}
        blocks: list[list[Item]] = []
        with ThreadPoolExecutor(THREADS) as pool:
            read = pool.map(lambda shard: _read(shard, store, self.captions), shards)
            for shard, (items, refused) in zip(shards, read, strict=True):
                prefix = "" if len(shards) == 1 else f"{shard_name(shard)}/"
                skipped |= {f"{prefix}{name}" if name else shard: reason for name, reason in refused.items()}
                blocks.append([_renamed(item, prefix) for item in items])
        items = [item for block in blocks for item in block]
        if not items:
            raise nothing(f"no pictures in the shards {', '.join(named)}", skipped)
        kept = of_split(items, split, self.held_out, ", ".join(named))
        own = {id(item) for item in kept}
        lengths = [sum(id(item) in own for item in block) for block in blocks]
        hints = Hints(blocks=starts([length for length in lengths if length]), skipped=skipped)
        return ItemDataset(shard_name(shards[0]), kept, hints, self.captions)


@dataclass(frozen=True)
class RemoteFile:
    """`size` bytes at `offset` of a shard that lies elsewhere."""

    store: ShardStore
    shard: str
    offset: int
    size: int

    def read(self) -> bytes:
        """All bytes, for which the shard is fetched if it is not there; raises ImageError."""
        for last in (False, True):
            try:
                return read_bytes(self.store.fetch(self.shard), self.offset, self.size)
            except ImageError:  # another process may just have made room
                if last:
                    raise
        raise AssertionError

    def open(self) -> IO[bytes]:
        """The bytes as a stream; raises ImageError."""
        return io.BytesIO(self.read())


def expand(pattern: str) -> list[str]:
    """A pattern with `{000..127}` and `{a,b}` spelled out; commands of `pipe:` too."""
    match = BRACES.search(pattern)
    if match is None:
        return [pattern]
    body = match[1]
    if bounds := re.fullmatch(r"(\d+)\.\.(\d+)", body):
        first, last = int(bounds[1]), int(bounds[2])
        parts = [str(number).zfill(len(bounds[1])) for number in range(first, last + 1)]
    elif "," in body:
        parts = body.split(",")
    else:  # of a command, say
        return [pattern]
    return [whole for part in parts for whole in expand(pattern[: match.start()] + part + pattern[match.end() :])]


def shard_name(shard: str) -> str:
    """A short name of a shard: the last part of its path or address."""
    return re.split(r"[/\s]", shard.split("?")[0].rstrip("/ -"))[-1]


def _found(pattern: str) -> list[str]:
    if is_remote(pattern):
        return [pattern]
    path = user_path(pattern)
    if path.is_dir():
        return sorted(map(str, path.glob("*.tar")))
    return sorted(glob.glob(str(path))) if glob.has_magic(str(path)) else [str(path)]


def _read(shard: str, store: ShardStore, keys: Sequence[str]) -> tuple[list[Item], dict[str, tuple[str, str]]]:
    """The samples of a shard, and what in it is none; the name "" is the shard itself."""
    skipped: dict[str, tuple[str, str]] = {}
    if not is_remote(shard):
        members = _members(Path(shard), skipped)
        return list(_items(members, lambda offset, size: File(Path(shard), offset, size), skipped)), skipped
    rows = store.notes(shard, keys)
    if rows is None:
        try:
            with store.held(shard) as path:
                local = list(_items(_members(path, skipped), lambda offset, size: File(path, offset, size), skipped))
                rows = {"items": _noted(local, keys, skipped), "skipped": skipped}
        except ImageError as error:
            return [], {"": ("shard", str(error))}
        store.note(shard, keys, rows)
    skipped = {name: (stage, reason) for name, (stage, reason) in rows["skipped"].items()}
    return [_remote_item(row, store, shard) for row in rows["items"]], skipped


def _members(path: Path, skipped: dict[str, tuple[str, str]]) -> list[tuple[str, int, int]]:
    """Name, offset and size of each file in a shard, as far as it can be read."""
    members: list[tuple[str, int, int]] = []
    try:
        length = path.stat().st_size
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                if member.isfile():
                    members.append((member.name, member.offset_data, member.size))
    except FileNotFoundError:
        skipped[""] = ("shard", "there is no such file")
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        reason = " ".join((getattr(error, "strerror", None) or str(error)).split())
        skipped[""] = ("shard", f"damaged, or no tar file: {reason}")
    while members and members[-1][1] + members[-1][2] > length:
        name, _, _ = members.pop()
        skipped[name] = ("shard", "cut off")
    return members


def _items(members: Sequence[tuple[str, int, int]], blob: Any, skipped: dict[str, tuple[str, str]]) -> Iterator[Item]:
    """Members as samples."""
    samples: dict[str, dict[str, Blob]] = {}
    for name, offset, size in members:
        folder, slash, base = name.rpartition("/")
        if not base.startswith("."):
            stem, _, extension = base.partition(".")
            samples.setdefault(f"{folder}{slash}{stem}", {})[extension.lower()] = blob(offset, size)
    for key, parts in samples.items():
        pictures, notes = {}, []
        for extension, part in parts.items():
            middle, _, suffix = extension.rpartition(".")
            if f".{suffix}" in SUFFIXES:
                pictures[middle] = part
            elif f".{suffix}" in captions.SUFFIXES:
                notes.append((f"{key}.{extension}", part))
        mask = pictures.pop("mask", None)
        sources = {int(m[2] or 0): pictures.pop(name) for name in list(pictures) if (m := SOURCE.fullmatch(name))}
        image = next((pictures[name] for name in (*PICTURE, *pictures) if name in pictures), None)
        if image is None:
            skipped[key] = ("shard", f"no picture, only {', '.join(parts)}")
            continue
        inputs = tuple(sources[number] for number in sorted(sources))
        yield Item(name=key, image=image, notes=tuple(notes), inputs=inputs, mask=mask)


def _noted(items: Sequence[Item], keys: Sequence[str], skipped: dict[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """All of samples but their pixels, as plain data."""
    dataset, rows = ItemDataset("", items, Hints(), keys), []
    for index, item in enumerate(items):
        try:
            record, digest = dataset.record(index), dataset.digest(index)
        except SampleError as error:
            skipped[item.name] = error.stage, str(error)
            continue
        files = [item.image, *item.inputs, *([] if item.mask is None else [item.mask])]
        rows.append(
            {
                "name": item.name,
                "digest": digest,
                "files": [[file.offset, file.size] for file in files if isinstance(file, File)],
                "sizes": [record.size, *record.inputs],
                "captions": [[caption.text, caption.kind] for caption in record.captions],
            }
        )
    return rows


def _remote_item(row: dict[str, Any], store: ShardStore, shard: str) -> Item:
    files = [RemoteFile(store, shard, offset, size) for offset, size in row["files"]]
    sizes = tuple((width, height) for width, height in row["sizes"])
    return Item(
        name=row["name"],
        digest=row["digest"],
        image=files[0],
        inputs=tuple(files[1 : len(sizes)]),
        mask=files[len(sizes)] if len(files) > len(sizes) else None,
        captions=tuple(Caption(text, kind) for text, kind in row["captions"]),
        sizes=sizes,
    )


def _renamed(item: Item, prefix: str) -> Item:
    return replace(item, name=f"{prefix}{item.name}")
