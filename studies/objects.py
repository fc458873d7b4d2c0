"""Which things a model of the drawn world gets right: by size, style, number and layout; words by length.

    python studies/objects.py --model MODEL --world recipes/micro/world.yaml --n 96 --sheet objects.png

New scenes of the combinations that training may show, with short English captions; the judge looks at what is drawn.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from fourstroke import Pipeline
from fourstroke.data.sheet import contact_sheet
from fourstroke.files import save_image
from fourstroke.recipe import build, read_tree
from fourstroke.world import Scene, World, WorldConfig
from fourstroke.world.judging.composition import draw, held_out_prompts, judge_pictures
from fourstroke.world.judging.judge import Judge, Verdict

ACROSS = 12
"""Pictures in a row of the sheet."""


def main() -> None:
    """Draw, judge and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("models/micro"), help="folder of a whole model")
    parser.add_argument("--world", type=Path, required=True, help="file of the world's settings")
    parser.add_argument("--n", type=int, default=96, help="scenes")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's own)")
    parser.add_argument("--sheet", type=Path, help="write all pictures in rows of 12")
    arguments = parser.parse_args()
    world = World(build(WorldConfig, read_tree(arguments.world)))
    prompts = held_out_prompts(world, arguments.n, captions="short", split="train", language="en")
    pictures = draw(Pipeline.from_pretrained(arguments.model), prompts, steps=arguments.steps, batch=16)
    right: dict[tuple[str, object], list[float]] = defaultdict(list)
    verdicts = judge_pictures(Judge(world.config), prompts, pictures)
    for prompt, verdict in zip(prompts, verdicts, strict=True):
        for row, value in facts(prompt.scene, verdict):
            right[row].append(value)
    print("| | | n | right |\n|---|---|---|---|")
    for (kind, value), found in sorted(right.items(), key=lambda row: (row[0][0], str(row[0][1]))):
        print(f"| {kind} | {value} | {len(found)} | {np.mean(found):.2f} |")
    if arguments.sheet:
        images = [Image.fromarray(picture) for picture in pictures]
        sheet = contact_sheet(images, [prompt.caption for prompt in prompts], columns=ACROSS, upscale=1)
        save_image(sheet, arguments.sheet)


def facts(scene: Scene, verdict: Verdict) -> Iterable[tuple[tuple[str, object], float]]:
    """(kind of row, its value) and whether a thing is right for each thing; the NED of the word by its length."""
    for unit in scene.units:
        for index in unit:
            thing, found = scene.objects[index], verdict.objects[index]
            yield ("objects", "all"), found
            yield ("size", round(thing.size * min(scene.width, scene.height))), found
            yield ("style", "shape" if thing.kind == "shape" else thing.style), found
            yield ("of a kind", len(unit)), found
            yield ("layout", scene.layout + (" beside a sign" if scene.sign else "")), found
    if verdict.word is not None and scene.sign is not None:
        yield ("word", f"{scene.sign.script}, {len(scene.sign.word)} letters"), verdict.word.ned


if __name__ == "__main__":
    main()
