"""What drawing with a checkpoint needs, from the headers of its files, before any weight is read.

Weights are counted exactly; what passes through them is estimated for one picture of the model's own size after
`PROMPT` tokens. On a CPU, weights that stay mapped are not needed all at once: where there is no room for them the
system reads them from the disk again at every use, which is slow and not impossible.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourstroke.checkpoint import CheckpointError, open_tensors, read_json, read_quantization, weight_files
from fourstroke.choices import OFFLOADS
from fourstroke.dit import TransformerConfig
from fourstroke.folder import ModelInfo
from fourstroke.mapped import Pending, read_header
from fourstroke.quantized import BYTES, SCALE, STORED, packed
from fourstroke.single_file import BLOCKS, PartFile

GIB = 2**30
PROMPT = 1000
"""Tokens before the picture's own."""
OVERHEAD = {"cpu": 0.6, "cuda": 1.0}
"""GiB that PyTorch itself takes."""
PARTS = {
    "transformer": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}
"""By part, which is its folder: its file."""


class DoesNotFit(ValueError):  # noqa: N818 - reads as the sentence it is
    """A model that this machine has no memory for; the message says what to add."""


class MemoryWarning(UserWarning):
    """A model that is larger than the memory for it; the message says what follows."""


@dataclass(kw_only=True)
class Stored:
    """A part's weights in its files, in numbers: matrices of its blocks, the rest of them, and what is outside.

    `method` says in how few bits the matrices are already; `dtype` is that of most others, and None where weights must
    be computed from what is in the file.
    """

    matrices: int = 0
    inside: int = 0
    outside: int = 0
    blocks: set[str] = field(default_factory=set)
    method: str | None = None
    dtype: torch.dtype | None = torch.float32

    @classmethod
    def read(cls, base: Path, part: str, file: PartFile | None = None) -> Stored:
        """From the headers of a part's files, or from the single file in their place.

        Raises:
            CheckpointError: a file is missing, truncated or damaged.
        """
        word = BLOCKS[part]
        found, kinds = cls(), {torch.float32: 0}
        entries: dict[str, tuple[torch.dtype | None, tuple[int, ...]]]
        if file is None:
            entries = {key: entry for path in weight_files(base / part, PARTS[part]) for key, entry in _header(path)}
        else:
            plain = packed({key: w for key, w in file.weights.items() if isinstance(w, Tensor)})
            entries = {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in plain.items()}
            entries |= {key: (None, tuple(w.shape)) for key, w in file.weights.items() if isinstance(w, Pending)}
        for key, (dtype, shape) in entries.items():
            if dtype is not None and not dtype.is_floating_point and key + SCALE not in entries:
                raise CheckpointError(f"{base / part}: {key} is {dtype}; weights have a point, or a scale")
            if key.startswith("lm_head.") or (key.endswith(SCALE) and key.removesuffix(SCALE) in entries):
                continue
            few = key + SCALE in entries
            count = math.prod(shape) * (2 if few and dtype == STORED["int4"] else 1)
            if few:
                found.method = next((m for m, kind in STORED.items() if kind == dtype), None)
            elif dtype is not None:
                kinds[dtype] = kinds.get(dtype, 0) + count
            if word not in key:
                found.outside += count
                continue
            found.blocks.add(key.partition(word)[2].partition(".")[0])
            if len(shape) == 2:
                found.matrices += count
            else:
                found.inside += count
        pending = any(dtype is None for dtype, _ in entries.values())
        found.dtype = None if pending else max(kinds, key=lambda kind: kinds[kind])
        return found

    def inner(self, dtype: torch.dtype, method: str | None) -> float:
        """GiB of the blocks."""
        method = method or self.method
        return (self.matrices * (BYTES[method] if method else dtype.itemsize) + self.inside * dtype.itemsize) / GIB

    def outer(self, dtype: torch.dtype) -> float:
        """GiB outside the blocks."""
        return self.outside * dtype.itemsize / GIB

    def mapped(self, dtype: torch.dtype, method: str | None) -> bool:
        """Whether the weights stay in their files."""
        kept = None if method is None or self.method is None else STORED[method] == STORED[self.method]
        return dtype == self.dtype and (method is None or bool(kept))


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """A checkpoint as its files tell: its three parts, and what it draws."""

    transformer: Stored
    text: Stored
    vae: Stored
    config: TransformerConfig
    info: ModelInfo

    @classmethod
    def read(cls, base: Path, info: ModelInfo, files: Mapping[str, PartFile] | None = None) -> ModelSize:
        """Read the headers of all weights of a folder; they are found whole before anything is loaded.

        `files` are in the place of parts of it.

        Raises:
            CheckpointError: a file is missing, truncated or damaged.
        """
        file = base / "transformer" / "config.json"
        config = TransformerConfig.from_dict(read_quantization(read_json(file), file), str(file))
        transformer, text, vae = (Stored.read(base, part, (files or {}).get(part)) for part in PARTS)
        return cls(transformer=transformer, text=text, vae=vae, config=config, info=info)

    def passing(self, dtype: torch.dtype) -> float:
        """GiB of one picture beside the weights: keys and values, and a block's activations or decoding."""
        rows, columns = self.info.grid(self.info.width, self.info.height)
        width, size = self.config.width, dtype.itemsize
        cache = 2 * PROMPT * self.config.num_layers * width * size
        block = 12 * (rows * columns + PROMPT) * width * size
        decoding = 200 * self.info.width * self.info.height * size
        return (cache + max(block, decoding)) / GIB

    def needs(
        self, device: torch.device, dtype: torch.dtype, quantize: str | None, offload: str
    ) -> tuple[dict[str, float], float]:
        """GiB by part that must be there at once, and GiB of weights that are read from their files as they are used.

        With an offload the text encoder is never quantised here: each of its layers is used once for a prompt.
        """
        cpu = device.type == "cpu"
        text_method = None if offload != "none" else quantize
        here: dict[str, float] = {"PyTorch": OVERHEAD.get(device.type, 1.0)}
        files = 0.0
        for name, part, method, streams in (
            ("transformer", self.transformer, quantize, offload == "layers"),
            ("text encoder", self.text, text_method, offload != "none"),
            ("autoencoder", self.vae, None, offload != "none"),
        ):
            inner, outer = part.inner(dtype, method), part.outer(dtype)
            if cpu and part.mapped(dtype, method):
                files += inner + outer
                here[f"{name}, a block at a time"] = 2 * inner / max(1, len(part.blocks))
            elif streams and not cpu and part.blocks:
                aside = 0 if name == "text encoder" else outer  # its embedding stays on the CPU
                here[f"{name}, two blocks at a time"] = aside + 2 * inner / len(part.blocks)
            else:
                here[name] = inner + outer
        return here | {"one picture": self.passing(dtype)}, files


def check_memory(
    model: ModelSize, device: torch.device, dtype: torch.dtype, quantize: str | None, offload: str
) -> str | None:
    """Refuse what cannot fit before it is loaded; returns a warning, if there is one.

    Raises:
        DoesNotFit: with the numbers, and with what would fit.
    """
    room, where = _room(device)
    here, files = model.needs(device, dtype, quantize, offload)
    asked = sum(here.values())
    if asked > room:
        raise DoesNotFit(
            f"{model.info.name} needs {asked:.1f} GiB and {where} {room:.1f}: {_advice(model, device, dtype, room)}"
        )
    if files and asked + model.transformer.inner(dtype, quantize) > room and model.transformer.mapped(dtype, quantize):
        return (
            f"{model.info.name} is read from its files as it is used ({files:.1f} GiB, and {where} {room:.1f}): "
            "what has no room comes from the disk at every step"
        )
    return None


CHOICES = tuple((quantize, offload) for quantize in (None, "int8", "int4") for offload in OFFLOADS)


def choices(model: ModelSize, device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    """What each choice of bits and offload needs, GiB that must be there at once and GiB read from files as used."""
    found = []
    for quantize, offload in CHOICES:
        here, files = model.needs(device, dtype, quantize, offload)
        found.append({"quantize": quantize, "offload": offload, "gib": sum(here.values()), "files": files})
    return found


def _advice(model: ModelSize, device: torch.device, dtype: torch.dtype, room: float) -> str:
    """The first choice that fits, from the most exact on."""
    half = torch.bfloat16
    for quantize, offload in (
        (None, "none"), (None, "model"), ("int8", "none"), ("int8", "model"), ("int4", "model"), (None, "layers"),
        ("int8", "layers"), ("int4", "layers"),
    ):  # fmt: skip
        if sum(model.needs(device, half, quantize, offload)[0].values()) <= room:
            words = [] if dtype == half else ["dtype bfloat16"]
            words += [f"quantize {quantize}"] if quantize else []
            words += [f"offload {offload}"] if offload != "none" else []
            return f"{' with '.join(words) or 'neither quantize nor offload'} fits"
    least = min(sum(model.needs(device, half, quantize, "layers")[0].values()) for quantize in (None, "int4"))
    size = f"{model.info.width}x{model.info.height}"
    return f"no dtype, quantize and offload is enough; the smallest choice needs {least:.1f} GiB at {size}"


def _room(device: torch.device) -> tuple[float, str]:
    """GiB that are free on a device, and where that is."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / GIB, "the GPU has free"
    status = Path("/proc/meminfo")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) / 2**20, "this machine has free"
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, "this machine has"


def _header(path: Path) -> Iterator[tuple[str, tuple[torch.dtype, tuple[int, ...]]]]:
    with open_tensors(path):  # checks that the file is whole
        pass
    try:
        found, _ = read_header(path)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    for key, (dtype, shape, _, _) in found.items():
        yield key, (dtype, shape)
