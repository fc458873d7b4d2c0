"""Linear layers, by the faster of two libraries on a CPU.

PyTorch multiplies float32 matrices with MKL, which has no kernels of its own for AMD's processors: at the real model's
sizes oneDNN is 1.3 to 1.6 times as fast there (`benchmarks/transformer.py`), and PyTorch brings it along. Small
matrices, where its start costs more than it saves, stay with MKL; so does training, which must repeat bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGE = 2**21
"""Numbers of a weight from which oneDNN is called."""
ONEDNN = torch.backends.mkl.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Linear(nn.Linear):
    """`x W^T`; a bias is an exception."""

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__(in_features, out_features, bias)

    def forward(self, x: Tensor) -> Tensor:
        """`... in -> ... out`."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x W^T + b`, as `torch.nn.functional.linear` up to rounding: `... in, out in -> ... out`."""
    plain = type(weight) is nn.Parameter  # neither quantised nor in parts
    if ONEDNN and plain and weight.numel() >= LARGE and _is_float_on_cpu(x, weight) and not torch.is_grad_enabled():
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return out
    return F.linear(x, weight, bias)


def _is_float_on_cpu(x: Tensor, weight: Tensor) -> bool:
    on_cpu = weight.device.type == x.device.type == "cpu"
    return on_cpu and weight.dtype == x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
