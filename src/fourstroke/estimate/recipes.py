"""Which stage a recipe is of, what it needs, and whether this machine has it."""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from fourstroke.estimate.needs import GIB, Needs
from fourstroke.recipe import RecipeError, load_recipe, read_tree

STAGES = {
    "dit": ("dit", "DitRecipe", "dit:dit_needs"),
    "vae": ("vae", "VaeRecipe", "autoencoder:vae_needs"),
    "distill": ("distill", "DistillRecipe", "stages:distill_needs"),
    "enhance-sft": ("enhance_sft", "EnhanceSftRecipe", "language:sft_needs"),
    "enhance-rl": ("enhance_rl", "EnhanceRlRecipe", "language:rl_needs"),
}
"""By stage: its module in `train`, its recipe, and where its needs are estimated."""


def estimate_recipe(
    path: Path, overrides: Sequence[str], text_tokens: int, speed: float, ranks: int = 1, stage: str | None = None
) -> tuple[Needs, dict[str, Any]]:
    """The needs of a recipe, and the same as plain data.

    Raises:
        RecipeError: if it is of no stage, or of several.
        CheckpointError: if it starts from a folder that is not there.
    """
    stage = stage or stage_of(path, overrides)
    module, name, _ = STAGES[stage]
    recipe = load_recipe(getattr(importlib.import_module(f"fourstroke.train.{module}"), name), path, overrides)
    found = needs(stage, recipe, text_tokens, ranks)
    plain = dataclasses.asdict(found) | {"stage": stage, "speed": speed, "hours": found.hours(speed)}
    return found, plain | {"warnings": warnings(found)}


def needs(stage: str, recipe: Any, text_tokens: int = 400, ranks: int = 1) -> Needs:
    """What a recipe of a stage needs on each of `ranks` processes; raises ValueError for fewer than one."""
    if ranks < 1:
        raise ValueError(f"ranks is {ranks}; a run has at least one")
    module, _, function = STAGES[stage][2].partition(":")
    find: Callable[[Any, int, int], Needs] = getattr(importlib.import_module(f"fourstroke.estimate.{module}"), function)
    return find(recipe, text_tokens, ranks)


def stage_of(path: Path, overrides: Sequence[str] = ()) -> str:
    """The stage whose recipe has all the keys of a file.

    Raises:
        RecipeError: if there is none, or several.
    """
    keys = read_tree(path).keys() | {override.partition("=")[0].partition(".")[0] for override in overrides}
    fitting = []
    for stage, (module, name, _) in STAGES.items():
        fields = dataclasses.fields(getattr(importlib.import_module(f"fourstroke.train.{module}"), name))
        needed = {f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING}
        if needed <= keys <= {f.name for f in fields}:
            fitting.append(stage)
    named = [stage for stage in fitting if stage in path.stem]
    fitting = named if len(named) == 1 else fitting
    if len(fitting) != 1:
        which = f"fits {' and '.join(fitting)}" if fitting else "is of no stage that can be estimated"
        raise RecipeError(f"{path} {which}; say which with --stage, one of {', '.join(STAGES)}")
    return fitting[0]


def warnings(found: Needs) -> list[str]:
    """In what this machine falls short: GPUs for the ranks, memory for each."""
    said = []
    devices = torch.cuda.device_count()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", found.ranks))
    if devices and here > devices:
        said.append(f"{here} ranks on this machine, which has {devices} GPUs: start no more than one on each")
    there, what = (torch.cuda.mem_get_info()[1], "the GPU has") if devices else (memory(), "this machine has")
    asked = found.gib if devices else found.gib * here
    if asked > there / GIB:
        said.append(
            f"it needs about {asked:.0f} GiB and {what} {there / GIB:.0f}: use more ranks, a smaller batch, "
            "gradient_checkpointing, or LoRA"
        )
    return said


def memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
