"""Pictures of things in four styles: flat, glossy 3D, clip-art and rendered.

`assets/` holds one atlas a style, which `scripts/build_atlas.py` makes, and `atlas.json`, which says where each name
lies in them. CREDITS.md at the repository's root says whose pictures they are.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fourstroke.world.graph import Style

INDEX = Path(__file__).parent / "assets" / "atlas.json"
CELL = 128
"""Pixels of a cell's side; a picture starts at its cell's top left corner."""
COLUMNS = 16

STYLES: tuple[Style, ...] = ("flat", "3d", "clip-art", "rendered")

_THINGS = """
cat, house, apple, rocket, tree, fish, sunflower, mushroom, car, star, umbrella, frog, penguin, pizza, cactus,
butterfly, octopus, guitar, soccer ball, envelope, piano, gift, television, snowman, laptop, panda, bucket, cake, cap,
clock, tiger, magnet, cupcake, rainbow, cup of coffee, hamburger, train, cow, drum, lock, pumpkin, hot dog,
strawberry, cherry, shoe, corn cob, heart, dress, lollipop, light bulb, pineapple, book, bathtub, bus, die, hourglass,
ghost, sailboat, balloon, telephone, mailbox, helmet, basketball, pig, dog, lion, tractor, camera, pear, backpack,
shirt, bicycle, bunch of grapes, cherry blossom, castle, horse, bed, robot, crown, ladybug, banana, watermelon,
dolphin, monkey, bee, wedge of cheese, teddy bear, alien, paintbrush, rabbit, ball of yarn, kite, tent, croissant,
hammer, chair, peacock, key, rooster, carrot, church, violin, maple leaf, ice cream, teapot, lemon, flame, pencil,
snowflake, turtle, airplane, lamp, table, plant, vase, suitcase, elephant, planet, skateboard, tennis racket
"""
THINGS = tuple(name.strip() for name in _THINGS.replace("\n", " ").split(","))
"""Names with two styles or more, chosen to differ in outline and colour, in an order where each prefix does.

The first 18 are those of the first edition, in its order.
"""


def choose_things(choice: int | tuple[str, ...]) -> tuple[str, ...]:
    """The first ``choice`` of `THINGS`, or the given names once they are known to have pictures."""
    if isinstance(choice, int):
        if not 0 <= choice <= len(THINGS):
            raise ValueError(f"things={choice}: choose between 0 and {len(THINGS)}")
        return THINGS[:choice]
    unknown = [name for name in choice if not styles_of(name)]
    if unknown:
        raise ValueError(f"unknown things {', '.join(unknown)}: choose from fourstroke.world.THINGS")
    return tuple(choice)


def styles_of(name: str) -> tuple[str, ...]:
    """The styles that have a picture of the thing, in the order of `STYLES`; none for an unknown name."""
    return tuple(style for style in STYLES if name in _cells()[style])


@functools.lru_cache(maxsize=1024)
def sprite_picture(name: str, style: str = "flat") -> Image.Image:
    """The thing as RGBA with straight alpha, 70 to 128 pixels on its longer side, cropped to the box of its alpha."""
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}: choose {', '.join(STYLES[:-1])} or {STYLES[-1]}")
    if name not in _cells()[style]:
        styles = styles_of(name)
        choice = f"choose {' or '.join(styles)}" if styles else f"there are {', '.join(THINGS[:4])} and more"
        raise ValueError(f"no picture of {name!r} in style {style}: {choice}")
    row, column = divmod(_cells()[style][name], COLUMNS)
    cell = _pixels(style)[row * CELL :, column * CELL :][:CELL, :CELL]
    height, width = (int(np.flatnonzero(cell[..., 3].max(axis)).max()) + 1 for axis in (1, 0))
    return Image.fromarray(np.ascontiguousarray(cell[:height, :width]))


@functools.lru_cache(maxsize=1)
def read_index() -> dict[str, Any]:
    """For each style its atlas's file name and the names in the order of its cells, row by row."""
    return json.loads(INDEX.read_text("utf-8"))


@functools.lru_cache(maxsize=1)
def _cells() -> dict[str, dict[str, int]]:
    return {style: {name: cell for cell, name in enumerate(read_index()[style]["names"])} for style in STYLES}


@functools.lru_cache(maxsize=len(STYLES))
def _pixels(style: str) -> np.ndarray:
    with Image.open(INDEX.parent / read_index()[style]["file"]) as picture:
        return np.asarray(picture.convert("RGBA"))
