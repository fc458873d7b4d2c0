"""How much memory a model may take, in words of callers and of the command line."""

from __future__ import annotations

from typing import Literal, get_args

Quantize = Literal["int8", "int4", "fp8", "w8a8"]
"""In how many bits most weights are kept; "w8a8" is int8 whose activations are rounded too. See `quantized`."""
Offload = Literal["none", "model", "layers"]
"""What is in memory only while it is used; see `offload`."""
METHODS: tuple[str, ...] = get_args(Quantize)
OFFLOADS: tuple[str, ...] = get_args(Offload)
