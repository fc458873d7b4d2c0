"""Where a transformer of the drawn world still errs: its velocity's error on background, things, boards and letters.

    python studies/cells.py --model MODEL --world recipes/micro/signs.yaml

Held-out scenes with their rich captions are noised to some levels; the squared error of the predicted velocity,
averaged over channels, is told apart by what the picture shows at each cell of 16 x 16 pixels. The mean loss hides
this: most cells are background.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fourstroke import Pipeline
from fourstroke.flow import path
from fourstroke.flow.sampler import seeded_noise
from fourstroke.recipe import build, read_tree
from fourstroke.world import Sample, World, WorldConfig
from fourstroke.world.cells import cell_labels, cell_names, letter_labels
from fourstroke.world.words import letters_of

LEVELS = 0.3, 0.5, 0.7, 0.85, 0.95, 1.0
BATCH = 8
KINDS = "background", "thing", "board", "letter"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("models/micro"), help="folder of a whole model")
    parser.add_argument("--world", type=Path, required=True, help="file of the world's settings")
    parser.add_argument("--n", type=int, default=96, help="held-out scenes")
    arguments = parser.parse_args()
    world = World(build(WorldConfig, read_tree(arguments.world)))
    pipe = Pipeline.from_pretrained(arguments.model)
    errors: dict[tuple[str, float], list[Tensor]] = defaultdict(list)
    for first in range(0, arguments.n, BATCH):
        seeds = range(first, min(first + BATCH, arguments.n))
        samples = [world.sample(seed, "heldout") for seed in seeds]
        kinds = torch.stack([kinds_of(world, sample) for sample in samples])
        for level, found in zip(LEVELS, velocity_errors(pipe, samples, list(seeds)), strict=True):
            for number, kind in enumerate(KINDS):
                errors[kind, level].append(found[kinds == number])
    print(f"| t | {' | '.join(map(str, LEVELS))} | cells |\n|---|{'---|' * (len(LEVELS) + 1)}")
    for kind in KINDS:
        rows = [torch.cat(errors[kind, level]) for level in LEVELS]
        print(f"| {kind} | {' | '.join(f'{row.mean():.3f}' for row in rows)} | {len(rows[0])} |")


@torch.no_grad()
def velocity_errors(pipe: Pipeline, samples: list[Sample], seeds: list[int]) -> list[Tensor]:
    """For each of `LEVELS`, mean squared error of the velocity at every cell (samples, cells)."""
    pictures = torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2)
    x_0 = pipe.autoencoder.encode_tokens(pictures)
    noise = seeded_noise(seeds, x_0.shape[1], x_0.shape[2])
    height, width = pictures.shape[2:]
    velocity = pipe.condition([sample.rich for sample in samples], [], pipe.info.grid(width, height))
    errors = []
    for level in LEVELS:
        t = torch.full((len(samples),), level)
        errors.append((velocity(path.interpolate(x_0, noise, t), t) - path.velocity(x_0, noise)).square().mean(2))
    return errors


def kinds_of(world: World, sample: Sample) -> Tensor:
    """Indices into `KINDS` of a scene's cells, (cells,); -1 where it cannot be told."""
    names = cell_names(world)
    things = cell_labels([sample.scene], names)[0][0].flatten()
    sign, ground = names.things.index("sign"), names.things.index("background")
    letters = "".join(letter for script in world.config.scripts for letter in letters_of(script))
    squares = letter_labels(sample.scene, letters)
    rows, columns = squares.shape[0] // 2, squares.shape[1] // 2
    lettered = (squares > 0).reshape(rows, 2, columns, 2).any(3).any(1).flatten()
    found = torch.where(things == ground, 0, torch.where(things == sign, 2, 1))
    return torch.where(things < 0, -1, torch.where((found == 2) & lettered, 3, found))


if __name__ == "__main__":
    main()
