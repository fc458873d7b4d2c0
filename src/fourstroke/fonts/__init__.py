"""The fonts that travel with the package: DejaVu for signs, pages and captions of sheets, Noto Sans SC for Chinese.

The latter has the characters of the world's Chinese words, names and captions (`scripts/build_fonts.py`).

Nothing is read from the system's folders, so that a seed draws the same picture on every machine. Who wants other fonts
names folders in `FOURSTROKE_FONTS`; a file of the same name there comes first.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from PIL import ImageFont

FOLDER = Path(__file__).parent


def find_font(file_name: str) -> Path:
    """The path of a font file, from the folders of `FOURSTROKE_FONTS` or from the package; else `FileNotFoundError`."""
    path = _fonts_by_name(os.environ.get("FOURSTROKE_FONTS", "")).get(file_name)
    if path is None:
        raise FileNotFoundError(
            f"font {file_name} is not among those of the package; set FOURSTROKE_FONTS to a folder that holds it"
        )
    return path


@functools.lru_cache(maxsize=256)
def load_font(file_name: str, size: int) -> ImageFont.FreeTypeFont:
    """The font at `size` pixels, in the basic layout, which is the same on every machine."""
    return ImageFont.truetype(str(find_font(file_name)), size, layout_engine=ImageFont.Layout.BASIC)


@functools.lru_cache(maxsize=4)
def _fonts_by_name(extra: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in [*(Path(folder).expanduser() for folder in extra.split(os.pathsep) if folder), FOLDER]:
        for path in sorted(folder.rglob("*.[to]t[fc]")):
            found.setdefault(path.name, path)
    return found
