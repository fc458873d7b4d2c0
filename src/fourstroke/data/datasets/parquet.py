"""Parquet files as Hugging Face's datasets keeps them: a column of pictures, and columns of captions.

A picture is a struct of `bytes` and `path`, or bytes alone. Row groups are read whole, and the last few are kept, so
that a loader that goes through them a few at a time reads each once.
"""

from __future__ import annotations

import glob
import io
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from fourstroke.data.datasets import captions
from fourstroke.data.datasets.items import Blob, File, Item, ItemDataset, held_out
from fourstroke.data.sample import Dataset, Hints, SampleError, Split
from fourstroke.files import user_path
from fourstroke.image_io import ImageError
from fourstroke.ranges import Fraction, check_ranges

KEPT = 6
"""Row groups that each process keeps."""


@dataclass(frozen=True, kw_only=True)
class ParquetData:
    """Rows of parquet files."""

    kind: ClassVar[str] = "parquet"
    path: str
    """A file, a folder, a glob, or the id of a dataset on the Hugging Face hub, `owner/name`."""
    files: str = "*.parquet"
    """Which files of a folder or of the hub's dataset, such as `train-*.parquet`."""
    image: str = "image"
    captions: tuple[str, ...] = ()
    """Columns that hold captions, by which they are known as kinds; the usual ones where this is left out."""
    inputs: tuple[str, ...] = ()
    """Columns of the images that the picture was edited from, in order."""
    mask: str | None = None
    held_out: Fraction = 0.0
    """Share that is kept for validation, chosen by a hash of file and row."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def open(self, split: Split = "train") -> Dataset:
        """Read the files' footers; raises ValueError if there is no row, or a column is missing."""
        paths, skipped = self._paths(), {}
        groups: list[tuple[Path, int]] = []
        names: list[str] = []
        places: list[tuple[int, int]] = []
        for path in paths:
            try:
                file = _parquet().ParquetFile(path)
            except (OSError, ValueError) as error:
                skipped[path.name] = ("file", f"no parquet file: {' '.join(str(error).split())}")
                continue
            self._check(path, file.schema_arrow.names)
            first = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                for row in range(rows):
                    name = f"{path.name}:{first + row}"
                    if held_out(name, self.held_out) == (split == "heldout"):
                        names.append(name)
                        places.append((len(groups), row))
                groups.append((path, group))
                first += rows
        if not names:
            said = "".join(f"; {name}: {reason}" for name, (_, reason) in skipped.items())
            raise ValueError(f"no rows for {split} in {self.path}, held_out={self.held_out:g}{said}")
        order = np.array(places)
        blocks = np.flatnonzero(np.diff(order[:, 0], prepend=-1)).tolist()
        rows = _Rows(self, groups, order, names)
        return ItemDataset(Path(self.path).name, rows, Hints(blocks=blocks, skipped=skipped), self.captions)

    def _paths(self) -> list[Path]:
        path = user_path(self.path)
        if path.is_file():
            return [path]
        if glob.has_magic(self.path):
            found = sorted(map(Path, glob.glob(str(path), recursive=True)))
        elif path.is_dir():
            found = sorted(path.rglob(self.files))
        elif self.path.count("/") == 1 and not self.path.startswith((".", "~", "/")):
            found = sorted(_from_hub(self.path, self.files).rglob(self.files))
        else:
            raise ValueError(f"no parquet files at {self.path}: there is no such file or folder")
        if not found:
            raise ValueError(f"no parquet files in {self.path}: none is named {self.files}")
        return found

    def _check(self, path: Path, columns: Sequence[str]) -> None:
        wanted = [self.image, *self.inputs, *self.captions, *([] if self.mask is None else [self.mask])]
        if missing := [name for name in wanted if name not in columns]:
            raise ValueError(f"{path} has no column {missing[0]}; its columns are {', '.join(columns)}")


class _Rows:
    """Rows as items, read a row group at a time."""

    def __init__(
        self, config: ParquetData, groups: list[tuple[Path, int]], places: np.ndarray, names: list[str]
    ) -> None:
        self.config, self.groups, self.places, self.names = config, groups, places, names
        self._kept: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_lock": threading.Lock()}

    def __getitem__(self, index: int) -> Item:
        group, place = self.places[index].tolist()
        try:
            row = {name: column[place].as_py() for name, column in self._columns(group).items()}
        except (OSError, ValueError) as error:  # pyarrow's of damaged pages
            reason = " ".join(str(error).split())[:200]
            raise SampleError(f"its row group is damaged: {reason}", "broken", self.names[index]) from None
        config, folder = self.config, self.groups[group][0].parent
        inputs = [blob for name in config.inputs for blob in _blobs(row[name], folder)]
        masks = [] if config.mask is None else _blobs(row[config.mask], folder)
        return Item(
            name=self.names[index],
            image=(_blobs(row[config.image], folder) or [Bytes(None)])[0],
            captions=captions.from_row(row, config.captions),
            inputs=tuple(inputs),
            mask=masks[0] if masks else None,
        )

    def _columns(self, group: int) -> Mapping[str, Any]:
        with self._lock:
            key = os.getpid(), group  # what a parent process read is not trusted after a fork
            if key not in self._kept:
                path, number = self.groups[group]
                file = _parquet().ParquetFile(path)
                config = self.config
                wanted = {config.image, *config.inputs, *(config.captions or captions.KEYS), config.mask or ""}
                columns = [name for name in file.schema_arrow.names if name in wanted]
                table = file.read_row_group(number, columns=columns, use_threads=False)
                self._kept[key] = {name: table.column(name) for name in columns}
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]


@dataclass(frozen=True)
class Bytes:
    """Bytes in memory; None is none."""

    data: bytes | None

    def read(self) -> bytes:
        """All of them; raises ImageError if there are none."""
        if self.data is None:
            raise ImageError("the row holds no picture")
        return self.data

    def open(self) -> IO[bytes]:
        """The bytes as a stream; raises ImageError."""
        return io.BytesIO(self.read())


def _blobs(value: Any, folder: Path) -> list[Blob]:
    """The picture, or pictures, of a cell."""
    if isinstance(value, list):
        return [blob for inner in value for blob in _blobs(inner, folder)]
    if isinstance(value, Mapping):
        data, path = value.get("bytes"), value.get("path")
        return [File(folder / path)] if data is None and isinstance(path, str) else [Bytes(data)]
    return [Bytes(value if isinstance(value, bytes) else None)] if value is not None else []


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ValueError("reading parquet files needs pyarrow: pip install 'fourstroke[data]'") from None
    return pyarrow.parquet


def _from_hub(name: str, files: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=[files, f"**/{files}"]))
    except (RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{name} is no folder here and cannot be had from the hub: {reason}") from None
