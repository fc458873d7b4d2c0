"""AdamW with fused steps, or with moments in 8 bits (torchao), and how both are saved."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from fourstroke.parallel.sharding import local_tensor
from fourstroke.recipe import RecipeError


def adamw(parameters: list[nn.Parameter], eight_bit: bool, **options: Any) -> torch.optim.Optimizer:
    """AdamW over parameters of which some may be sharded; `options` are torch's.

    Raises:
        RecipeError: if `eight_bit` is asked for and torchao is not installed.
    """
    kinds = [[p for p in parameters if isinstance(p, DTensor) is sharded] for sharded in (False, True)]
    groups = [{"params": kind} for kind in kinds if kind]  # a fused step takes one kind or the other
    if not eight_bit:
        return torch.optim.AdamW(groups, fused=True, **options)
    try:
        from torchao.optim import AdamW8bit
    except ImportError:
        raise RecipeError("optimizer.eight_bit needs torchao; pip install 'fourstroke[eight-bit]'") from None
    optimizer: torch.optim.Optimizer = AdamW8bit(groups, **options)
    return optimizer


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let the next step have this learning rate."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):  # torchao compiles its step, for which the rate is an input
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def slot_as_float(value: Tensor) -> Tensor:
    """A moment as it is saved: blocks of 8 bits become plain numbers, which any number of ranks can take up.

    Read back, a few of them fall on the next of the 256 values: such a run goes on within their grain, not bit for bit.
    """
    local = local_tensor(value)
    if not hasattr(local, "codes"):
        return value
    plain = local.dequantize()
    if not isinstance(value, DTensor):
        return plain
    return DTensor.from_local(
        plain, value.device_mesh, value.placements, run_check=False, shape=value.shape, stride=value.stride()
    )


def room_for_slot(optimizer: torch.optim.Optimizer, p: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """An empty tensor into which a saved slot of a parameter is read, sharded as the parameter is."""
    if shape == p.shape:
        return torch.empty_like(p.detach(), dtype=dtype)
    return torch.empty(shape, dtype=dtype, device=p.device if optimizer.defaults.get("fused") else "cpu")


def put_slot(optimizer: Any, p: Tensor, slot: str, value: Tensor) -> None:
    """Give a parameter's slot back to its optimiser."""
    if hasattr(optimizer, "_new_buffer") and value.shape == p.shape:
        buffer = optimizer._new_buffer(p, slot == "exp_avg")  # zeros in the optimiser's own type
        local_tensor(buffer).copy_(local_tensor(value))
        value = buffer
    optimizer.state[p][slot] = value
