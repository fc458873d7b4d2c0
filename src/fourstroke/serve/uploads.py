"""Input images from strangers: bounded before they are decoded, and refused with a reason."""

from __future__ import annotations

from PIL import Image

from fourstroke.image_io import ImageError, ImageTooLargeError, decode_image
from fourstroke.serve.errors import ApiError

FORMATS = ("PNG", "JPEG", "WEBP")


def read_upload(data: bytes, name: str, pixels: int) -> Image.Image:
    """Decode one upload, as `image_io.to_rgb` gives it.

    Raises:
        ApiError: 400 for what is no PNG, JPEG or WebP, is damaged, or has more than `pixels` pixels; nothing of such a
            picture is decoded.
    """
    try:
        return decode_image(data, pixels, FORMATS)
    except ImageTooLargeError as error:
        raise ApiError(400, f"{name}: {error}", param=name, code="image_too_large") from None
    except ImageError as error:
        raise ApiError(400, f"{name}: not a readable PNG, JPEG or WebP: {error}", param=name) from None


def fit_mask(mask: Image.Image, sent: tuple[int, int], fitted: tuple[int, int]) -> Image.Image:
    """A mask as OpenAI's API has it (transparent where to draw anew) as 255 and 0, from the sent size to the fitted.

    Raises:
        ApiError: 400 where it has no alpha channel, another size than the picture, or nothing transparent.
    """
    if mask.size != sent:
        sizes = f"{mask.width}x{mask.height} and the first image {sent[0]}x{sent[1]}"
        raise ApiError(400, f"mask: it is {sizes}; both must be of one size", param="mask")
    if "A" not in mask.getbands():
        message = "mask: it has no alpha channel; make it transparent where the picture is to be drawn anew"
        raise ApiError(400, message, param="mask")
    alpha = mask.getchannel("A").resize(fitted, Image.Resampling.BOX)
    free = alpha.point(lambda value: 255 if value < 128 else 0)
    if free.getbbox() is None:
        raise ApiError(400, "mask: nothing in it is transparent, so nothing would be drawn anew", param="mask")
    return free
