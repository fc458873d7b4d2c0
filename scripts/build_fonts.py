"""Cut the fonts of Chinese text down to the characters that the world writes.

    python scripts/build_fonts.py NotoSansCJK-VF.otf.ttc

The fonts in the repository were made from the one of PyPI's manimgx-fonts-cjk 2026.9.26.post1 (OFL 1.1), with
fonttools 4.68. Each holds ASCII, Chinese punctuation and the characters of the world's words, names and captions.
"""

from __future__ import annotations

import io
import string
import sys
from pathlib import Path

from fontTools.cffLib.CFF2ToCFF import convertCFF2ToCFF
from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont
from fontTools.varLib.instancer import instantiateVariableFont

from fourstroke.fonts import FOLDER
from fourstroke.world.atlas import INDEX

SIMPLIFIED = 2  # which font of the collection is that of mainland China
WEIGHTS = {"Regular": 400, "Bold": 700}
PUNCTUATION = "，。、；：？！…—·“”‘’（）《》〈〉【】「」￥％～　０１２３４５６７８９°×"


def main(collection: str) -> None:
    """Write one static font for each weight."""
    for weight, value in WEIGHTS.items():
        font = TTFont(collection, fontNumber=SIMPLIFIED, lazy=True, recalcTimestamp=False)
        options = Options(layout_features=[], name_IDs=["*"], notdef_outline=True, hinting=False, desubroutinize=True)
        subsetter = Subsetter(options)
        subsetter.populate(text=characters(INDEX.parent))
        subsetter.subset(font)
        font = to_cff(instantiateVariableFont(reloaded(font), {"wght": value}))
        rename(font, weight)
        path = FOLDER / f"NotoSansSC-{weight}-subset.otf"
        font.save(path)
        print(f"{path}: {len(font.getBestCmap())} characters, {path.stat().st_size:,} bytes")


def reloaded(font: TTFont) -> TTFont:
    """The font as it is read back from a file: what edits one step leaves behind confuse the next."""
    file = io.BytesIO()
    font.save(file)
    return TTFont(file, recalcTimestamp=False, recalcBBoxes=False)


def to_cff(font: TTFont) -> TTFont:
    """The font with outlines in CFF instead of CFF2, which more programs read."""
    font = reloaded(font)
    assert font["CFF2"].cff[0].CharStrings, "outlines must be read before they are converted"
    convertCFF2ToCFF(font)
    return reloaded(font)


def characters(assets: Path) -> str:
    """Every character that the fonts must have, sorted."""
    world = assets.parent
    files = [assets / name for name in ("chinese.txt", "names.json", "words.json", "phrases.json")]
    files += [world / "captions" / "wordings" / "zh.txt", world / "captions" / "chinese.py", *world.glob("pages/*.py")]
    texts = [file.read_text("utf-8") for file in files]
    chinese = {character for text in texts for character in text if "\u4e00" <= character <= "\u9fff"}
    printable = string.digits + string.ascii_letters + string.punctuation + " "
    return "".join(sorted(chinese | set(printable + PUNCTUATION)))


def rename(font: TTFont, weight: str) -> None:
    """Say in the font's names what it is, so that nobody takes it for the whole font."""
    family = "Noto Sans SC Subset"
    for record in list(font["name"].names):
        if record.nameID in (1, 2, 3, 4, 6, 16, 17, 21, 22, 25):
            font["name"].removeNames(record.nameID)
    for number, text in (
        (1, family),
        (2, weight),
        (3, f"{family} {weight}"),
        (4, f"{family} {weight}"),
        (6, f"NotoSansSCSubset-{weight}"),
    ):
        font["name"].setName(text, number, 3, 1, 0x409)


if __name__ == "__main__":
    main(*sys.argv[1:])
