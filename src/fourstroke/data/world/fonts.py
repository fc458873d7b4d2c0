"""Finds the fonts that the world draws with. They come from the system, so that the package need not ship them."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from PIL import ImageFont

PACKAGES = "fonts-noto-color-emoji fonts-dejavu-core"
EMOJI_FONT = "NotoColorEmoji.ttf"
EMOJI_SIZE = 109  # the one bitmap size inside Noto Color Emoji

SIGN_FONTS: dict[str, dict[str, str]] = {  # script -> name as captions say it -> file; another script is another entry
    "latin": {
        "sans-serif": "DejaVuSans.ttf",
        "bold sans-serif": "DejaVuSans-Bold.ttf",
        "serif": "DejaVuSerif.ttf",
        "bold serif": "DejaVuSerif-Bold.ttf",
        "monospaced": "DejaVuSansMono-Bold.ttf",
    },
}


def find_font(file_name: str) -> Path:
    """The path of a font file, from FOURSTROKE_FONTS, ~/.local/share/fonts or the system's folders, in this order."""
    path = _fonts_by_name(os.environ.get("FOURSTROKE_FONTS", "")).get(file_name)
    if path is None:
        raise FileNotFoundError(
            f"font {file_name} not found: run `apt-get install {PACKAGES}`, "
            "or set FOURSTROKE_FONTS to a folder that holds it"
        )
    return path


@functools.lru_cache(maxsize=256)
def load_font(file_name: str, size: int) -> ImageFont.FreeTypeFont:
    """The font at ``size`` pixels, in the basic layout: bitmap emoji need it, and it is the same on every machine."""
    return ImageFont.truetype(str(find_font(file_name)), size, layout_engine=ImageFont.Layout.BASIC)


@functools.lru_cache(maxsize=4)
def _fonts_by_name(extra: str) -> dict[str, Path]:
    folders = [Path(folder) for folder in extra.split(os.pathsep) if folder]
    folders += [Path.home() / ".local/share/fonts", Path("/usr/local/share/fonts"), Path("/usr/share/fonts")]
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.[to]t[fc]")):
            found.setdefault(path.name, path)
    return found
