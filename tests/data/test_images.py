"""Pictures of every awkward kind are read or refused with a reason, in folders and shards; streams can be resumed."""

import io
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fourstroke.data.images import (
    ImageError,
    Images,
    crop_to_multiple,
    read_image,
)

RED = (200, 30, 40)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def plain(mode: str = "RGB", size: tuple[int, int] = (20, 12)) -> Image.Image:
    return Image.new("RGB", size, RED).convert(mode)


@pytest.mark.parametrize(
    ("data", "tolerance"),
    [
        (encoded(plain()), 0),
        (encoded(plain("CMYK"), "JPEG", quality=100), 3),
        (encoded(plain("CMYK"), "TIFF"), 1),
        (encoded(plain("P")), 60),
        (encoded(plain().quantize(4)), 0),
        (encoded(plain("YCbCr"), "JPEG", quality=100), 4),
        (encoded(plain(), "GIF", save_all=True, append_images=[Image.new("RGB", (20, 12))]), 26),
        (encoded(plain(), "WEBP", lossless=True), 0),
    ],
)
def test_kinds_of_colour_come_out_as_rgba(data: bytes, tolerance: int) -> None:
    picture = read_image(data)
    assert (picture.shape, picture.dtype) == ((12, 20, 4), np.uint8)
    assert np.abs(picture[..., :3].astype(int) - RED).max() <= tolerance
    assert (picture[..., 3] == 255).all()


def test_sixteen_bits_become_eight() -> None:
    levels = np.array([[0, 257, 32_768, 65_535]], np.uint16)
    assert read_image(encoded(Image.fromarray(levels)))[0, :, 0].tolist() == [0, 1, 128, 255]


def sixteen(colour_type: int, values: list[int]) -> bytes:
    """A PNG of one pixel with 16 bits a channel, which Pillow reads and cannot write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    row = b"\0" + struct.pack(f">{len(values)}H", *values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("colour_type", "values", "pixel"),
    [
        (0, [0x8080], (128, 128, 128, 255)),
        (2, [0xC8C8, 0x1E1E, 0x2828], (*RED, 255)),
        (4, [0x8080, 0x4040], (128, 128, 128, 64)),
        (6, [0xC8C8, 0x1E1E, 0x2828, 0x4040], (*RED, 64)),
    ],
)
def test_sixteen_bits_a_channel(colour_type: int, values: list[int], pixel: tuple[int, ...]) -> None:
    assert tuple(read_image(sixteen(colour_type, values))[0, 0].tolist()) == pixel


def test_a_big_endian_tiff_of_sixteen_bits() -> None:
    levels = Image.frombytes("I;16B", (3, 1), struct.pack(">3H", 0, 32_896, 65_535))
    assert read_image(encoded(levels, "TIFF"))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_animations_the_first_frame_counts(kind: str) -> None:
    frames = [Image.new("RGB", (20, 12), (0, 0, 255)), Image.new("RGB", (20, 12), (0, 255, 0))]
    picture = read_image(encoded(plain(), kind, save_all=True, append_images=frames))
    assert np.abs(picture[6, 10, :3].astype(int) - RED).max() <= 26


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_is_grey(mode: str) -> None:
    picture = read_image(encoded(Image.new("L", (3, 2), 255).convert(mode)))
    assert (picture == 255).all()


def test_transparency_is_kept_in_rgba_and_palettes() -> None:
    rgba = Image.new("RGBA", (4, 4), (*RED, 0))
    assert (read_image(encoded(rgba))[..., 3] == 0).all()
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, *RED])
    picture = read_image(encoded(palette, transparency=1))
    assert picture[0, 0].tolist() == [*RED, 0]


def test_exif_turns_the_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_image(encoded(plain(), "JPEG", exif=exif)).shape == (20, 12, 4)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello", "known kind"),
        (encoded(plain(size=(64, 64)), "JPEG")[:300], "damaged"),
        (encoded(plain())[:60], "damaged"),
        (bomb(100_000, 100_000), "more than"),
        (bomb(9_000, 9_000), "9000 x 9000"),
        (bomb(0, 10), "no pixels|damaged|known kind"),
        (encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), "mode F"),
    ],
)
def test_what_cannot_be_used_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read_image(data)


def write_set(folder: Path) -> None:
    """Four pictures, two broken ones, a note, and a shard with two more and one broken."""
    (folder / "deep").mkdir()
    for index, name in enumerate(("a.png", "b.jpg", "deep/c.PNG", "d.webp")):
        Image.new("RGB", (40 + index, 33), (60 * index, 0, 0)).save(folder / name)
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("x")
    with tarfile.open(folder / "shard-000000.tar", "w") as shard:
        for name, data in (
            ("1.png", encoded(plain())),
            ("1.txt", b"words"),
            ("2.jpg", b"\xff\xd8\xff"),
            ("3.jpg", encoded(plain(), "JPEG")),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))


def test_a_folder_with_shards_is_read_and_reported(tmp_path: Path) -> None:
    write_set(tmp_path)
    images = Images(tmp_path)
    names = [name for name, _ in images]
    assert names == ["a.png", "b.jpg", "d.webp", "deep/c.PNG", "shard-000000.tar/1.png", "shard-000000.tar/3.jpg"]
    assert set(images.report.skipped) == {"broken.png", "empty.jpg", "shard-000000.tar/2.jpg"}
    assert images.report.used == 6
    assert "6 pictures read, 3 skipped: broken.png (not a picture" in str(images.report)


def test_a_damaged_shard_gives_what_it_has(tmp_path: Path) -> None:
    write_set(tmp_path)
    shard = tmp_path / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:1500])
    assert len(list(Images(shard))) <= 1
    (tmp_path / "not.tar").write_bytes(b"x" * 2000)
    assert "not.tar" in Images(tmp_path).report.skipped


def test_nothing_usable_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        Images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no pictures in .*\.png"):
        Images(tmp_path)


def test_crops_have_the_asked_multiple() -> None:
    assert crop_to_multiple(np.zeros((37, 50, 4), np.uint8), 16).shape == (32, 48, 4)
    with pytest.raises(ImageError, match="50 x 9 pixels, less than 16"):
        crop_to_multiple(np.zeros((9, 50, 4), np.uint8), 16)
