"""Draw the sprites of the world from Noto Color Emoji into its atlas.

    python scripts/build_atlas.py /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf

The atlas in the repository was made from Debian's fonts-noto-color-emoji 2.042 (SIL Open Font License 1.1).
"""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fourstroke.data.world.sprites import ATLAS, CELL, COLUMNS, SPRITES

BITMAP_SIZE = 109  # the one size inside Noto Color Emoji


def main(font_path: str) -> None:
    """Write one cell a sprite, its picture at the cell's top left corner, cropped to the box of its alpha."""
    font = ImageFont.truetype(font_path, BITMAP_SIZE, layout_engine=ImageFont.Layout.BASIC)
    rows = -(-len(SPRITES) // COLUMNS)
    atlas = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    for index, (name, glyph) in enumerate(SPRITES.items()):
        picture = draw_glyph(glyph, font)
        if picture is None or max(picture.size) > CELL:
            sys.exit(f"{font_path} has no glyph for {name!r} that fits {CELL} pixels")
        atlas.paste(picture, (index % COLUMNS * CELL, index // COLUMNS * CELL))
    atlas.save(ATLAS, lossless=True, exact=True, method=6)
    print(f"{ATLAS}: {len(SPRITES)} sprites, {ATLAS.stat().st_size:,} bytes")


def draw_glyph(glyph: str, font: ImageFont.FreeTypeFont) -> Image.Image | None:
    """One emoji as RGBA with straight alpha, cropped to where its alpha is over 8 of 255."""
    picture = Image.new("RGBA", (200, 200), (0, 0, 0, 0))
    ImageDraw.Draw(picture).text((24, 24), glyph, font=font, embedded_color=True)
    box = Image.fromarray(((np.asarray(picture)[..., 3] > 8) * 255).astype(np.uint8)).getbbox()
    return None if box is None else picture.crop(box)


if __name__ == "__main__":
    main(*sys.argv[1:])
