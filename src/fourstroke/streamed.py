"""Writing safetensors tensor by tensor: none is in memory but the one under way."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fourstroke.mapped import DTYPES, HEADER, Pending, release

NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_tensors(
    path: Path,
    tensors: Mapping[str, Sequence[Tensor | Pending]],
    on_bytes: Callable[[int], None] = lambda _: None,
) -> None:
    """Write a file whose bytes are those of `safetensors.torch.save_file` for the same tensors.

    Args:
        path: of the new file.
        tensors: each in pieces that lie one after the other in its rows.
        on_bytes: called with the bytes of each piece once it is written.
    """
    kinds = {name: pieces[0].dtype for name, pieces in tensors.items()}
    order = sorted(tensors, key=lambda name: (-kinds[name].itemsize, NAMES[kinds[name]], name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in order:
        pieces = tensors[name]
        shape = [sum(piece.shape[0] for piece in pieces), *pieces[0].shape[1:]] if pieces[0].shape else []
        stop = start + kinds[name].itemsize * torch.Size(shape).numel()
        header[name] = {"dtype": NAMES[kinds[name]], "shape": shape, "data_offsets": [start, stop]}
        start = stop
    words = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    words += b" " * (-len(words) % HEADER)
    with path.open("wb") as file:
        file.write(len(words).to_bytes(HEADER, "little") + words)
        for name in order:
            for piece in tensors[name]:
                plain = (piece.make() if isinstance(piece, Pending) else piece).to(kinds[name]).contiguous()
                plain.flatten().view(torch.uint8).numpy().tofile(file)
                if isinstance(piece, Tensor):
                    release(piece)
                on_bytes(plain.nbytes)
