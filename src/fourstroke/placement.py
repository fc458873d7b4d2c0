"""Where a model's weights are put and in which type, one at a time: nothing is ever held twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from fourstroke.mapped import release
from fourstroke.quantized import QuantizedWeight, fits, quantized


@torch.no_grad()
def place(
    model: nn.Module,
    *,
    dtype: torch.dtype | None,
    device: torch.device,
    method: str | None = None,
    blocks: Iterable[nn.Module] = (),
    leave: Iterable[nn.Module] = (),
) -> None:
    """Convert and move a model's weights, in place; mapped pages that are no longer needed are given back.

    Buffers are moved and keep their type. What fits already stays what it is, mapped if it was.

    Args:
        model: on the CPU.
        dtype: of the weights; None is their own.
        device: where they go.
        method: in how few bits the weights of linear layers in `blocks` are kept (`quantized.METHODS`); None leaves
            plain ones plain.
        blocks: parts of the model without layers that are sensitive to rounding.
        leave: parts that stay as they are.
    """
    inner = {id(p) for module in _linear(blocks) for p in (module.weight,)} if method else set()
    passed = {id(p) for part in leave for p in part.parameters()}

    def put(weight: Tensor) -> Tensor:
        wanted = weight.dtype if dtype is None else dtype
        if isinstance(weight, QuantizedWeight):
            rounded = weight.rounded or (id(weight) in inner and method == "w8a8" and weight.method == "int8")
            return QuantizedWeight(weight.numbers.to(device), weight.scale.to(device), wanted, rounded)
        moved = weight.detach().to(device)
        if id(weight) in inner and method is not None and fits(weight, method):
            return quantized(moved.to(wanted), method)
        return moved.to(wanted) if weight.is_floating_point() else moved

    _replace(model, lambda weight: weight if id(weight) in passed else put(weight))
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)


def parts(weight: Tensor) -> list[Tensor]:
    """The plain tensors that a weight consists of."""
    return [weight.numbers, weight.scale] if isinstance(weight, QuantizedWeight) else [weight]


def release_weights(model: nn.Module) -> None:
    """Give back the memory of what is mapped of a model; it is read again when it is next used."""
    for weight in model.parameters():
        for part in parts(weight):
            release(part)


def _replace(model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Put changed parameters in the place of all, one after the other; one that is shared stays so."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, own in module._parameters.items():
            if own is not None:
                places.setdefault(id(own), []).append((module, name))
    for shared in places.values():
        own = shared[0][0].get_parameter(shared[0][1])
        new = change(own)
        if new is own or _same(new, own):
            continue
        parameter = nn.Parameter(new, requires_grad=own.requires_grad)
        for part in parts(own):
            release(part)
        for module, name in shared:
            module._parameters[name] = parameter


def _same(new: Tensor, own: Tensor) -> bool:
    if isinstance(new, QuantizedWeight) or isinstance(own, QuantizedWeight):
        return False
    return new.dtype == own.dtype and new.device == own.device and new.data_ptr() == own.data_ptr()


def _linear(blocks: Iterable[nn.Module]) -> Iterator[nn.Linear]:
    for block in blocks:
        yield from (module for module in block.modules() if isinstance(module, nn.Linear))
