"""Pictures from outside, read in one way at every door: files, uploads, shards, and PIL's images from Python."""

from __future__ import annotations

import contextlib
import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngStream

MAX_PIXELS = 64_000_000
"""Bigger pictures are not decoded: a file of a few kilobytes can claim any size."""
ADDRESS = "that is an address; download the pictures first and name the file"
DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, struct.error,
    zlib.error,
)  # fmt: skip
"""What Pillow raises for bytes that are not what they claim to be."""
PNG = b"\x89PNG\r\n\x1a\n"
NOTES = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
"""Chunks of a PNG that do not change its pixels, but for which Pillow refuses it where they unpack to a megabyte."""
ORIENTED = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
"""Texts that may say which way is up."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation."""
SIDEWAYS = (5, 6, 7, 8)
"""Orientations by which width and height change places."""


class ImageError(ValueError):
    """A picture that cannot be used; the message says why in a few words."""


class ImageTooLargeError(ImageError):
    """A picture of more pixels than are read."""


def open_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture of a file, as `to_rgb` gives it; raises ImageError."""
    return decode_image(read_bytes(path), max_pixels)


def read_bytes(path: str | Path, offset: int = 0, size: int = -1) -> bytes:
    """`size` bytes of a file from `offset` on, all by default; raises ImageError where there are none to be had."""
    try:
        with Path(path).open("rb") as file:
            if offset:
                file.seek(offset)
            return file.read(size)
    except OSError as error:
        reason = ADDRESS if is_address(path) else f"cannot be read: {error.strerror}"
        raise ImageError(reason) from None


def is_address(path: str | Path) -> bool:
    """Whether somebody wrote an address where a file is to be named."""
    return re.search(r"(^|/)(https?|ftp|s3|file|data):", str(path)) is not None


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] | None = None) -> Image.Image:
    """An encoded picture as `to_rgb` gives it; of animations the first frame.

    Args:
        data: the whole file.
        max_pixels: more are refused before anything is decoded.
        formats: Pillow's names of those that are read; None is all.

    Raises:
        ImageError: if it is empty, damaged, of an unknown kind, too large (`ImageTooLargeError`), or refused by
            `to_rgb`.
    """
    if not data:
        raise ImageError("empty file")
    with _said(max_pixels):
        return to_rgb(Image.open(io.BytesIO(_short_notes(data)), formats=formats), max_pixels)


def image_size(file: IO[bytes], max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height of an encoded picture, upright, from its header; it is decoded only where that does not do.

    Raises ImageError as `decode_image` does, for what can be told by the header.
    """
    try:
        with _said(max_pixels):
            image = Image.open(file)
            width, height = image.size
            turned = Image.Image.getexif(image).get(ExifTags.Base.Orientation) in SIDEWAYS  # PNG's own would decode all
    except ImageTooLargeError:
        raise
    except ImageError:
        file.seek(0)
        return decode_image(file.read(), max_pixels).size
    if not width * height:
        raise ImageError("no pixels")
    if width * height > max_pixels:
        raise ImageTooLargeError(f"{width} x {height} pixels, more than {max_pixels}: make it smaller")
    return (height, width) if turned else (width, height)


@contextlib.contextmanager
def _said(max_pixels: int) -> Iterator[None]:
    """Turn whatever Pillow raises in the block into an ImageError of a few words."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow about sizes and tags: we judge the size ourselves
            yield
    except Image.DecompressionBombError:
        raise ImageTooLargeError(f"more than {max_pixels} pixels: make it smaller") from None
    except Image.UnidentifiedImageError:
        raise ImageError("not a picture of a known kind or depth") from None
    except ImageError:
        raise
    except DAMAGE as error:
        reason = " ".join(str(error).split()).split("<_io")[0].strip()
        raise ImageError(f"damaged: {reason or type(error).__name__}") from None


def to_rgb(image: Image.Image, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A picture as all parts take it: upright, 8 bits a channel, RGB, or RGBA where it knows transparency.

    Turned as its EXIF says; 16-bit grey is scaled, CMYK, palettes and grey are converted, colour profiles are not
    applied. What is returned carries no EXIF, so a second call changes nothing.

    Raises:
        ImageError: for what is no `PIL.Image`, has no pixels, more than `max_pixels` (`ImageTooLargeError`), or 32-bit
            values, whose black and white nobody knows.
    """
    if not isinstance(image, Image.Image):
        raise ImageError(f"an input image is a {type(image).__name__}; give a PIL.Image, such as Image.open(path)")
    if not image.width * image.height:
        raise ImageError("no pixels")
    if image.width * image.height > max_pixels:
        raise ImageTooLargeError(f"{image.width} x {image.height} pixels, more than {max_pixels}: make it smaller")
    image.load()
    turn = TURNS.get(_orientation(image))
    if image.mode[0] in "IF":
        image = _eight_bits(image)
    mode = "RGBA" if image.has_transparency_data else "RGB"
    if image.mode == "La":  # premultiplied grey has one way out
        image = image.convert("LA")
    image = image.convert(mode)
    if turn is not None:
        image = image.transpose(turn)
    image.info = {}
    return image


def _orientation(image: Image.Image) -> Any:
    """The EXIF orientation, 1 to 8; of metadata that cannot be read, whatever was stored as pixels stands."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except (SyntaxError, ValueError, struct.error):
        return None


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, in Pillow's modes I;16 or I, as L, or LA where one of its values is transparent."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F" or (image.mode == "I" and (low < 0 or not 255 < high <= 65_535)):
        raise ImageError(
            f"values of mode {image.mode} from {low:g} to {high:g}, and nothing says what is black and what is white: "
            "save it with 8 or 16 bits a channel"
        )
    grey = Image.fromarray(((values.astype(np.int64) + 128) // 257).astype(np.uint8))
    if (hidden := image.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
    return grey


def _short_notes(data: bytes) -> bytes:
    """A PNG without colour profile and texts, but for those that turn it and are short; anything else as it is."""
    if not data.startswith(PNG):
        return data
    file, kept, place = io.BytesIO(data), [PNG], len(PNG)
    stream = PngStream(file)  # counts how much all notes hold together
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        file.seek(place + 8)
        if kind not in NOTES or (data.startswith(ORIENTED, place + 8) and _accepted(stream, kind.decode(), length)):
            kept.append(data[place : place + 12 + length])
        place += 12 + length
    return b"".join(kept)


def _accepted(stream: PngStream, kind: str, length: int) -> bool:
    """Whether Pillow takes the note that comes next."""
    try:
        getattr(stream, f"chunk_{kind}")(0, length)
    except DAMAGE:
        return False
    return True
