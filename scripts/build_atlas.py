"""Build the atlases of the world, one for each style, from the packages that hold their pictures.

    python scripts/build_atlas.py --noto /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf
    python scripts/build_atlas.py --fluent fluent/package --openclipart /usr/share/openclipart/png \\
        --sweethome /usr/share/sweethome3d/furniture

Each argument builds one style. The atlases in the repository were made from

- flat: Debian's fonts-noto-color-emoji 2.042 (OFL 1.1),
- 3d: npm's @lobehub/fluent-emoji-3d 1.1.0 (MIT),
- clip-art: Debian's openclipart-png 0.18 (public domain),
- rendered: the icons of Debian's sweethome3d-furniture 1.8 (CC-BY 3.0 and CC0).

CREDITS.md names the authors.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fourstroke.world.atlas import CELL, COLUMNS, INDEX
from fourstroke.world.sprites import SPRITES

SIDE = 124  # pixels of a picture's longer side; those of flat keep the size they have in the font
BITMAP_SIZE = 109  # the one size inside Noto Color Emoji

MORE_EMOJI = {
    "plant": "🪴", "toilet": "🚽", "mailbox": "📫", "vase": "🏺",
    "suitcase": "🧳", "cap": "🧢", "radio": "📻", "saw": "🪚", "screwdriver": "🪛", "flashlight": "🔦", "clock": "🕒",
    "cup of coffee": "☕", "fire extinguisher": "🧯",
}  # fmt: skip
"""Things of the other styles that are no sprites of the first edition, as emoji for 3d."""

CLIP_ART = {
    "cat": "animals/mammals/housecats/gatto_cat_architetto_fra_04",
    "house": "buildings/homes/small_house_01",
    "apple": "food/fruit/applf",
    "rocket": "transportation/vehicles/rocket",
    "tree": "food/fruit/tree_whit_fruits_01",
    "fish": "animals/fish/pescetto_arancione_archi_01",
    "mushroom": "plants/mushroom",
    "car": "transportation/vehicles/car",
    "frog": "animals/rana02_architetto_france_01",
    "penguin": "animals/emperor_penguin_ralf_ste_01",
    "pizza": "food/pizza_4_stagioni_archite_01",
    "butterfly": "animals/bugs/farfalla_butterfly_fra1",
    "guitar": "recreation/music/guitar_profile_philippe__01",
    "heart": "recreation/holiday/valentines/heart_jon_phillips_01",
    "dog": "animals/mammals/dog_04_drawn_with_strai_01",
    "balloon": "recreation/party/baloon1_01",
    "pumpkin": "food/zucca_architetto_frances_01",
    "banana": "food/fruit/banana",
    "bicycle": "transportation/vehicles/vtt_02",
    "strawberry": "food/fruit/strawberry",
    "turtle": "animals/turtle_jurgen_gaeremyn_01",
    "cake": "food/desserts/birthday_cake",
    "sailboat": "transportation/boating/boat_jarno_vasamaa_",
    "pig": "animals/mammals/pig_marcelo_caiafa1",
    "lion": "animals/mammals/big_cats/leone_01_architetto_fran_01",
    "monkey": "animals/mammals/happy_monkey_benji_park_01",
    "cow": "animals/mammals/vacca_pezzata_rossa_val_01",
    "tiger": "animals/mammals/big_cats/tigre04_architetto_franc_01",
    "rooster": "animals/birds/gallo_di_profilo_archite_01",
    "flamingo": "animals/birds/flamand_jean-victor_bali_01",
    "bee": "animals/bugs/bee3_mimooh_01",
    "ladybug": "animals/bugs/ladybug_01",
    "ant": "animals/bugs/ant",
    "spider": "animals/bugs/ragnetto_incazzato_archi_01",
    "dolphin": "animals/mammals/dolphin_enrique_meza_c_01",
    "elephant": "animals/mammals/elefante01_architetto_fr_01",
    "horse": "animals/mammals/horses/cavallo_architetto_franc_06",
    "pear": "food/fruit/green_pear_01",
    "tangerine": "food/fruit/orange_simple",
    "lemon": "food/fruit/lemon",
    "watermelon": "food/fruit/watermelon_simple",
    "bunch of grapes": "food/fruit/grapes_simple",
    "cherry": "food/fruit/cherries",
    "pineapple": "food/fruit/pineapple",
    "carrot": "food/vegetables/what_s_up_doc_01",
    "corn cob": "food/vegetables/pannocchia_di_gran_turc_01",
    "croissant": "food/breads_and_carbs/croissant_01",
    "pretzel": "food/breads_and_carbs/pretzel_01",
    "wedge of cheese": "food/dairy/cheese_01",
    "hamburger": "food/meats_and_eggs/hamburger_ganson",
    "hot dog": "food/meats_and_eggs/hot_dog",
    "cupcake": "food/desserts/muffin_jean_victor_balin_",
    "lollipop": "food/desserts/lollipop_dave_pena_01",
    "ice cream": "food/desserts/glace_italienne_jean-vic_01",
    "teapot": "food/beverages/teapot_ganson",
    "cherry blossom": "plants/sakura_01",
    "pine tree": "plants/trees/evergreen/tree",
    "clover": "plants/shamrock_for_march_natha_01",
    "maple leaf": "plants/fall_coloured_leaf_geral_01",
    "planet": "geography/astronomy/saturn_dan_gerhards_01",
    "train": "recreation/toys/kiddy_train_orlando_kara_",
    "airplane": "transportation/vehicles/aircraft_jarno_vasamaa2",
    "castle": "buildings/ch_teau-fort_01",
    "church": "buildings/school_country__abiclipa_01",
    "tennis racket": "recreation/sports/tennis_racket_01",
    "drum": "recreation/music/djambf_ganson",
    "trumpet": "recreation/music/trumpet_b_flat_colour_ganso",
    "violin": "recreation/music/violin_colour_ganson",
    "telephone": "office/telephone/red_telephone_mimooh_01",
    "laptop": "computer/hardware/laptop",
    "hourglass": "signs_and_symbols/clocks/sandglass_vermin_",
    "light bulb": "electronics/bulb/lightbulb_lit_benji_park_",
    "lock": "tools/lock",
    "hammer": "tools/hammer_peterm1",
    "magnet": "tools/calamita_architetto_fran_01",
    "gift": "recreation/holiday/gift01",
    "book": "education/books/diary_costea_bogdan_01",
    "pencil": "office/crayon",
    "paintbrush": "tools/paint_brush_costea_bogda_01",
    "crown": "recreation/party/couronne_01",
    "shoe": "recreation/sports/tennis_shoe_jarno_vasama_",
    "boot": "recreation/holiday/hiking_boot_jarno_vasama_",
    "broom": "tools/broom_nicu_buculei_01",
    "chair": "buildings/furniture/sedia_in_legno_architett_01",
    "teddy bear": "recreation/toys/simple_teddy_bear_gerald_01",
    "snowman": "recreation/holiday/snowman_01",
    "table": "buildings/furniture/tavolo_in_legno_architet_01",
    "lamp": "office/liberty_architetto_franc_01",
    "clock": "signs_and_symbols/clocks/clock04",
    "cup of coffee": "food/beverages/coffee_ganson",
    "cap": "recreation/sports/baseball_cap_ganson",
    "helmet": "recreation/sports/football_helmet_gerald_g_01",
    "soccer ball": "recreation/sports/soccer_ballon_tanguy_jac_",
    "umbrella": "tools/umbrella",
    "television": "buildings/furniture/television_peterm_",
}
"""Paths below openclipart's folder of PNGs, without their ending."""

RENDERED = {
    "chair": "BlendSwap-CC-BY/plaidChair",
    "couch": "BlendSwap-CC-0/winchesterSofa",
    "armchair": "Scopia/modern_armchair",
    "bed": "Scopia/bed1",
    "table": "BlendSwap-CC-0/oakTable",
    "desk": "Scopia/kids_wooden_desk",
    "bookcase": "KatorLegaz/full-bookcase",
    "lamp": "Scopia/living_room_lamp1",
    "stool": "BlendSwap-CC-BY/green_stool",
    "bench": "KatorLegaz/concrete-bench",
    "deck chair": "BlendSwap-CC-0/deckChair",
    "door": "KatorLegaz/exterior-door-01",
    "bathtub": "Scopia/islandBath",
    "toilet": "BlendSwap-CC-0/toiletsUnit",
    "television": "Scopia/tv",
    "radio": "BlendSwap-CC-BY/radio",
    "piano": "BlendSwap-CC-0/pianoAQueue",
    "fridge": "BlendSwap-CC-0/largeFridge",
    "washing machine": "Scopia/clothes_washing_machine",
    "toaster": "Scopia/toaster",
    "fireplace": "Scopia/fireplace1",
    "clock": "BlendSwap-CC-BY/clock",
    "plant": "Scopia/maceta",
    "vase": "Scopia/jar",
    "basket": "Scopia/shopping-basket",
    "barrel": "BlendSwap-CC-0/barrel",
    "mailbox": "BlendSwap-CC-0/mofx_mailbox",
    "wheelbarrow": "BlendSwap-CC-0/wheelbarrow",
    "fire hydrant": "KatorLegaz/fire-hydrant",
    "fire extinguisher": "BlendSwap-CC-0/fireExtinguisher",
    "cup of coffee": "BlendSwap-CC-0/caffe_final",
    "flashlight": "KatorLegaz/flashlight",
    "saw": "Scopia/scie-egoine",
    "screwdriver": "Scopia/tournevis",
    "hammer": "Scopia/marteau",
    "suitcase": "BlendSwap-CC-BY/suitcase",
    "cap": "Scopia/casquette",
    "helmet": "Scopia/casque",
    "teddy bear": "BlendSwap-CC-0/teddyBear",
    "cactus": "BlendSwap-CC-0/cactus",
    "cat": "BlendSwap-CC-BY/siameseCat",
    "dog": "Scopia/dog",
    "rabbit": "Scopia/rabbit",
    "horse": "BlendSwap-CC-0/horse2",
    "car": "KatorLegaz/concept-sedan-01v2",
    "bicycle": "BlendSwap-CC-BY/bike",
    "bus": "Scopia/cityBus",
    "truck": "Scopia/truck",
    "scooter": "KatorLegaz/scooter",
    "train": "BlendSwap-CC-BY/toyTrain",
    "tent": "Scopia/campingTent",
    "basketball": "BlendSwap-CC-0/basketball",
    "soccer ball": "BlendSwap-CC-BY/ballonFoot",
    "tennis racket": "BlendSwap-CC-0/tennisRacket",
    "skateboard": "Scopia/skateboard",
    "hamburger": "BlendSwap-CC-BY/hamburger",
    "hot dog": "BlendSwap-CC-0/hotDog",
    "cupcake": "BlendSwap-CC-0/cupcake",
    "laptop": "BlendSwap-CC-BY/laptop",
    "watch": "Scopia/montre-with-pose",
    "gift": "BlendSwap-CC-BY/gift",
    "dress": "Scopia/robe",
    "backpack": "BlendSwap-CC-BY/backpack",
    "snowman": "BlendSwap-CC-BY/bonecoDeNeve",
}
"""Catalogue and icon of Sweet Home 3D's furniture, without its ending."""


def main() -> None:
    """Build the styles whose packages are given, and write their names into the index."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for package in ("noto", "fluent", "openclipart", "sweethome"):
        parser.add_argument(f"--{package}", type=Path)
    given = parser.parse_args()
    styles = json.loads(INDEX.read_text("utf-8")) if INDEX.exists() else {}
    if given.noto:
        font = ImageFont.truetype(given.noto, BITMAP_SIZE, layout_engine=ImageFont.Layout.BASIC)
        styles["flat"] = write_atlas("noto.webp", {name: draw_glyph(glyph, font) for name, glyph in SPRITES.items()})
    if given.fluent:
        emoji = SPRITES | MORE_EMOJI
        pictures = {name: fitted(read_fluent(glyph, given.fluent)) for name, glyph in emoji.items()}
        styles["3d"] = write_atlas("3d.webp", pictures, quality=95)
    if given.openclipart:
        paths = {name: given.openclipart / f"{path}.png" for name, path in CLIP_ART.items()}
        styles["clip-art"] = write_atlas("clip-art.webp", {name: fitted(Image.open(paths[name])) for name in paths})
    if given.sweethome:
        icons = {name: fitted(read_icon(icon, given.sweethome)) for name, icon in RENDERED.items()}
        styles["rendered"] = write_atlas("rendered.webp", icons)
    lines = [f"{json.dumps(style)}: {json.dumps(styles[style])}" for style in sorted(styles)]
    INDEX.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


def write_atlas(file_name: str, pictures: dict[str, Image.Image], quality: int | None = None) -> dict[str, object]:
    """Save one cell a picture, each at its cell's top left corner; returns the style's entry of the index.

    With a `quality` (0 to 100) colours are lossy; alpha never is.
    """
    rows = -(-len(pictures) // COLUMNS)
    atlas = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    for index, (name, picture) in enumerate(pictures.items()):
        if max(picture.size) > CELL:
            sys.exit(f"{name!r} does not fit {CELL} pixels")
        atlas.paste(picture, (index % COLUMNS * CELL, index // COLUMNS * CELL))
    path = INDEX.parent / file_name
    if quality is None:
        atlas.save(path, lossless=True, exact=True, method=6)
    else:
        atlas.save(path, quality=quality, alpha_quality=100, method=6)
    print(f"{path}: {len(pictures)} pictures, {path.stat().st_size:,} bytes")
    return {"file": file_name, "names": list(pictures)}


def fitted(picture: Image.Image) -> Image.Image:
    """The picture as RGBA, cropped to its alpha, its longer side `SIDE` pixels; resized with premultiplied alpha."""
    picture = cropped(picture.convert("RGBA")).convert("RGBa")
    scale = SIDE / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS).convert("RGBA")


def cropped(picture: Image.Image) -> Image.Image:
    """The picture, cropped to where its alpha is over 8 of 255."""
    box = Image.fromarray(((np.asarray(picture)[..., 3] > 8) * 255).astype(np.uint8)).getbbox()
    if box is None:
        raise ValueError("the picture is empty: is the package complete?")
    return picture.crop(box)


def draw_glyph(glyph: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """One emoji of Noto as RGBA with straight alpha."""
    picture = Image.new("RGBA", (200, 200), (0, 0, 0, 0))
    ImageDraw.Draw(picture).text((24, 24), glyph, font=font, embedded_color=True)
    return cropped(picture)


def read_fluent(glyph: str, package: Path) -> Image.Image:
    """One emoji of Fluent, whose files are named by code points, with or without the sign that asks for colour."""
    code = "-".join(f"{ord(character):04x}" for character in glyph if character != "\ufe0f")
    paths = [package / "assets" / f"{name}.webp" for name in (code, f"{code}-fe0f")]
    return Image.open(next((path for path in paths if path.exists()), paths[0]))


def read_icon(icon: str, folder: Path) -> Image.Image:
    """One packed icon of a furniture catalogue, which is a zip file."""
    catalogue, _, name = icon.partition("/")
    with zipfile.ZipFile(folder / f"{catalogue}.sh3f") as archive:
        return Image.open(io.BytesIO(archive.read(f"{catalogue.lower()}/{name}.png")))


if __name__ == "__main__":
    main()
