"""Weights from GGUF files, read by the package `gguf`; numbers in fewer bits are spread out row by row."""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourstroke.checkpoint import CheckpointError
from fourstroke.mapped import Pending

PLAIN = {"F32": np.float32, "F16": np.float16}


@dataclass(frozen=True)
class Rows:
    """A tensor of a file, or some of its rows: their bytes, and what the type of its numbers is called."""

    data: np.ndarray[Any, Any]
    kind: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the numbers."""
        from gguf.quants import quant_shape_from_byte_shape

        plain = self.kind.name in PLAIN
        return tuple(self.data.shape) if plain else tuple(quant_shape_from_byte_shape(self.data.shape, self.kind))

    def __getitem__(self, rows: slice) -> Rows:
        return Rows(self.data[rows], self.kind)

    def weight(self) -> Tensor | Pending:
        """Plain numbers as they are mapped, others to be spread out as float32."""
        from gguf.quants import dequantize

        if self.kind.name in PLAIN:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the file is mapped to be read only, and nobody writes
                return torch.from_numpy(self.data)
        return Pending(torch.Size(self.shape), lambda: torch.from_numpy(dequantize(self.data, self.kind)))


def read_gguf(path: Path) -> dict[str, Rows]:
    """All tensors of a file, by its names.

    Raises:
        CheckpointError: the package is missing, the file is damaged, or has a type of numbers that is not known.
    """
    try:
        from gguf import GGUFReader
        from gguf.quants import _type_traits
    except ModuleNotFoundError:
        raise CheckpointError(f"reading {path} needs the package gguf: pip install '.[gguf]'") from None
    try:
        reader = GGUFReader(path)
    except (ValueError, KeyError, IndexError, OSError, struct.error, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{path} is damaged or no GGUF file ({reason}); restore the file") from None
    found = {}
    for tensor in reader.tensors:
        kind = tensor.tensor_type
        if kind.name not in PLAIN and kind not in _type_traits:
            raise CheckpointError(f"{path}: {tensor.name} is of the type {kind.name}, which gguf cannot spread out")
        found[tensor.name] = Rows(tensor.data, kind)
    return found
