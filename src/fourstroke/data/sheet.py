"""Sheets of samples: many pictures in a grid, each above its caption and a note."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fourstroke.fonts import load_font

MARGIN = 8
PAPER, INK, FAINT = (255, 255, 255), (20, 20, 24), (120, 120, 128)


def contact_sheet(
    images: Sequence[np.ndarray | Image.Image],
    captions: Sequence[str] | None = None,
    columns: int = 4,
    upscale: int = 1,
    font_size: int = 13,
    notes: Sequence[str] | None = None,
) -> Image.Image:
    """Pictures ((h, w, 3 or 4) uint8, or PIL) in rows of ``columns``, each above its wrapped caption; returns RGB.

    ``notes`` stand below the captions, in grey. ``upscale`` enlarges by whole pixels. Transparent pictures lie over a
    checkerboard. Pictures may differ in size.
    """
    if not images:
        raise ValueError("a contact sheet needs at least one picture")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"{len(images)} pictures, but {len(captions)} captions")
    pictures = [_opaque(image, upscale) for image in images]
    cell = max(picture.width for picture in pictures)
    captions = captions if captions is not None else [""] * len(pictures)
    notes = notes if notes is not None else [""] * len(pictures)
    texts = [
        [(text, ink) for words, ink in ((caption, INK), (note, FAINT)) for text in _wrap(words, font_size, cell)]
        for caption, note in zip(captions, notes, strict=True)
    ]
    line = font_size + 3
    rows = [range(start, min(start + columns, len(pictures))) for start in range(0, len(pictures), columns)]
    picture_heights = [max(pictures[i].height for i in row) for row in rows]
    text_heights = [max(line * len(texts[i]) for i in row) for row in rows]
    width = MARGIN + min(columns, len(pictures)) * (cell + MARGIN)
    height = MARGIN + sum(picture_heights) + sum(text_heights) + len(rows) * 2 * MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    y = MARGIN
    for row, picture_height, text_height in zip(rows, picture_heights, text_heights, strict=True):
        for column, i in enumerate(row):
            x = MARGIN + column * (cell + MARGIN)
            sheet.paste(pictures[i], (x, y))
            for k, (text, ink) in enumerate(texts[i]):
                _write(draw, (x, y + picture_height + 4 + k * line), text, font_size, ink)
        y += picture_height + text_height + 2 * MARGIN
    return sheet


def _opaque(image: np.ndarray | Image.Image, upscale: int) -> Image.Image:
    picture = image if isinstance(image, Image.Image) else Image.fromarray(np.ascontiguousarray(image))
    size = picture.width * upscale, picture.height * upscale
    picture = picture.convert("RGBA").resize(size, Image.Resampling.NEAREST)
    rows, columns = np.indices((picture.height, picture.width)) // 8
    squares = np.where((rows + columns) % 2 == 0, 255, 214).astype(np.uint8)
    board = Image.fromarray(squares).convert("RGBA")
    return Image.alpha_composite(board, picture).convert("RGB")


def _runs(text: str, size: int) -> Iterator[tuple[str, ImageFont.FreeTypeFont]]:
    """The text in pieces, each with the font that has its characters."""
    for chinese, run in itertools.groupby(text, key=_is_chinese):
        yield "".join(run), load_font("NotoSansSC-Regular-subset.otf" if chinese else "DejaVuSans.ttf", size)


def _is_chinese(character: str) -> bool:
    return "\u3000" <= character <= "\u9fff" or "\uff00" <= character <= "\uffef"


def _write(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, ink: tuple[int, int, int]
) -> None:
    x, y = place
    for run, font in _runs(text, size):
        draw.text((x, y + size), run, font=font, fill=ink, anchor="ls")
        x += font.getlength(run)


def _length(text: str, size: int) -> float:
    return sum(font.getlength(run) for run, font in _runs(text, size))


def _wrap(text: str, size: int, width: int) -> list[str]:
    """Lines no wider than `width` pixels, broken between words, or within one that is wider than a line."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        current = ""
        for word in paragraph.split():
            longer = f"{current} {word}".strip()
            if current and _length(longer, size) > width:
                lines.append(current)
                longer = word
            while _length(longer, size) > width and len(longer) > 1:
                fits = max(1, sum(_length(longer[: end + 1], size) <= width for end in range(len(longer))))
                lines.append(longer[:fits])
                longer = longer[fits:]
            current = longer
        lines.append(current)
    return lines
