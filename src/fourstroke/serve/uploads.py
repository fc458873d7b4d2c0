"""Input images from strangers: bounded before they are decoded, and refused with a reason."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

from PIL import Image, ImageOps

from fourstroke.pipeline import ModelInfo, fit
from fourstroke.serve.errors import ApiError

FORMATS = ("PNG", "JPEG", "WEBP")
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, OverflowError, struct.error, zlib.error)
"""What Pillow raises for bytes that are not what they claim to be."""


def read_upload(data: bytes, name: str, pixels: int, info: ModelInfo) -> Image.Image:
    """Decode one upload and fit it to the model.

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
            return fit(ImageOps.exif_transpose(image), info)
    except Image.DecompressionBombError:
        raise ApiError(400, f"{name}: the picture is too large to decode", param=name, code="image_too_large") from None
    except DAMAGE as error:
        reason = " ".join(str(error).split()).split("<_io")[0].strip() or type(error).__name__
        raise ApiError(400, f"{name}: not a readable PNG, JPEG or WebP: {reason}", param=name) from None
