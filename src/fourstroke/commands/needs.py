"""The command `estimate`: what a training needs, or drawing with a model."""

from __future__ import annotations

import argparse
import sys
from typing import Any


def estimate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Say what a run needs, or drawing with a model."""
    if (arguments.recipe / "model_index.json").exists():
        return _estimate_drawing(arguments)
    from fourstroke.estimate import estimate_recipe

    words = list(arguments.overrides)
    found, plain = estimate_recipe(
        arguments.recipe, words, arguments.text_tokens, arguments.tflops, arguments.ranks, arguments.stage
    )
    if not arguments.json:
        print(found.report(arguments.tflops))
    for warning in plain["warnings"]:
        print(f"fourstroke: {warning}", file=sys.stderr)
    return plain


def _estimate_drawing(arguments: argparse.Namespace) -> dict[str, Any]:
    """Say what drawing with a model needs here, by choice of bits and offload."""
    from fourstroke.device import find_device
    from fourstroke.folder import lineage, read_info
    from fourstroke.memory import ModelSize, choices
    from fourstroke.recipe import RecipeError

    if arguments.overrides:
        raise RecipeError(f"{arguments.recipe} is a model, which has no {arguments.overrides[0].partition('=')[0]}")
    import torch

    folders = lineage(arguments.recipe)
    info = read_info(folders[0])
    device = find_device(arguments.device)
    found = choices(ModelSize.read(folders[-1], info), device, torch.bfloat16)
    if not arguments.json:
        print(f"one picture of {info.width}x{info.height} by {info.name} in bfloat16 on {device.type}")
        for one in found:
            files = f", and {one['files']:.1f} GiB in its files" if one["files"] else ""
            words = f"quantize {one['quantize']}, offload {one['offload']}"
            print(f"{words:<32} {one['gib']:6.1f} GiB{files}")
    return {"model": info.name, "device": device.type, "choices": found}
