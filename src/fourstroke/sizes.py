"""Which sizes a model draws, and how sizes that were asked for, or not, become one of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from fourstroke.folder import ModelInfo
from fourstroke.image_io import to_rgb
from fourstroke.text.vision import SLOT_SIZE

SIZES = ((2048, 2048), (2400, 1792), (1792, 2400), (2528, 1696), (1696, 2528), (2752, 1536), (1536, 2752))
"""What users of Qwen-Image-2.1 expect of 1:1, 4:3, 3:4, 3:2, 2:3, 16:9 and 9:16."""
SQUEEZE = 1.25
"""How far beyond the longest shape that a model draws an input image may be, as a factor; it becomes that shape."""


def multiple(info: ModelInfo) -> int:
    """Sides are multiples of it, in pixels: whole latents, and whole vision slots of the text encoder."""
    return math.lcm(SLOT_SIZE, info.factor)


def tokens_per_slot(info: ModelInfo) -> int:
    """Latents of an input image that take the place of one vision slot."""
    return max(1, SLOT_SIZE // info.factor) ** 2


def fit(image: Image.Image, info: ModelInfo) -> Image.Image:
    """An input image at the model's own area, upright; its shape is kept as well as sides of whole latents can.

    Raises:
        ValueError: for a shape that the model does not draw, or an image that cannot be read (`ImageError`).
    """
    image = to_rgb(image)
    return image.resize(fit_size(*image.size, info), Image.Resampling.LANCZOS)


def fit_size(width: int, height: int, info: ModelInfo) -> tuple[int, int]:
    """The size that `fit` gives an upright image of `width` x `height`; raises ValueError as `fit` does."""
    if SLOT_SIZE % info.factor:
        raise ValueError(
            f"{info.name} reads no input images: its latents are {info.factor} pixels wide, not a part of the "
            f"{SLOT_SIZE} of a vision slot"
        )
    return _sides(width / height, info, f"an input image of {width}x{height} pixels", "crop it first")


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
    step = multiple(info)
    for name, side in (("width", width), ("height", height)):
        if side < step or side % step:
            near = max(step, round(side / step) * step)
            raise ValueError(f"{name} is {side}; it must be a positive multiple of {step}, for example {near}")
        if side > info.max_side:
            raise ValueError(f"{name} is {side}; {info.name} draws at most {info.max_side} pixels a side")
    return width, height


def shaped(ratio: float | None, info: ModelInfo) -> tuple[int | None, int | None]:
    """Width and height of a ratio at the model's own area; None, the model's own size, where no ratio was chosen.

    The 2.1 checkpoint has sizes of its own for the common ratios. Raises ValueError for a ratio it does not draw.
    """
    if ratio is None:
        return None, None
    if (info.width, info.height) == (2048, 2048) and multiple(info) == SLOT_SIZE:
        near = min(SIZES, key=lambda size: abs(math.log(size[0] / size[1] / ratio)))
        if abs(math.log(near[0] / near[1] / ratio)) < 0.04:
            return near
    return _sides(ratio, info, "the shape that was chosen", "name a width and a height")


def _sides(ratio: float, info: ModelInfo, what: str, advice: str) -> tuple[int, int]:
    """Width and height of about a ratio and the model's own area, neither longer than it draws.

    Of all sizes, the one that is nearest in shape and, with a quarter of the weight, in area.
    """
    step = multiple(info)
    most = info.max_side // step
    if (far := max(ratio, 1 / ratio)) > SQUEEZE * most:
        longer = "wide as it is high" if ratio > 1 else "high as it is wide"
        raise ValueError(f"{what} is {far:.1f} times as {longer}, and {info.name} draws at most {most} times: {advice}")
    area = min(info.width * info.height / step**2, most**2 / far)

    def distance(size: tuple[int, int]) -> float:
        columns, rows = size
        return abs(math.log(columns / rows / ratio)) + abs(math.log(columns * rows / area)) / 4

    sides = range(1, most + 1)
    sizes = [(c, min(most, max(1, r))) for c in sides for r in (math.floor(c / ratio), math.ceil(c / ratio))]
    columns, rows = min(sizes, key=distance)
    return columns * step, rows * step
