"""Where a transformer of the drawn world still errs: its velocity's error on background, things, boards and letters.

    python studies/cells.py --model MODEL --world recipes/micro/signs.yaml
    python studies/cells.py --model MODEL --posters recipes/micro/data.yaml

Held-out scenes, or posters of two lines, with their rich captions are noised to some levels; the squared error of the
predicted velocity, averaged over channels, is told apart by what the picture shows at each cell of 16 x 16 pixels. The
mean loss hides this: most cells are background.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fourstroke import Pipeline
from fourstroke.flow import path
from fourstroke.flow.sampler import seeded_noise
from fourstroke.recipe import build, load_kind, read_tree
from fourstroke.world import Sample, World, WorldConfig
from fourstroke.world.cells import cell_labels, cell_names, letter_labels
from fourstroke.world.find import pages_of
from fourstroke.world.judging.pages import page_prompts
from fourstroke.world.labels import FACTOR
from fourstroke.world.pages.graph import KINDS, Page, pixel_box
from fourstroke.world.pages.pages import PageConfig
from fourstroke.world.pages.render import picture_box, render_page
from fourstroke.world.words import letters_of

LEVELS = 0.3, 0.5, 0.7, 0.85, 0.95, 1.0
BATCH = 8
SCENE = "background", "thing", "board", "letter"
POSTER = "background", "picture", "title", "subtitle"


class Shown(NamedTuple):
    """A picture (H, W, 4) uint8, its caption, the seed of its noise, and what each of its cells shows.

    `kinds` (cells,) are indices into `SCENE` or `POSTER`, -1 where it cannot be told.
    """

    image: np.ndarray
    caption: str
    seed: int
    kinds: Tensor


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("models/micro"), help="folder of a whole model")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--world", type=Path, help="file of the world's settings, for scenes")
    what.add_argument("--posters", type=Path, help="file of a dataset with pages, for posters of two lines")
    parser.add_argument("--n", type=int, default=96, help="held-out pictures")
    arguments = parser.parse_args(argv)
    pipe = Pipeline.from_pretrained(arguments.model)
    if arguments.world:
        shown, kinds = scenes(World(build(WorldConfig, read_tree(arguments.world)))), SCENE
    else:
        shown, kinds = posters(pages_of(load_kind("datasets", arguments.posters)), arguments.n), POSTER
    errors: dict[tuple[str, float], list[Tensor]] = defaultdict(list)
    for first in range(0, arguments.n, BATCH):
        batch = list(islice(shown, min(BATCH, arguments.n - first)))
        there = torch.stack([each.kinds for each in batch])
        for level, found in zip(LEVELS, velocity_errors(pipe, batch), strict=True):
            for number, kind in enumerate(kinds):
                errors[kind, level].append(found[there == number])
    print(f"| t | {' | '.join(map(str, LEVELS))} | cells |\n|---|{'---|' * (len(LEVELS) + 1)}")
    for kind in kinds:
        rows = [torch.cat(errors[kind, level]) for level in LEVELS]
        print(f"| {kind} | {' | '.join(f'{row.mean():.3f}' for row in rows)} | {len(rows[0])} |")


@torch.no_grad()
def velocity_errors(pipe: Pipeline, batch: Sequence[Shown]) -> list[Tensor]:
    """For each of `LEVELS`, mean squared error of the velocity at every cell (pictures, cells)."""
    pictures = torch.from_numpy(np.stack([shown.image for shown in batch])).permute(0, 3, 1, 2)
    x_0 = pipe.autoencoder.encode_tokens(pictures)
    noise = seeded_noise([shown.seed for shown in batch], x_0.shape[1], x_0.shape[2])
    height, width = pictures.shape[2:]
    velocity = pipe.condition([shown.caption for shown in batch], [], pipe.info.grid(width, height))
    errors = []
    for level in LEVELS:
        t = torch.full((len(batch),), level)
        errors.append((velocity(path.interpolate(x_0, noise, t), t) - path.velocity(x_0, noise)).square().mean(2))
    return errors


def scenes(world: World) -> Iterator[Shown]:
    """Held-out scenes, without end."""
    for seed in count():
        sample = world.sample(seed, "heldout")
        yield Shown(sample.image, sample.rich, seed, kinds_of(world, sample))


def kinds_of(world: World, sample: Sample) -> Tensor:
    """What a scene's cells show."""
    names = cell_names(world)
    things = cell_labels([sample.scene], names)[0][0].flatten()
    sign, ground = names.things.index("sign"), names.things.index("background")
    letters = "".join(letter for script in world.config.scripts for letter in letters_of(script))
    squares = letter_labels(sample.scene, letters)
    rows, columns = squares.shape[0] // 2, squares.shape[1] // 2
    lettered = (squares > 0).reshape(rows, 2, columns, 2).any(3).any(1).flatten()
    found = torch.where(things == ground, 0, torch.where(things == sign, 2, 1))
    return torch.where(things < 0, -1, torch.where((found == 2) & lettered, 3, found))


def posters(config: PageConfig, n: int) -> Iterator[Shown]:
    """n held-out posters of a title and a subtitle."""
    config = replace(config, kinds=tuple(float(kind == "poster") for kind in KINDS))
    asked = [prompt for prompt in page_prompts(config, 3 * n, "rich") if len(prompt.page.lines) == 2]
    for prompt in asked[:n]:
        yield Shown(render_page(prompt.page), prompt.caption, prompt.seed, _kinds_of_page(prompt.page))


def _kinds_of_page(page: Page) -> Tensor:
    """Of a poster's cells, by the boxes that hold their centres."""
    found = torch.zeros(page.height // FACTOR, page.width // FACTOR, dtype=torch.int64)
    y, x = ((torch.arange(side) + 0.5) * FACTOR for side in found.shape)
    boxes = [(1, picture_box(picture, page.width, page.height)) for picture in page.pictures]
    boxes += [(2 + place, pixel_box(line, page.width, page.height)) for place, line in enumerate(page.lines)]
    for kind, (left, top, right, bottom) in boxes:
        found[((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))] = kind
    return found.flatten()


if __name__ == "__main__":
    main()
