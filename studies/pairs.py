"""Two things, one before the other: do they stand as asked, the wrong way round, or are they not both there?

    python studies/pairs.py --model models/micro

Scenes of two different things, of held-out and of training combinations, half with short and half with rich captions.
Who guesses has as many swapped as right; who knows his pairs by heart is right on training combinations alone. The
seeds are none that `fourstroke eval composition` or the monitors of a distillation look at by default.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from fourstroke.folder import find_model
from fourstroke.pipeline import Pipeline
from fourstroke.world import Scene, World
from fourstroke.world.find import find_world
from fourstroke.world.graph import INVERSE, Split
from fourstroke.world.judging.composition import UNSEEN, Prompt, draw
from fourstroke.world.judging.judge import Detection, Judge, match

FIRST = 1 << 22
KINDS = ("right", "swapped", "other axis", "missing")


def main() -> None:
    """Draw, judge, count and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="folder or hub id (default: the best bundled model)")
    parser.add_argument("--data", type=Path, help="a dataset's YAML (default: the checkpoint's own)")
    parser.add_argument("--n", type=int, default=200, help="pairs of each split")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    arguments = parser.parse_args()
    folder = find_model(arguments.model)
    pipe = Pipeline.from_pretrained(folder)
    config = find_world(arguments.data, folder, pipe.info.name)
    judge = Judge(config)
    print(f"| {arguments.n} pairs each | {' | '.join(KINDS)} |\n|---|---|---|---|---|")
    for split in ("heldout", "train"):
        prompts = list(itertools.islice(pairs(World(config), split), arguments.n))
        pictures = draw(pipe, prompts, steps=arguments.steps, guidance=arguments.guidance, batch=16)
        shown = zip(prompts, pictures, strict=True)
        counts = Counter(verdict(p.scene, match(p.scene.objects, judge.look(picture))) for p, picture in shown)
        print(f"| {split} | {' | '.join(str(counts[kind]) for kind in KINDS)} |", flush=True)


def pairs(world: World, split: Split) -> Iterator[Prompt]:
    """Prompts of scenes of two things that differ by more than colour."""
    number = 0
    for seed in itertools.count(FIRST if split == "heldout" else UNSEEN + FIRST):
        scene = world.scene(seed, split)
        if scene.layout == "pair" and scene.sign is None and scene.objects[0].name != scene.objects[1].name:
            rich = number % 2 == 1
            yield Prompt(seed=seed, scene=scene, caption=world.caption(scene, rich, seed), rich=rich)
            number += 1


def verdict(scene: Scene, found: list[Detection | None]) -> str:
    """One of `KINDS`, by the axis on which the two centres are farther apart."""
    first, second = found
    if first is None or second is None:
        return "missing"
    dx, dy = first.x - second.x, first.y - second.y
    seen = ("left of" if dx < 0 else "right of") if abs(dx) > abs(dy) else ("above" if dy < 0 else "below")
    asked = scene.relations[0].predicate
    return "right" if seen == asked else "swapped" if seen == INVERSE[asked] else "other axis"


if __name__ == "__main__":
    main()
