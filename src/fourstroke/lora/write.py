"""Writes adapters as diffusers does: its names, and rank and alpha in the file's metadata."""

from __future__ import annotations

import collections
import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from fourstroke.files import atomic_file
from fourstroke.folder import ADAPTER, ADAPTER_WEIGHTS, ModelInfo, write_base, write_info
from fourstroke.lora.adapters import DEFAULT, lora_adapters, lora_parameters
from fourstroke.lora.layers import whole
from fourstroke.lora.read import DIFFUSERS_METADATA

PREFIX = "transformer."


def lora_state_dict(model: nn.Module, name: str = DEFAULT) -> dict[str, Tensor]:
    """The factors as diffusers names them, on the CPU; raises ValueError if there is no adapter of the name."""
    return {PREFIX + key: whole(p.detach()).cpu().contiguous() for key, p in lora_parameters(model, name).items()}


def lora_metadata(model: nn.Module, name: str = DEFAULT) -> dict[str, str]:
    """Rank, alpha and targets as PEFT's config has them; what differs from most layers stands in patterns."""
    adapters = lora_adapters(model, name)
    ranks = {path: adapter.rank for path, adapter in adapters.items()}
    alphas = {path: adapter.scale * adapter.rank for path, adapter in adapters.items()}
    rank, alpha = (collections.Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    config: dict[str, Any] = {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {path: own for path, own in ranks.items() if own != rank},
        "alpha_pattern": {path: own for path, own in alphas.items() if own != alpha},
        "target_modules": list(adapters),
        "lora_dropout": max(adapter.dropout for adapter in adapters.values()),
    }
    packed = json.dumps({PREFIX + key: value for key, value in config.items()}, sort_keys=True)
    return {"format": "pt", DIFFUSERS_METADATA: packed}


def save_lora(where: str | Path, model: nn.Module, name: str = DEFAULT) -> Path:
    """Write an adapter to a `.safetensors` file, or into a folder under the name that diffusers looks for.

    The strength at which it is in use is not written.

    Raises:
        ValueError: there is no adapter of the name.
        WriteError: the file cannot be written.
    """
    file = Path(where)
    if file.suffix != ".safetensors":
        file = file / ADAPTER_WEIGHTS
    tensors, metadata = lora_state_dict(model, name), lora_metadata(model, name)
    with atomic_file(file) as partial:
        save_file(tensors, partial, metadata=metadata)
    return file


def save_adapter(folder: Path, base: str, info: ModelInfo, model: nn.Module, name: str = DEFAULT) -> None:
    """Write a checkpoint that is an adapter of the model `base`; `Pipeline.from_pretrained` merges the two.

    diffusers reads its `lora/` with `load_lora_weights`.
    """
    save_lora(folder / ADAPTER, model, name)
    write_base(folder, base)
    write_info(folder, info)
