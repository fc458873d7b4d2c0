"""Pictures of awkward kinds come out the same at every door, or are refused with the reason."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fourstroke.commands import _open
from fourstroke.data.images import Images
from fourstroke.data.prompts import PromptLine, Prompts
from fourstroke.enhance.endpoint import data_url
from fourstroke.folder import ModelInfo
from fourstroke.sizes import fit
from fourstroke.text.vision import over_white

INFO = ModelInfo(name="tiny", width=64, height=32, max_side=96)
"""Its own area is that of the pictures here, so that fitting them changes nothing but what is tested."""
SIZE = INFO.width, INFO.height


def scene() -> Image.Image:
    """Colours that differ from corner to corner, soft enough for JPEG."""
    y, x = np.mgrid[:32, :64]
    return Image.fromarray(np.stack([x * 4, y * 8, 255 - x * 2 - y * 3], axis=-1).astype(np.uint8))


def grey() -> Image.Image:
    return scene().convert("L")


def deep() -> np.ndarray:
    """`grey` in 16 bits."""
    return np.asarray(grey()).astype(np.uint16) * 257


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """A PNG with more chunks behind its header, which is 33 bytes long."""
    return png[:33] + b"".join(chunks) + png[33:]


def turned(image: Image.Image, orientation: int) -> tuple[Image.Image, Image.Exif]:
    """The pixels that a camera stores for a picture of an orientation, and the EXIF that says so."""
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    return image.transpose(back[orientation]), exif


def as_stored(kind: str, orientation: int, image: Image.Image, size: int = 0, **options: object) -> bytes:
    """With `size` bytes of a maker's note in its EXIF."""
    stored, exif = turned(image, orientation)
    exif[0x927C] = bytes(size)
    return encoded(stored, kind, exif=exif, **options)


def clear() -> Image.Image:
    """`scene`, its left half transparent."""
    image = scene()
    image.putalpha(Image.fromarray(np.repeat([[0, 255]], 32, axis=1).repeat(32, axis=0).astype(np.uint8)))
    return image


def grey_that_is_clear() -> bytes:
    """16-bit grey whose value 257 * 9 is transparent, with one such pixel."""
    values = np.full((32, 64), 257 * 9 + 1, np.uint16)
    values[0, 0] = 257 * 9
    return with_chunks(encoded(Image.fromarray(values)), chunk(b"tRNS", struct.pack(">H", 257 * 9)))


def as_clear_grey() -> Image.Image:
    rgba = np.full((32, 64, 4), (9, 9, 9, 255), np.uint8)
    rgba[0, 0, 3] = 0
    return Image.fromarray(rgba)


LONG = zlib.compress(b"a" * 2_000_000)
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)
ORIENTED = b"XML:com.adobe.xmp\0\1\0\0\0"
LOSSY = 30
KINDS = {
    "grey16.png": (encoded(Image.fromarray(deep())), grey(), 0),
    "grey16.tiff": (encoded(Image.fromarray(deep()), "TIFF"), grey(), 0),
    "big-endian.tiff": (
        encoded(Image.frombytes("I;16B", SIZE, deep().astype(">u2").tobytes()), "TIFF"), grey(), 0
    ),
    "grey16-with-a-clear-value.png": (grey_that_is_clear(), as_clear_grey(), 0),
    **{f"exif{n}.jpg": (as_stored("JPEG", n, scene(), quality=98), scene(), LOSSY) for n in range(2, 9)},
    "exif6.png": (as_stored("PNG", 6, scene()), scene(), 0),
    "exif5.webp": (as_stored("WEBP", 5, scene(), lossless=True), scene(), 0),
    "exif6.tiff": (as_stored("TIFF", 6, scene()), scene(), 0),
    "exif6-grey16.png": (as_stored("PNG", 6, Image.fromarray(deep())), grey(), 0),
    "ztxt.png": (with_chunks(encoded(scene()), chunk(b"zTXt", b"note\0\0" + LONG)), scene(), 0),
    "itxt.png": (with_chunks(encoded(scene()), chunk(b"iTXt", b"note\0\1\0\0\0" + LONG)), scene(), 0),
    "profile.png": (with_chunks(encoded(scene()), chunk(b"iCCP", b"note\0\0" + LONG)), scene(), 0),
    "last.png": (encoded(scene())[:-12] + chunk(b"zTXt", b"n\0\0" + LONG) + encoded(scene())[-12:], scene(), 0),
    "turned-by-xmp.png": (
        with_chunks(
            encoded(turned(scene(), 6)[0]),
            chunk(b"zTXt", b"note\0\0" + LONG),
            chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        ),
        scene(),
        0,
    ),
    "text-named-as-a-field.png": (with_chunks(encoded(scene()), chunk(b"tEXt", b"transparency\0no")), scene(), 0),
    "long-xmp.png": (with_chunks(encoded(scene()), chunk(b"iTXt", ORIENTED + LONG)), scene(), 0),
    "huge-exif.jpg": (as_stored("JPEG", 6, scene(), 60_000, quality=98), scene(), LOSSY),
    "huge-exif.png": (as_stored("PNG", 6, scene(), 3_000_000), scene(), 0),
    "broken-exif.png": (with_chunks(encoded(scene()), chunk(b"eXIf", b"garbage")), scene(), 0),
    "cmyk.jpg": (encoded(scene().convert("CMYK"), "JPEG", quality=98), scene(), LOSSY),
    "ycbcr.jpg": (encoded(scene(), "JPEG", quality=98), scene(), LOSSY),
    "palette.png": (encoded(scene().quantize(64)), scene().quantize(64).convert("RGB"), 0),
    "clear.png": (encoded(clear()), clear(), 0),
    "clear-palette.png": (encoded(clear().quantize(32)), clear().quantize(32).convert("RGBA"), 0),
    "clear-grey.png": (encoded(clear().convert("LA")), clear().convert("LA").convert("RGBA"), 0),
    "one-bit.png": (encoded(scene().convert("1")), scene().convert("1").convert("RGB"), 0),
    "animated.png": (encoded(scene(), save_all=True, append_images=[Image.new("RGB", SIZE)]), scene(), 0),
    "animated.webp": (
        encoded(scene(), "WEBP", lossless=True, save_all=True, append_images=[Image.new("RGB", SIZE)]), scene(), 0
    ),
    "animated.gif": (
        encoded(scene().quantize(64), "GIF", save_all=True, append_images=[Image.new("P", SIZE)]),
        scene().quantize(64).convert("RGB"),
        0,
    ),
}  # fmt: skip


def uploaded(path: Path) -> Image.Image:
    pytest.importorskip("fastapi")
    from fourstroke.serve.uploads import read_upload

    return fit(read_upload(path.read_bytes(), "image", 10_000), INFO)


def asked(path: Path | str) -> np.ndarray:
    """The input image of an edit in a file of prompts."""
    return Prompts(Path("edits") / "prompts.jsonl", [PromptLine("edit", "edit", (str(path),))]).inputs(0)[0]


def _opaque(image: Image.Image) -> Image.Image:
    """Without an alpha channel that says nothing."""
    return image.convert("RGB") if image.getextrema()[3] == (255, 255) else image


DOORS = {
    "command": lambda path: fit(_open(path), INFO),
    "python": lambda path: fit(Image.open(path), INFO),
    "server": uploaded,
    "distillation": lambda path: fit(_opaque(Image.fromarray(asked(path))), INFO),
    "folder": lambda path: fit(Image.fromarray(next(iter(Images(path)))[1]), INFO),
}
SERVED = (".png", ".jpg", ".webp")
CASES = [
    (door, name)
    for door in DOORS
    for name in KINDS
    if not (door == "server" and not name.endswith(SERVED))
    and not (door == "python" and (LONG in KINDS[name][0] or "text" in name))  # Pillow refuses them before we see them
]


@pytest.mark.parametrize(("door", "name"), CASES)
def test_a_picture_is_the_same_at_every_door(door, name, tmp_path):
    data, expected, tolerance = KINDS[name]
    (tmp_path / name).write_bytes(data)
    read = DOORS[door](tmp_path / name)
    assert read.size == SIZE
    if door != "folder":  # which is RGBA throughout
        assert read.mode == ("RGBA" if expected.mode == "RGBA" else "RGB")
    values, wanted = (np.asarray(image.convert("RGBA")).astype(int) for image in (read, expected))
    seen = np.minimum(values[..., 3:], wanted[..., 3:]) > 0  # the colour of what is clear is nobody's
    assert np.abs(values[..., 3] - wanted[..., 3]).max() == 0
    assert (np.abs(values - wanted) * seen).max() <= tolerance


def floats(high: float) -> Image.Image:
    return Image.fromarray(np.linspace(0, high, 2048, dtype=np.float32).reshape(32, 64))


def integers(low: int, high: int) -> Image.Image:
    return Image.fromarray(np.linspace(low, high, 2048).astype(np.int32).reshape(32, 64))


REFUSED = {
    "float.tiff": (encoded(floats(1.0), "TIFF"), "mode F"),
    "int32.tiff": (encoded(integers(0, 196_605), "TIFF"), "mode I"),
    "negative.tiff": (encoded(integers(-300, 300), "TIFF"), "mode I"),
    "small.tiff": (encoded(integers(0, 255), "TIFF"), "mode I"),
}


@pytest.mark.parametrize("door", [door for door in DOORS if door != "server"])
@pytest.mark.parametrize("name", REFUSED)
def test_values_without_a_known_range_are_refused_at_every_door(door, name, tmp_path):
    data, reason = REFUSED[name]
    (tmp_path / name).write_bytes(data)
    if door == "folder":
        images = Images(tmp_path / name)
        assert list(images) == []
        assert reason in images.report.skipped[name]
        return
    with pytest.raises(ValueError, match=reason) as error:
        DOORS[door](tmp_path / name)
    assert "8 or 16 bits" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello", "known kind"),
        (encoded(scene())[:60], "damaged"),
        (encoded(scene(), "JPEG")[:400], "damaged"),
        (with_chunks(encoded(scene()), b"\0\0\0"), "known kind"),
    ],
    ids=["empty", "text", "cut-png", "cut-jpeg", "broken-chunk"],
)
@pytest.mark.parametrize("door", ["command", "server", "distillation"])
def test_what_is_no_picture_is_refused_in_one_line(door, data, reason, tmp_path):
    (tmp_path / "x.png").write_bytes(data)
    expected = Exception if door == "server" else ValueError
    with pytest.raises(expected) as error:
        DOORS[door](tmp_path / "x.png")
    told = str(getattr(error.value, "detail", error.value))
    assert "\n" not in told
    assert reason in told or "readable PNG" in told


def test_a_hundred_megapixels_are_refused_without_a_warning_of_pillow(tmp_path, recwarn):
    Image.new("1", (10_000, 10_000)).save(tmp_path / "big.png")
    for read in (_open, asked):
        with pytest.raises(ValueError, match="10000 x 10000 pixels, more than 64000000"):
            read(tmp_path / "big.png")
    assert list(Images(tmp_path)) == []
    assert not recwarn.list
    with pytest.raises(ValueError, match="10000 x 10000"):
        fit(Image.new("1", (10_000, 10_000)), INFO)


@pytest.mark.parametrize("read", [_open, Images, asked])
def test_an_address_is_told_from_a_file(read):
    with pytest.raises(ValueError, match="address; download"):
        read("https://example.com/cat.png")


def test_what_is_no_image_at_all_is_told():
    with pytest.raises(ValueError, match="an input image is a str; give a PIL"):
        fit("cat.png", INFO)


def test_models_that_see_get_upright_pictures_of_eight_bits():
    stored = Image.open(io.BytesIO(as_stored("PNG", 6, Image.fromarray(deep()))))
    assert np.array_equal(over_white(stored), grey().convert("RGB"))
    assert data_url(stored) == data_url(grey())


def test_reading_twice_changes_nothing():
    once = fit(Image.open(io.BytesIO(as_stored("JPEG", 6, scene()))), INFO)
    assert np.array_equal(fit(once, INFO), once)
