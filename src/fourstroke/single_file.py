"""One part of a model in one file, by ComfyUI's names (`comfy_names`) or ours: safetensors, or GGUF.

A plain weight stays mapped. Of numbers in fewer bits, fp8 and int8 stay so: in the file they have one scale, or one a
row, and `comfy_quant` says in JSON how they are kept. What is kept in another way is spread out, one tensor after the
other: int8 of rotated columns ("convrot"), and all of GGUF but plain numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourstroke.checkpoint import CheckpointError, open_tensors
from fourstroke.comfy_names import SIGNS, comfy_name, has_time_axis, parts_of
from fourstroke.files import user_path
from fourstroke.mapped import Pending, map_file, read_metadata, release
from fourstroke.quantized import LARGEST, SCALE, STORED, QuantizedWeight, fits, quantized, unpacked

SAID = {"transformer": "a transformer", "text_encoder": "a text encoder", "vae": "an autoencoder"}
"""Parts, as messages name them."""
BLOCKS = {"transformer": "transformer_blocks.", "text_encoder": "language_model.layers.", "vae": "?"}
"""What names of weights in a part's repeated blocks contain."""
SUFFIXES = (".safetensors", ".gguf")
FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise")
"""What `comfy_quant` may say here."""
SCALES = (".weight_scale", ".scale_weight")
BESIDE = (*SCALES, ".comfy_quant", ".input_scale", ".scale_input", "scaled_fp8")
"""Ends of names of what is no weight."""


Weights = dict[str, Tensor | Pending]
Pieces = dict[str, list[Tensor | Pending]]


def is_single_file(path: str | Path) -> bool:
    """Whether a path names one file of weights."""
    return str(path).lower().endswith(SUFFIXES)


def read_parts(path: Path) -> dict[str, Weights]:
    """The parts of this family that a file holds, each with its weights by our names.

    Weights are mapped, `QuantizedWeight`s over what is mapped, or must be computed.

    Raises:
        CheckpointError: the file is missing, damaged, no part of this family, or keeps numbers in a way not known here.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; name a file of weights")
    if path.suffix.lower() == ".gguf":
        from fourstroke.gguf_file import read_gguf

        held = _known(read_gguf(path), path)
        return {part: {name: rows.weight() for name, rows in found.items()} for part, found in held.items()}
    with open_tensors(path):  # checks that the file is whole
        pass
    try:
        tensors = map_file(path)
        said = json.loads(read_metadata(path).get("_quantization_metadata", "{}")).get("layers", {})
        for name, way in said.items():
            tensors.setdefault(f"{name}.comfy_quant", torch.tensor(list(json.dumps(way).encode()), dtype=torch.uint8))
        held = _known(tensors, path)
        if "vae" in held:
            held["vae"] = {name: t.squeeze(2) if t.ndim == 5 else t for name, t in held["vae"].items()}
        return {part: _joined(found) for part, found in held.items()}
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


@dataclass(frozen=True)
class PartFile:
    """A part of a model in a single file, see `read_parts`."""

    path: Path
    part: str
    weights: Weights

    @classmethod
    def read(cls, path: str | Path, part: str) -> PartFile:
        """Open a file; raises `CheckpointError` as `read_parts`, and for a file without this part."""
        held = read_parts(user_path(path))
        if part not in held:
            raise CheckpointError(f"{path} holds {' and '.join(SAID[name] for name in held)}, and not {SAID[part]}")
        return cls(user_path(path), part, held[part])

    def tensors(self, dtype: torch.dtype, method: str | None = None) -> dict[str, Tensor]:
        """All weights: what is pending is computed, one after the other, and kept as `dtype`.

        With a `method` matrices of the part's blocks are at once kept in so few bits.
        """

        def keep(name: str, weight: Tensor) -> Tensor:
            weight = weight.to(dtype)
            inner = BLOCKS[self.part] in name
            return quantized(weight, method) if method and inner and fits(weight, method) else weight

        return {
            name: weight if isinstance(weight, Tensor) else keep(name, weight.make())
            for name, weight in self.weights.items()
        }


def spread(weights: Mapping[str, Tensor | Pending]) -> Weights:
    """The same with plain numbers only: fewer bits wait to be spread out, as does what is pending."""
    return {
        name: Pending(weight.shape, weight.plain) if isinstance(weight, QuantizedWeight) else weight
        for name, weight in weights.items()
    }


def by_comfy_names(weights: Mapping[str, Tensor | Pending], part: str, fp8: bool = False) -> Pieces:
    """Plain weights of a part by ComfyUI's names, each in pieces that lie one after the other in its rows.

    With `fp8` the matrices of the part's blocks are kept so, each with one scale, as ComfyUI's `fp8_scaled` files are.
    """
    found: Pieces = {}
    matrices = set()
    for own in sorted(weights):  # the gate's name comes before the projection's
        name, weight = comfy_name(own, part, weights), weights[own]
        if part == "vae" and len(weight.shape) == 4 and has_time_axis(name):
            shape = torch.Size((*weight.shape[:2], 1, *weight.shape[2:]))
            weight = weight.view(shape) if isinstance(weight, Tensor) else weight.then(lambda t: t[:, :, None], shape)
        found.setdefault(name, []).append(weight)
        if fp8 and BLOCKS[part] in own and len(weight.shape) == 2:
            matrices.add(name)
    for name in matrices:
        found |= _scaled(name.removesuffix(".weight"), found[name])
    return found


def _scaled(stem: str, pieces: Sequence[Tensor | Pending]) -> Pieces:
    """A matrix in fp8: numbers up to 448, their scale, and the note that says so."""
    kind = torch.float8_e4m3fn

    def rows(piece: Tensor | Pending) -> Tensor:
        return (piece.make() if isinstance(piece, Pending) else piece).float()

    @cache
    def scale() -> Tensor:
        largest = max(float(rows(piece).abs().max()) for piece in pieces)
        return torch.tensor(largest / LARGEST[kind] if largest else 1.0)

    def few(piece: Tensor | Pending) -> Tensor:
        numbers = (rows(piece) / scale()).to(kind)
        if isinstance(piece, Tensor):
            release(piece)
        return numbers

    said = torch.tensor(list(json.dumps({"format": FORMATS[0]}).encode()), dtype=torch.uint8)
    return {
        f"{stem}.weight": [Pending(piece.shape, partial(few, piece), kind) for piece in pieces],
        f"{stem}{SCALES[0]}": [Pending(torch.Size(()), scale, torch.float32)],
        f"{stem}.comfy_quant": [said],
    }


def _known(tensors: Mapping[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """The parts of a file; raises `CheckpointError` if it has none of this family."""
    if held := parts_of(tensors):
        return held
    if any(".lora_" in name or name.endswith(".alpha") for name in tensors):
        raise CheckpointError(f"{path} is an adapter: name the model that it adapts, and this as a lora")
    raise CheckpointError(
        f"{path} is no part of a Qwen-Image-2.1 model: it has none of {', '.join(SIGNS.values())} (its first tensor is "
        f"{next(iter(tensors), 'none')})"
    )


def _joined(tensors: Mapping[str, Tensor]) -> Weights:
    """Numbers in fewer bits with their scales; raises ValueError for a way that is not known here."""
    found: Weights = {}
    for name, numbers in tensors.items():
        if name.endswith(BESIDE):
            continue
        stem = name.removesuffix(".weight")
        scale = next((tensors[stem + suffix] for suffix in SCALES if stem + suffix in tensors), None)
        said = tensors.get(f"{stem}.comfy_quant")
        way = json.loads(bytes(said.tolist())) if said is not None else {}
        if way.get("format", FORMATS[0]) not in FORMATS:
            raise ValueError(f"{name} is kept as {way['format']}, which is not read here; take bf16, fp8 or int8")
        if numbers.itemsize > 1:
            found[name] = numbers
        elif numbers.dtype == STORED["int4"] and scale is not None:  # as our folders have it
            found |= unpacked({name: numbers, name + SCALE: scale})
        else:
            found[name] = _few(name, numbers, scale, way)
    return found


def _few(name: str, numbers: Tensor, scale: Tensor | None, way: Mapping[str, Any]) -> Tensor | Pending:
    scale = torch.ones(()) if scale is None else scale
    if numbers.ndim < 2 or numbers.dtype == torch.uint8 or scale.numel() not in (1, numbers.shape[0]):
        raise ValueError(f"{name} is {tuple(numbers.shape)} of {numbers.dtype} with {scale.numel()} scales")
    shape = (-1, *[1] * (numbers.ndim - 1))
    rows = scale.float().reshape(shape).expand(numbers.shape[0], *shape[1:]).contiguous()
    group = int(way.get("convrot_groupsize", 256)) if way.get("convrot") else 0
    if not group and numbers.ndim == 2 and numbers.dtype != torch.float8_e5m2 and "embed" not in name:
        return QuantizedWeight(numbers, rows, torch.bfloat16)
    if group and (numbers.shape[-1] % group or 4 ** round(math.log(group, 4)) != group):
        raise ValueError(f"{name} is rotated in groups of {group}; it should be a power of 4 that divides its columns")

    def make() -> Tensor:
        plain = numbers.float() * rows
        return (plain.unflatten(-1, (-1, group)) @ hadamard(group)).flatten(-2) if group else plain

    return Pending(numbers.shape, make)


def hadamard(size: int) -> Tensor:
    """The regular Hadamard matrix of a power of 4: orthonormal, symmetric, and so its own inverse."""
    whole, small = torch.ones(1, 1), torch.ones(4, 4) - 2 * torch.eye(4).flip(0)
    while len(whole) < size:
        whole = torch.kron(whole, small)
    return whole / math.sqrt(size)
