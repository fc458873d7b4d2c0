"""Training speed of transformers on this machine: whole steps of recipes in float32 and bfloat16, taking turns.

    python benchmarks/training_speed.py recipes/micro/own.yaml data.path=FOLDER [--threads 1]

A step reads and encodes its batch, goes forth and back, and moves the weights. With one thread the seconds are the
processor's, so that other work on the machine counts little. Nothing is written.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from fourstroke import device
from fourstroke.recipe import load_recipe
from fourstroke.train.dit import DitRecipe, DitStage
from fourstroke.train.loop import Trainer

PRECISIONS = "fp32", "bf16"


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="in a round")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.steps, arguments.threads) < 1:
        parser.error("--rounds, --steps and --threads must be at least 1")
    torch.set_num_threads(arguments.threads)
    device.emulates_bf16 = lambda: False  # what is timed is what is named, however slow
    clock = time.thread_time if arguments.threads == 1 else time.perf_counter
    trainers = {name: trainer(arguments.recipe, [*arguments.overrides, f"run.precision={name}"]) for name in PRECISIONS}
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for turn in range(arguments.rounds + 1):
        for name, each in trainers.items():
            start = clock()
            for _ in range(arguments.steps):
                each.update()
            if turn:  # the first warms up
                seconds[name].append((clock() - start) / arguments.steps)
    for name, found in seconds.items():
        rates = [trainers[name].stage.batch_size / each for each in found]
        print(f"{name}: {statistics.median(rates):.1f} rows a second ({min(rates):.1f} to {max(rates):.1f})")
    ratios = [slow / fast for slow, fast in zip(*seconds.values(), strict=True)]
    print(f"bf16 is {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})")


def trainer(path: Path, overrides: list[str]) -> Trainer:
    """The training of a recipe, before its first step."""
    recipe = load_recipe(DitRecipe, path, overrides)
    return Trainer(DitStage(recipe), recipe.run, recipe.optimizer, {})


if __name__ == "__main__":
    main()
