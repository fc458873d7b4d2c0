"""Where training runs and in which precision: bfloat16 autocast on a GPU, float32 on a CPU."""

from __future__ import annotations

import contextlib

import torch


def pick_device() -> torch.device:
    """The GPU if there is one, with TF32 for what stays in float32."""
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        return torch.device("cuda")
    return torch.device("cpu")


def autocast(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """bfloat16 where it is fast (GPUs); no change on a CPU, where it is slower than float32."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()
