"""Where a model runs and in which precision: names of callers to what this machine has."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Literal

import torch

from fourstroke.arguments import shown

Device = str | int | torch.device
"""`"cpu"`, `"cuda"`, `"cuda:1"` …, the number of a GPU, or torch's own object."""


Precision = Literal["auto", "bf16", "fp32"]
"""Of the products of matrices in training; `bf16` is float32 on CPUs that would emulate it."""

_precision: ContextVar[Precision] = ContextVar("precision", default="auto")


def find_device(device: Device | None) -> torch.device:
    """The device that was asked for; None is the GPU if there is one, else the CPU.

    Raises:
        ValueError: if this machine has no such device; the message says which it has.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found, there = name_device(device), present()
    if not any(found.type == other.type and found.index in (None, other.index) for other in there):
        bare = found.type == "cuda" and torch.version.cuda is None and torch.version.hip is None
        why = "; this PyTorch is built without GPUs" if bare else ""
        raise ValueError(f"there is no device '{found}': this machine has {_listed(there)}{why}")
    return found


def name_device(device: Device) -> torch.device:
    """The device of a name, be it here or on another machine; raises ValueError if nothing is called so."""
    try:
        return torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"there is no device {shown(device)}: this machine has {_listed(present())}") from None


def present() -> list[torch.device]:
    """The devices of this machine, each with its number."""
    devices = [torch.device("cpu", 0)]
    if torch.accelerator.is_available() and (kind := torch.accelerator.current_accelerator()) is not None:
        devices += [torch.device(kind.type, index) for index in range(torch.accelerator.device_count())]
    return devices


def weights_dtype(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    """The precision of weights: as asked for, also by its name; None is bfloat16 on a GPU and float32 on a CPU.

    Raises:
        ValueError: if it is no precision of torch's for numbers with a point.
    """
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype is {dtype}; it must be float32, bfloat16, float16 or another floating one of torch's")
    return found


def pick_device() -> torch.device:
    """The GPU if there is one, with TF32 for what stays in float32."""
    device = find_device(None)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    return device


@contextlib.contextmanager
def training_precision(precision: Precision) -> Iterator[None]:
    """Within the block `autocast` multiplies in this precision."""
    token = _precision.set(precision)
    try:
        yield
    finally:
        _precision.reset(token)


def products_dtype(device: torch.device) -> torch.dtype:
    """In what `training_precision` says plain matrices are multiplied; `auto` is bfloat16 on GPUs alone."""
    return torch.bfloat16 if _in_bf16(device) else torch.float32


def autocast(device: torch.device, wide: bool = False) -> contextlib.AbstractContextManager[None]:
    """In what `training_precision` says matrices are multiplied within the block; weights stay as they are.

    `auto` is bfloat16 where it is surely fast: on GPUs; for `wide` layers (64 channels and more) also on CPUs that
    multiply in it. Small matrices gain less there.
    """
    bf16 = _in_bf16(device, wide)
    if not bf16 and not torch.is_autocast_enabled(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)


def emulates_bf16() -> bool:
    """Whether the CPU is one of x86 without bfloat16 products (AMD before Zen 4, Intel before Cooper Lake).

    A step of micro's transformer takes 17 to 20 times as long there as in float32 (`benchmarks/training_speed.py`).
    """
    return platform.machine().lower() in ("x86_64", "amd64") and not torch.cpu._is_avx512_bf16_supported()


def precision_note(precision: Precision) -> str:
    """What a run should tell of the precision that it was given on this machine; mostly nothing."""
    if precision == "bf16" and pick_device().type == "cpu" and emulates_bf16():
        return "run.precision=bf16: this processor would emulate it, many times as slowly; it multiplies in float32"
    return ""


def _in_bf16(device: torch.device, wide: bool = False) -> bool:
    precision = _precision.get()
    if precision == "auto":
        return device.type == "cuda" or (wide and torch.cpu._is_avx512_bf16_supported())
    return precision == "bf16" and not (device.type == "cpu" and emulates_bf16())


def _listed(devices: list[torch.device]) -> str:
    return ", ".join("cpu" if device.type == "cpu" else str(device) for device in devices)


LARGE = 2**20
"""Pixels that leave holes in the heap worth the time of giving them back."""


def trim_heap(pixels: int = LARGE) -> None:
    """Give the free pages of the C heap back to the system, where that is glibc and `LARGE` pixels or more have passed.

    Tensors of changing shapes leave holes: a text encoder that reads captions of 50 to 250 tokens grows from 2 to 7 GiB
    within a thousand steps.
    """
    if pixels >= LARGE and sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
