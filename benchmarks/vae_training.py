"""Training speed of autoencoders on this machine: whole steps of recipes, taking turns.

    python benchmarks/vae_training.py recipes/micro/vae.yaml recipes/mini/vae.yaml

A step renders its pictures, goes forth and back, and moves the weights. Nothing is written.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from fourstroke.recipe import load_recipe
from fourstroke.train.loop import Trainer
from fourstroke.train.vae import VaeRecipe, VaeStage


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipes", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="in a round")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.steps < 1:
        parser.error("--rounds and --steps must be at least 1")
    trainers = {path: trainer(path) for path in arguments.recipes}
    rates: dict[Path, list[float]] = {path: [] for path in trainers}
    for turn in range(arguments.rounds + 1):
        for path, each in trainers.items():
            start = time.perf_counter()
            for _ in range(arguments.steps):
                each.update()
            if turn:  # the first warms up
                rates[path].append(arguments.steps * each.stage.batch_size / (time.perf_counter() - start))
    for path, found in rates.items():
        millions = sum(p.numel() for p in trainers[path].stage.models["vae"].parameters()) / 1e6
        print(
            f"{path}: {millions:.1f} M parameters, {statistics.median(found):.1f} pictures a second "
            f"({min(found):.1f} to {max(found):.1f})"
        )


def trainer(path: Path) -> Trainer:
    """The training of a recipe, before its first step."""
    recipe = load_recipe(VaeRecipe, path, [])
    return Trainer(VaeStage(recipe), recipe.run, recipe.optimizer, {})


if __name__ == "__main__":
    main()
