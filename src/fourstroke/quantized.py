"""Weights of linear layers in fewer bits: int8 and fp8 with a scale for each row, int4 with one for 64 numbers.

A `QuantizedWeight` takes the place of a layer's weight and keeps its shape and type, so adapters stand beside it as
beside any other. On GPUs that multiply in these types it does so (int8 and fp8, activations rounded row by row);
elsewhere the layer's weight is spread out while the layer runs. Who asks for "w8a8", by the field's name for weights
and activations of 8 bits, has int8 products on CPUs with VNNI too: faster than bfloat16's there, and less exact. The
numbers are those of int8, and so are files.

In a file `x.weight` has the numbers and `x.weight_scale` the scales. int4 keeps two numbers a byte: column j in the
lower half of byte j, column j + columns / 2 in its upper half, each with 8 added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

STORED = {"int8": torch.int8, "int4": torch.uint8, "fp8": torch.float8_e4m3fn, "w8a8": torch.int8}
"""Types of the numbers in memory and in files."""
BYTES = {"int8": 1.0, "int4": 0.5 + 2 / 64, "fp8": 1.0, "w8a8": 1.0}
"""Of a weight, with its share of the scales."""
GROUP = 64
"""Numbers of a row that share a scale in int4."""
SCALE = "_scale"
LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}


class QuantizedWeight(Tensor):
    """A weight (out, in) of the type `dtype` to whoever asks, in memory `numbers` and `scale`.

    With `rounded` its layer rounds the activations too, on a CPU as on GPUs.
    """

    numbers: Tensor
    scale: Tensor

    @staticmethod
    def __new__(  # noqa: D102
        cls: type[QuantizedWeight], numbers: Tensor, scale: Tensor, dtype: torch.dtype, rounded: bool = False
    ) -> QuantizedWeight:
        columns = numbers.shape[1] * (2 if numbers.dtype == torch.uint8 else 1)
        shape = (numbers.shape[0], columns)
        return Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=numbers.device)

    def __init__(self, numbers: Tensor, scale: Tensor, dtype: torch.dtype, rounded: bool = False) -> None:
        self.numbers, self.scale, self.rounded = numbers, scale, rounded

    @property
    def method(self) -> str:
        """How it is kept."""
        return next(method for method, kind in STORED.items() if kind == self.numbers.dtype)

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return self.numbers.nbytes + self.scale.nbytes

    def plain(self) -> Tensor:
        """The weight that it stands for, spread out."""
        if self.numbers.dtype != torch.uint8:
            return self.numbers.to(self.dtype) * self.scale.to(self.dtype)
        halves = torch.cat((self.numbers & 15, self.numbers >> 4), dim=1).to(self.dtype) - 8
        return (halves.unflatten(1, (-1, GROUP)) * self.scale.to(self.dtype).unsqueeze(-1)).flatten(1)

    def map(self, change: Callable[[Tensor], Tensor]) -> QuantizedWeight:
        """The same with both parts changed."""
        return QuantizedWeight(change(self.numbers), change(self.scale), self.dtype, self.rounded)

    def __repr__(self, *, tensor_contents: Any = None) -> Any:  # type: ignore[override]
        return f"QuantizedWeight({self.method}, {tuple(self.shape)}, {self.dtype}, {self.numbers.device})"

    def __tensor_flatten__(self) -> tuple[list[str], tuple[torch.dtype, bool]]:
        return ["numbers", "scale"], (self.dtype, self.rounded)

    @classmethod
    def __tensor_unflatten__(cls, parts: Any, kept: tuple[torch.dtype, bool], *_: Any) -> QuantizedWeight:
        return cls(parts["numbers"], parts["scale"], *kept)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, inputs: Any = (), options: Any = None) -> Any:
        if function is F.linear:
            return _linear(*inputs, **(options or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return function(*inputs, **(options or {}))

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, inputs: Any, options: Any) -> Any:  # type: ignore[override]
        options, own = options or {}, inputs[0]
        if function in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return own.map(lambda part: part)
        if function is torch.ops.aten.clone.default:
            return own.map(torch.clone)
        if function is torch.ops.aten._to_copy.default:
            dtype, device = options.get("dtype"), options.get("device")
            if dtype in (None, own.dtype):
                return own.map(lambda part: part.to(device))
            return own.plain().to(device=device, dtype=dtype)
        raise NotImplementedError(f"{function} of a quantised weight; plain() gives one that has everything")


def quantized(weight: Tensor, method: str) -> QuantizedWeight:
    """A weight (out, in) in fewer bits, row by row; what is asked for it has the weight's own type.

    int4 needs a multiple of 64 columns, see `fits`.
    """
    rows = weight.detach().float()
    if method == "int4":
        groups = rows.unflatten(1, (-1, GROUP))
        largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
        scale = (largest / -8).bfloat16()  # the largest number is -8 times its scale: all 16 values are in use
        whole = (groups / scale.float().where(scale != 0, 1)).round().clamp(-8, 7).to(torch.int8).add(8).flatten(1)
        low, high = whole.to(torch.uint8).chunk(2, dim=1)
        return QuantizedWeight(low | high << 4, scale.squeeze(-1), weight.dtype)
    kind = STORED[method]
    scale = rows.abs().amax(dim=1, keepdim=True) / LARGEST[kind]
    numbers = rows / scale.where(scale != 0, 1)
    numbers = numbers.round() if kind == torch.int8 else numbers
    return QuantizedWeight(numbers.to(kind), scale, weight.dtype, method == "w8a8")


def fits(weight: Tensor, method: str) -> bool:
    """Whether a weight can be kept so: int4 wants pairs of whole groups in a row."""
    return weight.ndim == 2 and (method != "int4" or weight.shape[1] % (2 * GROUP) == 0)


def packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as a file holds them: numbers and scales apart."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, QuantizedWeight):
            found |= {name: tensor.numbers, name + SCALE: tensor.scale}
        else:
            found[name] = tensor
    return found


def unpacked(tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """Tensors of a file with numbers and scales brought together; the weights answer as `dtype`.

    Raises:
        ValueError: numbers and scales that do not belong together.
    """
    found = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALE) and name.removesuffix(SCALE) in tensors:
            continue
        scale = tensors.get(name + SCALE)
        found[name] = tensor if scale is None else _joined(name, tensor, scale, dtype)
    return found


def _joined(name: str, numbers: Tensor, scale: Tensor, dtype: torch.dtype) -> QuantizedWeight:
    if numbers.dtype not in STORED.values() or numbers.ndim != 2 or not scale.is_floating_point():
        raise ValueError(
            f"{name} is {tuple(numbers.shape)} of {numbers.dtype} with a scale; no way of ours to quantise"
        )
    columns = 2 * numbers.shape[1] // GROUP if numbers.dtype == torch.uint8 else 1
    if tuple(scale.shape) != (numbers.shape[0], columns):
        raise ValueError(f"{name}{SCALE} is {tuple(scale.shape)}; it should be {(numbers.shape[0], columns)}")
    return QuantizedWeight(numbers, scale, dtype)


def _linear(x: Tensor, weight: QuantizedWeight, bias: Tensor | None = None) -> Tensor:
    """`... in, out in -> ... out`."""
    rows = x.flatten(0, -2) if x.ndim > 1 else x[None]
    if not x.requires_grad and len(rows) > 16 and _multiplies(weight):  # smaller products have no kernels
        out = _rounded_product(rows, weight).to(x.dtype)
        out = out if bias is None else out + bias
        return out.view(*x.shape[:-1], -1)
    return F.linear(x, weight.plain().to(x.dtype), bias)


def _multiplies(weight: QuantizedWeight) -> bool:
    """Whether to multiply in the weight's own type: where a GPU does, and on CPUs with VNNI for who asked for it."""
    if any(side % 16 for side in weight.numbers.shape):
        return False
    if weight.numbers.device.type == "cpu":
        return weight.rounded and torch.cpu._is_vnni_supported()
    if weight.numbers.device.type != "cuda":
        return False
    capability = torch.cuda.get_device_capability(weight.numbers.device)
    return weight.method == "int8" or (weight.method == "fp8" and capability >= (8, 9))


def _rounded_product(rows: Tensor, weight: QuantizedWeight) -> Tensor:
    """`m in, out in -> m out` with each row of the activations rounded to the weight's type too."""
    kind = weight.numbers.dtype
    scale = torch.linalg.vector_norm(rows, torch.inf, 1, True, dtype=torch.float32).clamp_(min=1e-12) / LARGEST[kind]
    if kind == torch.int8:
        product = torch._int_mm((rows / scale).round_().to(kind), weight.numbers.t())
        return (product * weight.scale.t()).mul_(scale)
    return torch._scaled_mm(
        (rows / scale).to(kind), weight.numbers.t(), scale_a=scale, scale_b=weight.scale.t(), out_dtype=torch.bfloat16
    )
