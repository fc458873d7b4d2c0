"""Which sizes a model draws, and how sizes that were asked for, or not, become one of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from fourstroke.folder import ModelInfo

PATCH = 16
MULTIPLE = 32
"""Sides are multiples of 32: 16 pixels a token, 2x2 tokens a vision slot."""
SIZES = ((2048, 2048), (2400, 1792), (1792, 2400), (2528, 1696), (1696, 2528), (2752, 1536), (1536, 2752))
"""What users of Qwen-Image-2.1 expect of 1:1, 4:3, 3:4, 3:2, 2:3, 16:9 and 9:16."""


def fit(image: Image.Image, info: ModelInfo) -> Image.Image:
    """An input image at the model's own area, its shape kept, sides rounded to multiples of 32."""
    sides = _sides(image.width / image.height, info)
    mode = "RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB"
    return image.convert(mode).resize(sides, Image.Resampling.LANCZOS)


def sized(
    info: ModelInfo, width: int | None, height: int | None, images: Sequence[Image.Image] | None
) -> tuple[int, int]:
    """Width and height as asked, else the last input image's, else the model's own.

    Raises:
        ValueError: for a size that the model does not draw.
    """
    if width is None and height is None and images:
        width, height = fit(images[-1], info).size
    width, height = info.width if width is None else width, info.height if height is None else height
    for name, side in (("width", width), ("height", height)):
        if side < MULTIPLE or side % MULTIPLE:
            near = max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE)
            raise ValueError(f"{name} is {side}; it must be a positive multiple of {MULTIPLE}, for example {near}")
        if side > info.max_side:
            raise ValueError(f"{name} is {side}; {info.name} draws at most {info.max_side} pixels a side")
    return width, height


def shaped(ratio: float | None, info: ModelInfo) -> tuple[int | None, int | None]:
    """Width and height of a ratio at the model's own area; None, the model's own size, where no ratio was chosen.

    The 2.1 checkpoint has sizes of its own for the common ratios.
    """
    if ratio is None:
        return None, None
    if (info.width, info.height) == (2048, 2048):
        near = min(SIZES, key=lambda size: abs(math.log(size[0] / size[1] / ratio)))
        if abs(math.log(near[0] / near[1] / ratio)) < 0.04:
            return near
    return _sides(ratio, info)


def _sides(ratio: float, info: ModelInfo) -> tuple[int, int]:
    """Width and height of a ratio at the model's own area, multiples of 32, none longer than it draws."""
    width = math.sqrt(info.width * info.height * ratio)
    width, height = (max(MULTIPLE, min(info.max_side, round(s / MULTIPLE) * MULTIPLE)) for s in (width, width / ratio))
    return int(width), int(height)
