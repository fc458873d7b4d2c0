"""What this installation can do: versions, devices, extras, bundled models."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from dataclasses import dataclass

import torch

from fourstroke.checkpoint import CheckpointError
from fourstroke.folder import find_model
from fourstroke.version import __version__

EXTRAS = {"eval": ("rapidocr", "onnxruntime", "skimage"), "train": ("tokenizers",)}


@dataclass(frozen=True)
class Fact:
    """One line of the report; `good` is false where something is missing that some command needs."""

    name: str
    value: str
    good: bool = True


def examine() -> list[Fact]:
    """Look around; loads no model."""
    facts = [
        Fact("fourstroke", __version__),
        Fact("python", platform.python_version()),
        Fact("torch", torch.__version__),
        Fact("transformers", importlib.metadata.version("transformers")),
        Fact("cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"),
        _gpu(),
        _bundled(),
    ]
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        value = f"lacks {', '.join(missing)}: pip install '.[{extra}]'" if missing else "installed"
        facts.append(Fact(f"[{extra}]", value, not missing))
    return facts


def _gpu() -> Fact:
    if not torch.cuda.is_available():
        return Fact("gpu", "none: drawing and training run on the CPU in float32")
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return Fact("gpu", f"{torch.cuda.get_device_name()}, {memory:.0f} GiB")


def _bundled() -> Fact:
    try:
        return Fact("model", str(find_model(None)))
    except CheckpointError as error:
        return Fact("model", str(error), good=False)
