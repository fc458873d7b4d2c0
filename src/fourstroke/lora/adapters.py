"""Adapters of a whole model: add one for training, take up one that was read, choose which are in use."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import nn

from fourstroke.lora.layers import LoraAdapter, LoraLinear, LowRank
from fourstroke.ranges import Natural, Positive, Range, check_ranges

DEFAULT = "default"
"""The name of an adapter that was given none."""
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "img_mlp.proj", "img_mlp.gate_layer", "img_mlp.out")
"""The linear layers of the transformer's blocks."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """What an adapter for training looks like.

    `rank` 0 stands for none: all weights are trained. The change of a weight is alpha / rank * B A; an `alpha` of None
    is the rank. `dropout` is the share of a layer's inputs that its adapter does not see, in training mode alone.
    `targets` are the ends of the names of the layers that are adapted, from a dot on; `*` stands for anything.
    """

    rank: Natural = 16
    alpha: Positive | None = None
    dropout: Annotated[float, Range(0, 1, below=True)] = 0.0
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.targets:
            raise ValueError("targets are empty; name the layers to adapt, such as to_q")

    @property
    def scale(self) -> float:
        """What B A is multiplied with."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


def add_lora(model: nn.Module, config: LoraConfig, name: str = DEFAULT, seed: int = 0) -> None:
    """Give the model an adapter to train, in use at strength 1, in place; at first it changes nothing.

    All else that is no adapter is frozen. Factors are float32, on the device of their layer; their start depends on
    the seed and the names alone, so that all ranks have the same. On the meta device they have no values: call
    `reset_lora` once the model has memory.

    Raises:
        ValueError: a rank of 0, a target that fits no linear layer, or a name that is taken or is none.
    """
    if config.rank < 1:
        raise ValueError(f"the rank of an adapter is {config.rank}; it must be at least 1")
    changes = {}
    for path in target_layers(model, config.targets):
        layer, rank = _linear(model, path), config.rank
        down = torch.empty(rank, layer.in_features, device=layer.weight.device, dtype=torch.float32)
        up = torch.empty(layer.out_features, rank, device=layer.weight.device, dtype=torch.float32)
        changes[path] = LowRank(down, up, config.scale)
    factors = {
        id(p) for layer in lora_layers(model).values() for own in layer.adapters.values() for p in own.parameters()
    }
    for p in model.parameters():
        if id(p) not in factors:
            p.requires_grad_(False)
    attach_lora(model, name, changes, dropout=config.dropout, trained=True)
    reset_lora(model, name, seed)


def target_layers(model: nn.Module, targets: Sequence[str]) -> list[str]:
    """The linear layers whose names end in a target, from a dot on; raises ValueError for a target without any."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    found = {target: [n for n in names if fnmatch.fnmatchcase(f".{n}", f"*.{target}")] for target in targets}
    for target, layers in found.items():
        if not layers:
            raise ValueError(f"no linear layer of this model has a name that ends in {target!r}")
    chosen = {layer for layers in found.values() for layer in layers}
    return [name for name in names if name in chosen]


def attach_lora(
    model: nn.Module, name: str, changes: Mapping[str, LowRank], *, dropout: float = 0.0, trained: bool = False
) -> None:
    """Give the model an adapter of these changes by layer, in use at strength 1, in place.

    Raises:
        ValueError: a name that is taken or is none, or an adapter while others are merged.
    """
    if not name or "." in name:
        raise ValueError(f"an adapter cannot be called {name!r}; choose a word without dots")
    layers = lora_layers(model)
    if name in _strengths(layers):
        raise ValueError(f"there is an adapter called {name!r} already; remove it, or choose another name")
    _refuse_merged(layers)
    for path, change in changes.items():
        layer = _linear(model, path)
        if not isinstance(layer, LoraLinear):
            layer = LoraLinear(layer)
            model.set_submodule(path, layer)
        adapter = LoraAdapter(change, dropout).requires_grad_(trained)
        adapter.strength = 1.0
        layer.add(name, adapter)


def remove_lora(model: nn.Module, name: str | None = None) -> None:
    """Take an adapter away, or all of them; layers that have none left are plain linear layers again.

    Raises:
        ValueError: there is none of the name, or adapters are merged.
    """
    layers = lora_layers(model)
    _refuse_merged(layers)
    names = [*_strengths(layers)] if name is None else [name]
    _check_names(layers, names)
    for path, layer in layers.items():
        for own in layer.adapters.keys() & set(names):
            layer.remove(own)
        if not layer.adapters:
            model.set_submodule(path, layer.plain())


def set_lora(model: nn.Module, strengths: Mapping[str, float]) -> None:
    """Use these adapters with these strengths, and no others; a strength of 0 is one that is not in use.

    Raises:
        ValueError: there is none of a name, or adapters are merged.
    """
    layers = lora_layers(model)
    _check_names(layers, strengths)
    _refuse_merged(layers)
    for layer in layers.values():
        for name, adapter in layer.adapters.items():
            adapter.strength = float(strengths.get(name, 0.0))


@contextlib.contextmanager
def active_lora(model: nn.Module, name: str | None) -> Iterator[None]:
    """Within the block the model is that of one adapter, or itself (None); then what it was before."""
    before = [(adapter, adapter.strength) for adapter in _adapters(model)]
    set_lora(model, {} if name is None else {name: 1.0})
    try:
        yield
    finally:
        for adapter, strength in before:
            adapter.strength = strength


def reset_lora(model: nn.Module, name: str = DEFAULT, seed: int = 0) -> None:
    """Where training starts, for all layers of an adapter; see `LoraAdapter.reset`."""
    for path, adapter in lora_adapters(model, name).items():
        number = hashlib.sha256(f"{seed} {name} {path}".encode()).digest()[:7]
        adapter.reset(torch.Generator().manual_seed(int.from_bytes(number)))


def lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """The adapted layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def lora_adapters(model: nn.Module, name: str = DEFAULT) -> dict[str, LoraAdapter]:
    """An adapter's parts by the names of their layers; raises ValueError if there is none of the name."""
    layers = lora_layers(model)
    _check_names(layers, [name])
    return {path: layer.adapters[name] for path, layer in layers.items() if name in layer.adapters}


def lora_strengths(model: nn.Module) -> dict[str, float]:
    """The adapters of a model by name, in the order in which they came, with their strengths; 0 is not in use."""
    return _strengths(lora_layers(model))


def lora_module(model: nn.Module, name: str = DEFAULT) -> nn.Module:
    """One adapter alone, with the model's own factors: its parameters are called `<layer>.lora_A.weight` and so on.

    To be asked for after the model was sharded, which puts other parameters in the place of its own.
    """
    root = nn.Module()
    for path, adapter in lora_adapters(model, name).items():
        node = root
        *above, last = path.split(".")
        for part in above:
            if part not in node._modules:
                node.add_module(part, nn.Module())
            node = node.get_submodule(part)
        node.add_module(last, adapter)
    return root


def lora_parameters(model: nn.Module, name: str = DEFAULT) -> dict[str, nn.Parameter]:
    """What is trained of an adapter, by `<layer>.lora_A.weight` and `<layer>.lora_B.weight`."""
    return dict(lora_module(model, name).named_parameters())


def _linear(model: nn.Module, path: str) -> nn.Linear:
    layer = model.get_submodule(path)
    assert isinstance(layer, nn.Linear), path
    return layer


def _adapters(model: nn.Module) -> list[LoraAdapter]:
    return [adapter for layer in lora_layers(model).values() for adapter in layer.adapters.values()]


def _strengths(layers: Mapping[str, LoraLinear]) -> dict[str, float]:
    return {name: adapter.strength for layer in layers.values() for name, adapter in layer.adapters.items()}


def _check_names(layers: Mapping[str, LoraLinear], names: Iterable[str]) -> None:
    known = _strengths(layers)
    for name in names:
        if name not in known:
            raise ValueError(f"there is no adapter called {name!r}; there is {', '.join(known) or 'none'}")


def _refuse_merged(layers: Mapping[str, LoraLinear]) -> None:
    if any(layer.unmerged is not None for layer in layers.values()):
        raise ValueError("adapters are merged into the weights; unmerge them first")
