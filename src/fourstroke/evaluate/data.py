"""Finds the dataset that belongs to a checkpoint, for held-out samples to measure it on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fourstroke.data.sample import DatasetConfig
from fourstroke.recipe import load_kind

RECIPES = Path(__file__).resolve().parents[3] / "recipes"


def find_data(chosen: Path | None, folder: Path | None, family: str) -> DatasetConfig:
    """The dataset of the file `chosen`, of data.json in the checkpoint's folder, or of its family's recipes.

    Raises:
        ValueError: if there is none, or it is no dataset.
    """
    options = [chosen] if chosen else [*([folder / "data.json"] if folder else []), RECIPES / family / "data.yaml"]
    for path in options:
        if chosen or path.is_file():
            return load_kind("datasets", path)
    raise ValueError(f"no dataset for {family}: looked for {' and '.join(map(str, options))}; name one with --data")


def parts(config: Any) -> tuple[DatasetConfig, ...]:
    """A dataset alone, or those of a mixture that have a weight, in order."""
    if getattr(config, "kind", None) != "mixture":
        return (config,)
    return tuple(inner for part in config.parts if part.weight for inner in parts(part.data))
