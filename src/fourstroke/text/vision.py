"""Input images as Qwen3-VL reads them: patches of 16 px, four of which become one vision slot of the prompt.

The arithmetic is that of transformers' Pillow image processor. What is ours is the agreement with the transformer:
each slot is the place of 2x2 latents of the same image, so the picture shown to the text encoder and the one given to
the VAE have one size, H x W with both a multiple of 32, and (H/32) * (W/32) slots. An image that the processor would
resize is therefore refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from fourstroke.image_io import to_rgb

PATCH_SIZE = 16
MERGE_SIZE = 2
SLOT_SIZE = PATCH_SIZE * MERGE_SIZE
BAND = 2**16
"""Pixels of an image that the processor, which computes in wide numbers, sees at once."""


def image_processor(min_pixels: int = SLOT_SIZE**2, max_pixels: int = 4096**2) -> Qwen2VLImageProcessorPil:
    """The processor of the small families: one slot at least, 16 megapixels at most, values in [-1, 1]."""
    return Qwen2VLImageProcessorPil(
        patch_size=PATCH_SIZE,
        merge_size=MERGE_SIZE,
        temporal_patch_size=2,
        size={"shortest_edge": min_pixels, "longest_edge": max_pixels},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def patchify(
    images: Sequence[Image.Image], processor: Qwen2VLImageProcessorPil, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels to patches: `pixel_values` (patches, 3 * 2 * 16 * 16) and `image_grid_thw` (images, 3), in patches.

    Patches follow each other by rows of slots, so an image is read in bands of them: beside the result little memory is
    needed. Transparent images are laid over white. Raises `ValueError` for a size that does not give whole slots.
    """
    patch, slot = processor.patch_size, processor.patch_size * processor.merge_size
    grids = [(1, image.height // patch, image.width // patch) for image in images if count_slots(image, processor)]
    values = torch.empty(
        sum(rows * columns for _, rows, columns in grids), 3 * processor.temporal_patch_size * patch**2, dtype=dtype
    )
    start = 0
    for image in images:
        white, height = over_white(image), max(1, BAND // image.width // slot) * slot
        for top in range(0, image.height, height):
            band = white.crop((0, top, image.width, min(top + height, image.height)))
            part = processor(images=[band], do_resize=False, return_tensors="pt")["pixel_values"]
            values[start : start + len(part)] = part
            start += len(part)
    return values, torch.tensor(grids)


def count_slots(image: Image.Image, processor: Qwen2VLImageProcessorPil) -> int:
    """The number of vision slots of an image, (H/32) * (W/32); raises `ValueError` if its size would be changed."""
    width, height = image.size
    factor = processor.patch_size * processor.merge_size
    low, high = processor.size["shortest_edge"], processor.size["longest_edge"]
    if height % factor or width % factor:
        raise ValueError(
            f"an input image is {width}x{height}; both sides must be multiples of {factor}, since each {factor} px "
            "square is one vision slot and 2x2 latents: resize the image first, and give the VAE the same one"
        )
    if smart_resize(height, width, factor, low, high) != (height, width):
        raise ValueError(
            f"an input image is {width}x{height} = {width * height} pixels; this text encoder reads {low} to {high} "
            "pixels: resize the image first, and give the VAE the same one"
        )
    return (height // factor) * (width // factor)


def over_white(image: Image.Image) -> Image.Image:
    """An RGB copy, transparent parts laid over white."""
    image = to_rgb(image)
    if image.mode == "RGB":
        return image
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")
