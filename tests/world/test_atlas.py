"""The assets of the world are what their indexes say: pictures in cells, names in four languages, letters drawn."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from PIL import Image

from fourstroke.fonts import FOLDER, find_font
from fourstroke.world import BACKGROUND_COLOURS, SHAPE_COLOURS, SHAPES, SPRITES
from fourstroke.world.atlas import CELL, COLUMNS, INDEX, STYLES, THINGS, read_index, sprite_picture, styles_of

ASSETS = INDEX.parent
NAMES = [(style, name) for style in STYLES for name in read_index()[style]["names"]]
PIXELS = {
    "flat": "24c99cb253a56fe1",
    "3d": "bed629b3f9c25310",
    "clip-art": "e40c65ad0afbe132",
    "rendered": "d8ac7f40acdc8d22",
}
FORMS = {
    "en": {"many"},
    "es": {"one", "many", "gender"},
    "ru": {"one", "genitive", "few", "many", "gender"},
    "zh": {"name", "measure"},
}
ADJECTIVES = {
    "es": {"m", "f", "m_many", "f_many"},
    "ru": {"m", "f", "n", "pl", "genitive_m", "genitive_f", "genitive_n", "genitive_pl"},
}


def load(name: str) -> dict[str, Any]:
    return json.loads((ASSETS / name).read_text("utf-8"))


def words_of(name: str) -> list[str]:
    return (ASSETS / name).read_text("utf-8").split("\n")[:-1]


def atlas_pixels(style: str) -> np.ndarray:
    return np.asarray(Image.open(ASSETS / read_index()[style]["file"]).convert("RGBA"))


@pytest.mark.parametrize("style", STYLES)
def test_every_machine_decodes_the_same_pixels(style: str) -> None:
    """Of what is seen: colours under no alpha are the encoder's business."""
    pixels = atlas_pixels(style)
    seen = np.where(pixels[..., 3:] > 0, pixels, 0)
    assert hashlib.sha256(np.ascontiguousarray(seen).tobytes()).hexdigest()[:16] == PIXELS[style]


@pytest.mark.parametrize("style", STYLES)
def test_cells_hold_what_the_index_says(style: str) -> None:
    """One picture for each name, at its cell's top left corner and nowhere else; cells without a name are empty."""
    alpha, names = atlas_pixels(style)[..., 3], read_index()[style]["names"]
    assert len(set(names)) == len(names)
    assert alpha.shape == (-(-len(names) // COLUMNS) * CELL, COLUMNS * CELL)
    cells = alpha.reshape(-1, CELL, COLUMNS, CELL).swapaxes(1, 2).reshape(-1, CELL, CELL)
    assert not cells[len(names) :].any()
    for name, cell in zip(names, cells, strict=False):
        picture = sprite_picture(name, style)
        assert 70 <= max(picture.size) <= CELL, name
        assert cell[0].max() > 0, name
        assert cell[:, 0].max() > 0, name
        assert np.array_equal(np.asarray(picture)[..., 3], cell[: picture.height, : picture.width]), name
        assert not cell[picture.height :].any(), name
        assert not cell[:, picture.width :].any(), name


def test_things_have_styles_that_differ() -> None:
    """Told by the mean difference of two pictures over gray, each squeezed into a square: at least 10 of 255."""
    assert len(THINGS) == len(set(THINGS)) >= 72
    assert THINGS[:18] == tuple(SPRITES)[:18]
    for name in THINGS:
        styles = styles_of(name)
        assert len(styles) >= 2, name
        views = [thumbnail(sprite_picture(name, style)) for style in styles]
        for index, view in enumerate(views):
            assert all(np.abs(view - other).mean() > 10 for other in views[:index]), (name, styles)


def thumbnail(picture: Image.Image) -> np.ndarray:
    gray = Image.new("RGBA", picture.size, (128, 128, 128, 255))
    return np.asarray(Image.alpha_composite(gray, picture).convert("RGB").resize((32, 32)), np.float32)


def test_no_two_names_share_a_picture() -> None:
    pictures = [sprite_picture(name, style).tobytes() for style, name in NAMES]
    assert len(set(pictures)) == len(pictures)


def test_flat_holds_the_first_edition() -> None:
    assert read_index()["flat"]["names"] == list(SPRITES)
    assert set(SPRITES) <= set(read_index()["3d"]["names"])
    assert set(STYLES) == set(read_index())


def test_unknown_styles_and_names_end_in_one_clear_line() -> None:
    assert styles_of("nothing") == ()
    with pytest.raises(ValueError, match="unknown style 'oil': choose flat, 3d, clip-art or rendered"):
        sprite_picture("cat", "oil")
    with pytest.raises(ValueError, match="no picture of 'octopus' in style rendered: choose flat or 3d"):
        sprite_picture("octopus", "rendered")
    with pytest.raises(
        ValueError, match="no picture of 'nothing' in style flat: there are cat, house, apple, rocket and"
    ):
        sprite_picture("nothing")


@pytest.mark.parametrize("language", FORMS)
def test_names_have_every_form_in_every_language(language: str) -> None:
    names = load("names.json")
    assert set(names) == {name for _, name in NAMES}
    letters = {"en": "az", "es": "az", "ru": "ая", "zh": "一龟"}[language]
    for entries in (names, load("words.json")["shapes"]):
        for name, entry in entries.items():
            forms = entry[language]
            assert set(forms) - {"article"} == FORMS[language], name
            assert forms.get("gender", "m") in {"m", "f", "n", "pl"}, name
            for form in set(forms) - {"gender", "article"}:
                text = forms[form]
                assert text == text.strip() != "", (name, form)
                assert any(letters[0] <= character <= letters[1] for character in text), (name, form)


def test_no_two_names_are_called_the_same() -> None:
    names = load("names.json")
    for language, form in (("en", "many"), ("es", "one"), ("es", "many"), ("ru", "one"), ("zh", "name")):
        called = [entry[language][form] for entry in names.values()]
        assert len(set(called)) == len(called), (language, {text for text in called if called.count(text) > 1})


def test_words_have_every_form_in_every_language() -> None:
    words = load("words.json")
    assert set(words["colours"]) >= set(SHAPE_COLOURS)
    assert set(words["backgrounds"]) == set(BACKGROUND_COLOURS)
    assert set(words["shapes"]) == set(SHAPES)
    assert set(words["styles"]) == set(STYLES)
    for kind in ("colours", "sizes", "styles"):
        for name, entry in words[kind].items():
            for language, forms in ADJECTIVES.items():
                assert set(entry[language]) - {"style"} == forms, (kind, name)
            assert entry["zh"], (kind, name)
    for name, entry in words["backgrounds"].items():
        assert entry["es"].startswith("fondo "), name
        assert set(entry["ru"]) == {"nominative", "prepositional"}, name
        assert entry["zh"].endswith("背景"), name


def test_chinese_words_are_in_both_fonts() -> None:
    words = words_of("chinese.txt")
    assert len(words) == len(set(words)) >= 240
    assert all(1 <= len(word) <= 4 for word in words)
    assert len(set("".join(words))) >= 200
    text = "".join(words) + (ASSETS / "names.json").read_text("utf-8") + (ASSETS / "words.json").read_text("utf-8")
    chinese = {character for character in text if "\u4e00" <= character <= "\u9fff"}
    for weight in ("Regular", "Bold"):
        path = find_font(f"NotoSansSC-{weight}-subset.otf")
        assert path.stat().st_size < 200_000
        characters = {chr(code) for code in TTFont(path).getBestCmap()}
        assert chinese | set("0123456789，。！？：、（）《》“”￥%") <= characters, (chinese - characters, weight)


def test_cyrillic_words_are_short_and_drawn() -> None:
    words = words_of("cyrillic.txt")
    assert len(words) == len(set(words)) >= 600
    assert all(3 <= len(word) <= 8 for word in words)
    letters = set("".join(words))
    assert letters <= set("абвгдеёжзийклмнопрстуфхцчшщъыьэюя")
    for path in FOLDER.glob("DejaVu*.ttf"):
        assert {ord(letter) for letter in letters} <= set(TTFont(path).getBestCmap()), path.name


@pytest.mark.parametrize(
    "path",
    [
        *(ASSETS / f"LICENSE-{source}.txt" for source in ("noto", "fluent", "openclipart", "sweethome3d")),
        *(FOLDER / f"LICENSE-{source}.txt" for source in ("DejaVu", "NotoSansSC")),
    ],
    ids=lambda path: path.stem,
)
def test_every_source_has_its_licence_and_is_credited(path: Path) -> None:
    assert len(path.read_text("utf-8")) > 1000
    credits = Path(__file__).parents[2] / "CREDITS.md"
    assert path.name in credits.read_text("utf-8")


def test_assets_stay_small() -> None:
    new = [path for path in ASSETS.iterdir() if path.name != "noto.webp"] + list(FOLDER.glob("*.otf"))
    assert sum(path.stat().st_size for path in new) < 4_000_000
