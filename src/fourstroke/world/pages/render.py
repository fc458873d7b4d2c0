"""Draws a page: paper, decorations, charts, pictures, text, in this order."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

from fourstroke.world.atlas import sprite_picture
from fourstroke.world.pages.colours import COLOURS
from fourstroke.world.pages.graph import Accent, Box, Chart, Page, Picture, TextLine, pixel_box
from fourstroke.world.pages.marks import bar_boxes, disc_mask, line_mask, line_points, panel_mask, pie_masks
from fourstroke.world.pages.type import FONTS, Typeset, pixels_of, typeset


def render_page(page: Page) -> np.ndarray:
    """The picture of a page, (height, width, 4) uint8, opaque."""
    canvas = _paper(page.paper, page.second, page.width, page.height).copy()
    for accent in page.accents:
        _draw_accent(canvas, accent)
    for chart in page.charts:
        _draw_chart(canvas, chart)
    for picture in page.pictures:
        sprite = _sprite(picture.name, picture.style, round(picture.size * min(page.width, page.height)))
        left, top, *_ = picture_box(picture, page.width, page.height)
        canvas.paste(sprite, (left, top), sprite)
    for line in page.lines:
        line_set, left, baseline = _placed(line, page)
        for _, box, mask in line_set.letters:
            canvas.paste(COLOURS[line.ink], (left + box[0], baseline + box[1]), mask)
    pixels = np.full((page.height, page.width, 4), 255, np.uint8)
    pixels[..., :3] = np.asarray(canvas)
    return pixels


def letter_boxes(page: Page) -> list[tuple[str, int, int, int, int]]:
    """Each drawn letter with the box of its ink in pixels (left, top, right, bottom), in reading order.

    Where letters join (arabic, devanagari) an entry is a whole word.
    """
    found = []
    for line in page.lines:
        line_set, x, y = _placed(line, page)
        found += [(text, x + box[0], y + box[1], x + box[2], y + box[3]) for text, box, _ in line_set.letters]
    return found


def picture_box(picture: Picture, width: int, height: int) -> Box:
    """The pixels of a picture on a page of ``width`` x ``height``."""
    sprite = _sprite(picture.name, picture.style, round(picture.size * min(width, height)))
    left, top = round(picture.x * width - sprite.width / 2), round(picture.y * height - sprite.height / 2)
    return left, top, left + sprite.width, top + sprite.height


def _placed(line: TextLine, page: Page) -> tuple[Typeset, int, int]:
    """The line, set, and where its origin stands."""
    line_set = typeset(line.text, line.script, FONTS[line.script][line.font], pixels_of(line.size), line.pitch)
    left, top, *_ = pixel_box(line, page.width, page.height)
    return line_set, left - line_set.box[0], top - line_set.box[1]


def _draw_accent(canvas: Image.Image, accent: Accent) -> None:
    left, top, right, bottom = pixel_box(accent, canvas.width, canvas.height)
    width, height, colour = right - left, bottom - top, COLOURS[accent.colour]
    thick = max(1, round(min(canvas.size) / 100))
    if accent.kind in ("band", "rule", "square"):
        canvas.paste(colour, (left, top, right, bottom))
    elif accent.kind == "panel":
        canvas.paste(colour, (left, top), panel_mask(width, height, round(0.09 * min(width, height))))
    elif accent.kind == "frame":
        canvas.paste(colour, (left, top), panel_mask(width, height, round(0.07 * min(width, height)), thick))
    elif accent.kind in ("disc", "bullet"):
        canvas.paste(colour, (left, top), disc_mask(width, height))
    else:  # dashes and dots run along the longer side
        mark, pitch = (3 * thick, 5 * thick) if accent.kind == "dashes" else (thick, 3 * thick)
        for start in range(0, max(width, height) - mark + 1, pitch):
            at = (left + start, top) if width >= height else (left, top + start)
            size = (mark, height) if width >= height else (width, mark)
            canvas.paste(colour, (*at, at[0] + size[0], at[1] + size[1]))


def _draw_chart(canvas: Image.Image, chart: Chart) -> None:
    box = pixel_box(chart, canvas.width, canvas.height)
    if chart.kind == "bars":
        for bar, colour in zip(bar_boxes(chart, box), chart.colours, strict=True):
            canvas.paste(COLOURS[colour], bar)
    elif chart.kind == "pie":  # the whole disc first, the first slice last, so that no seam shows the paper
        masks = pie_masks(chart.values, box[2] - box[0])
        for mask, colour in list(zip(masks, chart.colours, strict=True))[::-1]:
            canvas.paste(COLOURS[colour], box[:2], mask)
    else:
        thick = min(canvas.size) / 60
        reach = round(2 * thick)
        box = max(0, box[0] - reach), max(0, box[1] - reach), box[2] + reach, box[3] + reach
        points = line_points(chart, pixel_box(chart, canvas.width, canvas.height))
        canvas.paste(COLOURS[chart.colours[0]], box[:2], line_mask(points, box, thick, 1.4 * thick))


@functools.lru_cache(maxsize=512)
def _sprite(name: str, style: str, size: int) -> Image.Image:
    """A picture whose longer side is ``size`` pixels, RGBA with straight alpha."""
    picture = sprite_picture(name, style)
    scale = size / max(picture.size)
    shape = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.convert("RGBa").resize(shape, Image.Resampling.LANCZOS).convert("RGBA")


@functools.lru_cache(maxsize=256)
def _paper(first: str, second: str | None, width: int, height: int) -> Image.Image:
    ends = [np.asarray(COLOURS[name], np.float32) for name in (first, second or first)]
    share = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    column = ends[0] * (1 - share) + ends[1] * share
    return Image.fromarray(np.broadcast_to((column + 0.5).astype(np.uint8), (height, width, 3)).copy())
