"""Weights that stay in their files: tensors over mapped pages, read when first touched and given back at will.

A mapped page belongs to the system's file cache. It counts as memory of the process while it is mapped, and the system
takes it back when it needs room. `release` lets go of it at once; the next use reads it again, mostly from the cache.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from torch import Tensor

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Types of numbers by their names in safetensors files."""
HEADER = 8
"""Bytes of the number with which a safetensors file begins, the length of its header."""


@dataclass(frozen=True)
class Pending:
    """A weight that is not in the file as such: `make` computes it, of any type of number, to be written as `dtype`."""

    shape: torch.Size
    make: Callable[[], Tensor] = field(compare=False)
    dtype: torch.dtype = torch.bfloat16

    def then(self, change: Callable[[Tensor], Tensor], shape: torch.Size | None = None) -> Pending:
        """The same, changed."""
        return Pending(self.shape if shape is None else shape, lambda: change(self.make()))


LINUX = {"MADV_WILLNEED": 3, "MADV_DONTNEED": 4, "MADV_PAGEOUT": 21}
"""Advices by number; Python has no name for the last."""

_maps: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()
"""What is mapped now, by the address where it begins."""


def read_header(path: Path) -> tuple[dict[str, tuple[torch.dtype, tuple[int, ...], int, int]], int]:
    """What a safetensors file holds, type, shape and place (first byte and end) by name, and where its data begins.

    Raises:
        ValueError: the header is damaged, or a tensor has a type that is not known here.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(HEADER), "little")
        header = json.loads(file.read(length))
    found = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{name} is of the type {entry['dtype']}, which is not known here")
        found[name] = (DTYPES[entry["dtype"]], tuple(entry["shape"]), *entry["data_offsets"])
    return found, HEADER + length


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(HEADER), "little")))
    return dict(header.get("__metadata__") or {})


def map_file(path: Path) -> dict[str, Tensor]:
    """All tensors of a whole safetensors file, on the CPU; nothing of their values is read yet.

    What is written into them stays in this process, and not in the file.

    Raises:
        ValueError: as `read_header`.
    """
    header, data = read_header(path)
    if path.stat().st_size == data:
        return {name: torch.empty(shape, dtype=dtype) for name, (dtype, shape, _, _) in header.items()}
    with path.open("rb") as file:
        mapping = _map(file.fileno())
    whole = torch.frombuffer(mapping, dtype=torch.uint8)
    _maps[whole.data_ptr()] = mapping
    tensors = {}
    for name, (dtype, shape, start, stop) in header.items():
        numbers = whole[data + start : data + stop]
        if (data + start) % dtype.itemsize:  # not where numbers of this size can be read
            numbers = numbers.clone()
        tensors[name] = numbers.view(dtype).view(shape)
    return tensors


def release(tensor: Tensor) -> None:
    """Give back the memory of a mapped tensor, which is read again when it is next used; others stay as they are.

    What was written into it is lost.
    """
    _advise(tensor, "MADV_DONTNEED")


def evict(tensor: Tensor) -> None:
    """As `release`, and from the system's file cache too (Linux): other files keep their place in it."""
    _advise(tensor, "MADV_PAGEOUT")
    _advise(tensor, "MADV_DONTNEED")


def prefetch(tensor: Tensor) -> None:
    """Have the system read a mapped tensor from the disk, in the background."""
    _advise(tensor, "MADV_WILLNEED")


def _advise(tensor: Tensor, advice: str) -> None:
    """Advise on the pages that are the tensor's alone."""
    mapping = _maps.get(tensor.untyped_storage().data_ptr()) if tensor.device.type == "cpu" else None
    number = LINUX.get(advice) if sys.platform == "linux" else getattr(mmap, advice, None)
    if mapping is None or number is None:
        return
    first = tensor.data_ptr() - tensor.untyped_storage().data_ptr()
    start = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
    stop = (first + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if stop > start:
        with contextlib.suppress(OSError):  # a kernel without it, or pages that are locked
            mapping.madvise(number, start, stop - start)


def _map(file: int) -> mmap.mmap:
    if os.name != "posix":
        return mmap.mmap(file, 0, access=mmap.ACCESS_COPY)
    flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0)
    return mmap.mmap(file, 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
