"""Small text: pages of short words at a set size in pixels, in one ink over a textured, lit background.

VAE-2.0 report, section Curriculum, ends with synthetic text of 5 to 20 pixels drawn over backgrounds that are not
plain, because plain ones generalise badly. The words are the world's, and so is their split into training and held-out
ones; pages train and measure autoencoders, which need no captions.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from fourstroke.chance import generator, pick
from fourstroke.fonts import load_font
from fourstroke.world.compose import draw_background
from fourstroke.world.graph import Split
from fourstroke.world.palette import BACKGROUND_COLOURS, INKS, RGB, SHAPE_COLOURS, distance
from fourstroke.world.render import light_field, paint_background
from fourstroke.world.words import SIGN_FONTS, choose_words

PAGE_STREAM = 3
LONGEST = {"latin": 6, "cyrillic": 8, "chinese": 4}
"""Letters of a word on these pages, of which model cards quote scores."""
READABLE = 190.0
"""Least distance of an ink from each colour below it (`palette.distance`)."""


def render_page(
    seed: int, width: int, height: int, size: int | tuple[int, int], split: Split = "train", script: str = "latin"
) -> np.ndarray:
    """The page of a seed, (height, width, 4) uint8; `size` is the font's in pixels, or a range to draw it from.

    Lines fill the page from a random corner of its margin, each as long as fits; a word is never cut.
    """
    rng = generator(seed, PAGE_STREAM)
    smallest, largest = (size, size) if isinstance(size, int) else size
    if not 4 <= smallest <= largest <= height:
        raise ValueError(f"size={size}: choose from 4 to {height}, the smallest first")
    background = draw_background(rng, (0.4, 0.4, 0.2), textures=0.6, lights=0.3)
    grounds = [BACKGROUND_COLOURS[name] for name in background.colours]
    inks = [ink for ink in (*INKS.values(), *SHAPE_COLOURS.values()) if _readable(ink, grounds)]
    ink = pick(rng, inks or [INKS["black"]])
    pixels = smallest + int(rng.random() * (largest - smallest + 1))
    font = load_font(pick(rng, tuple(SIGN_FONTS[script].values())), pixels)
    words = choose_words(script, split, LONGEST[script])
    mask = Image.new("L", (width, height), 0)
    pen = ImageDraw.Draw(mask)
    left, y = (2 + int(rng.random() * pixels / 2) for _ in range(2))
    pitch = round(pixels * (1.2 + 0.4 * rng.random()))
    while y + pixels * 1.2 <= height:
        line = ""
        for _ in range(16):
            longer = f"{line} {pick(rng, words)}".strip()
            if left + font.getlength(longer) > width - 2:
                break
            line = longer
        pen.text((left, y), line, font=font, fill=255)
        y += pitch
    planes = paint_background(background, width, height)
    coverage = np.asarray(mask, np.float32) / 255.0
    planes = planes * (1 - coverage) + np.asarray(ink, np.float32)[:, None, None] * coverage
    if background.light != "even":
        planes = planes * light_field(background.light, width, height)
    picture = np.full((height, width, 4), 255, np.uint8)
    picture[..., :3] = np.clip(planes + 0.5, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return picture


def _readable(ink: RGB, grounds: list[RGB]) -> bool:
    return all(distance(ink, ground) >= READABLE for ground in grounds)
