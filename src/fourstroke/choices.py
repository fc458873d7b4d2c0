"""How much memory a model may take, in words of callers and of the command line."""

from __future__ import annotations

from typing import Literal, get_args

Quantize = Literal["int8", "int4", "fp8"]
"""In how many bits most weights are kept; see `quantized`."""
Offload = Literal["none", "model", "layers"]
"""What is in memory only while it is used; see `offload`."""
METHODS: tuple[str, ...] = get_args(Quantize)
OFFLOADS: tuple[str, ...] = get_args(Offload)
