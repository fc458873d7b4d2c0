"""Finds the world that a checkpoint was trained on, for held-out scenes and for the judge."""

from __future__ import annotations

from pathlib import Path

from fourstroke.recipe import load_recipe
from fourstroke.world import WorldConfig

RECIPES = Path(__file__).resolve().parents[3] / "recipes"


def find_world(chosen: Path | None, folder: Path | None, family: str) -> WorldConfig:
    """The world of `chosen`, of world.yaml or world.json in the checkpoint's folder, or of its family's recipe.

    Raises:
        ValueError: if there is none, or it is not a world.
    """
    beside = [folder / "world.yaml", folder / "world.json"] if folder else []
    options = [chosen] if chosen else [*beside, RECIPES / family / "world.yaml"]
    for path in options:
        if chosen or path.is_file():
            return load_recipe(WorldConfig, path)
    raise ValueError(f"no world for {family}: looked for {' and '.join(map(str, options))}; name one with --world")
