"""Input images from strangers: bounded before they are decoded, and refused with a reason."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

from PIL import Image, ImageOps

from fourstroke.serve.errors import ApiError

FORMATS = ("PNG", "JPEG", "WEBP")
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, OverflowError, struct.error, zlib.error)
"""What Pillow raises for bytes that are not what they claim to be."""


def read_upload(data: bytes, name: str, pixels: int) -> Image.Image:
    """Decode one upload, upright.

    Raises:
        ApiError: 400 for what is no PNG, JPEG or WebP, is damaged, or has more than `pixels` pixels; nothing of such a
            picture is decoded.
    """
    if not data:
        raise ApiError(400, f"{name}: the file is empty", param=name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is stricter
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > pixels:
                raise ApiError(
                    400, f"{name}: {image.width}x{image.height} pixels; at most {pixels} in all are read", param=name,
                    code="image_too_large",
                )  # fmt: skip
            image.load()
            return ImageOps.exif_transpose(image)
    except Image.DecompressionBombError:
        raise ApiError(400, f"{name}: the picture is too large to decode", param=name, code="image_too_large") from None
    except DAMAGE as error:
        reason = " ".join(str(error).split()).split("<_io")[0].strip() or type(error).__name__
        raise ApiError(400, f"{name}: not a readable PNG, JPEG or WebP: {reason}", param=name) from None


def fit_mask(mask: Image.Image, sent: tuple[int, int], fitted: tuple[int, int]) -> Image.Image:
    """A mask as OpenAI's API has it (transparent where to draw anew) as 255 and 0, from the sent size to the fitted.

    Raises:
        ApiError: 400 where it has no alpha channel, another size than the picture, or nothing transparent.
    """
    if mask.size != sent:
        sizes = f"{mask.width}x{mask.height} and the first image {sent[0]}x{sent[1]}"
        raise ApiError(400, f"mask: it is {sizes}; both must be of one size", param="mask")
    if "A" not in mask.getbands() and "transparency" not in mask.info:
        message = "mask: it has no alpha channel; make it transparent where the picture is to be drawn anew"
        raise ApiError(400, message, param="mask")
    alpha = mask.convert("RGBA").getchannel("A").resize(fitted, Image.Resampling.BOX)
    free = alpha.point(lambda value: 255 if value < 128 else 0)
    if free.getbbox() is None:
        raise ApiError(400, "mask: nothing in it is transparent, so nothing would be drawn anew", param="mask")
    return free
