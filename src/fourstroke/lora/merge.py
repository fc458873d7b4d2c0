"""Adapters as part of the weights: for a while, for a checkpoint, or for good."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from fourstroke.lora.adapters import lora_layers
from fourstroke.lora.layers import LowRank, merged


def merge_lora(model: nn.Module) -> None:
    """Add the adapters in use to the weights, in place: what is drawn costs what it would without.

    Adapted layers then have a second copy of their weight, for `unmerge_lora`.
    """
    for layer in lora_layers(model).values():
        layer.merge()


def unmerge_lora(model: nn.Module) -> None:
    """Put the weights back as they were before `merge_lora`, bit for bit; the adapters are in use as before."""
    for layer in lora_layers(model).values():
        layer.unmerge()


def is_merged(model: nn.Module) -> bool:
    """Whether adapters are part of the weights now."""
    return any(layer.unmerged is not None for layer in lora_layers(model).values())


@contextlib.contextmanager
def without_factors(model: nn.Module) -> Iterator[None]:
    """Within the block adapted layers are plain ones of their weights as they are now: what a checkpoint holds."""
    layers = lora_layers(model)
    for path, layer in layers.items():
        model.set_submodule(path, layer.plain())
    try:
        yield
    finally:
        for path, layer in layers.items():
            model.set_submodule(path, layer)


@torch.no_grad()
def merge(model: nn.Module, adapters: Sequence[Mapping[str, LowRank]], dtype: torch.dtype | None = None) -> None:
    """Add adapters to the weights of a plain model for good, in place; what they change then has the type `dtype`."""
    for path in sorted({path for adapter in adapters for path in adapter}):
        layer = model.get_submodule(path)
        assert isinstance(layer, nn.Linear), path
        weight = merged(layer.weight, [adapter[path] for adapter in adapters if path in adapter], dtype)
        layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
