"""The world keeps its promises: the same everywhere, splits apart, captions true, objects whole, fast."""

import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fourstroke
from fourstroke.data.sheet import contact_sheet
from fourstroke.fonts import find_font
from fourstroke.world import BACKGROUND_COLOURS, SHAPE_COLOURS, SPRITES, WORDS, Scene, World, WorldConfig, split_of
from fourstroke.world.atlas import sprite_picture
from fourstroke.world.caption import with_article
from fourstroke.world.graph import INVERSE, combinations, is_held_out
from fourstroke.world.page import render_page
from fourstroke.world.palette import stands_out
from fourstroke.world.sprites import FACES, choose_sprites
from fourstroke.world.stamps import object_stamp
from fourstroke.world.words import choose_words

MICRO = WorldConfig()
FULL = WorldConfig(width=160, height=128, sprites=150, words=0.4, transparent=0.2)


def test_a_seed_gives_the_same_sample_in_another_process() -> None:
    program = (
        "import hashlib; from fourstroke.world import World, WorldConfig;"
        "s = World(WorldConfig(words=0.5)).sample(11);"
        "print(hashlib.sha256(s.image.tobytes() + s.rich.encode() + s.short.encode()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    sample = World(WorldConfig(words=0.5)).sample(11)
    assert other == hashlib.sha256(sample.image.tobytes() + sample.rich.encode() + sample.short.encode()).hexdigest()


def digest(pictures: Iterable[np.ndarray]) -> str:
    """The first sixteen digits of what the pixels of all pictures hash to."""
    return hashlib.sha256(b"".join(picture.tobytes() for picture in pictures)).hexdigest()[:16]


def test_every_machine_draws_the_same_pictures() -> None:
    """These were written down on one machine: sprites, scenes, signs, stickers and pages are the same on any other."""
    assert digest(np.asarray(sprite_picture(name)) for name in SPRITES) == "56f44529cc215216"
    assert digest(World(MICRO).sample(seed).image for seed in range(8)) == "4b25ef6decb86d6e"
    assert digest(World(FULL).sample(seed).image for seed in range(16)) == "8d6f26352463cc97"
    assert digest(render_page(seed, 128, 128, (10, 14)) for seed in range(4)) == "5eeb938578b0ca76"


def test_nothing_is_read_from_the_fonts_of_the_system() -> None:
    """Every file that drawing opens lies in the package, whatever the system has installed."""
    program = (
        "import sys; opened = []\n"
        "sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == 'open' else None)\n"
        "from fourstroke.data.sheet import contact_sheet\n"
        "from fourstroke.world import World, WorldConfig\n"
        "from fourstroke.fonts import load_font\n"
        "world = World(WorldConfig(words=1.0))\n"
        "contact_sheet([world.sample(seed).image for seed in range(4)], ['a'] * 4)\n"
        "print(*[load_font('DejaVuSans.ttf', 9).path, *opened], sep='\\n')\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "FOURSTROKE_FONTS"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    fonts = {Path(line) for line in run.stdout.splitlines() if Path(line).suffix in (".ttf", ".ttc", ".otf", ".webp")}
    assert {path.name for path in fonts} >= {"DejaVuSans.ttf", "noto.webp"}
    assert all(path.is_relative_to(Path(fourstroke.__file__).parent) for path in fonts)


def test_a_font_of_the_system_is_used_by_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_font("DejaVuSans.ttf").parent == Path(fourstroke.__file__).parent / "fonts"
    (tmp_path / "DejaVuSans.ttf").write_bytes(find_font("DejaVuSerif.ttf").read_bytes())
    monkeypatch.setenv("FOURSTROKE_FONTS", str(tmp_path))
    assert find_font("DejaVuSans.ttf") == tmp_path / "DejaVuSans.ttf"
    with pytest.raises(FileNotFoundError, match=r"Other\.ttf.*FOURSTROKE_FONTS"):
        find_font("Other.ttf")


def test_the_scene_of_a_seed_never_changes() -> None:
    scenes = [World(FULL).scene(seed).to_dict() for seed in range(20)]
    assert scenes == [World(FULL).scene(seed).to_dict() for seed in range(20)]
    assert len({json.dumps(scene) for scene in scenes}) == 20


@pytest.mark.parametrize("config", [MICRO, FULL])
def test_splits_share_no_combination_and_no_word(config: WorldConfig) -> None:
    world = World(config)
    train = [world.scene(seed) for seed in range(600)]
    heldout = [world.scene(seed, "heldout") for seed in range(60)]
    assert all(split_of(scene) == "train" for scene in train)
    assert all(split_of(scene) == "heldout" for scene in heldout)
    seen = {combination for scene in train for combination in combinations(scene)}
    for scene in heldout:
        assert not scene.objects or not seen.issuperset(combinations(scene))
    words = [{scene.sign.word for scene in scenes if scene.sign} for scenes in (train, heldout)]
    assert words[0].isdisjoint(words[1])


def test_no_training_scene_has_a_held_out_pair_anywhere() -> None:
    """Told from where things stand, whatever the scene says of its relations."""
    world, rows = World(replace(MICRO, count_weights=(0.0, 0.0, 1.0))), 0
    for seed in range(300):
        scene = world.scene(seed)
        rows += scene.layout in ("row", "column")
        for a, b in itertools.combinations(scene.objects, 2):
            x, y = b.x - a.x, b.y - a.y
            if min(abs(x), abs(y)) > 0.1:
                continue  # one above, but to the side
            relation = ("left of" if x > 0 else "right of") if abs(x) > abs(y) else ("above" if y > 0 else "below")
            first, relation, second = (
                (a.title, relation, b.title) if a.title <= b.title else (b.title, INVERSE[relation], a.title)
            )
            assert not is_held_out("pair", first, relation, second), scene
    assert rows > 100


def test_about_a_tenth_is_held_out() -> None:
    held, kept = (len(choose_words("latin", split, 8)) for split in ("heldout", "train"))
    assert held + kept == len(WORDS["latin"]) >= 1200
    assert 0.06 < held / (held + kept) < 0.14


@pytest.mark.parametrize("split", ["train", "heldout"])
@pytest.mark.parametrize("rich", [False, True])
def test_captions_name_what_is_there_and_nothing_else(split: str, rich: bool) -> None:
    world = World(FULL)
    for seed in range(150):
        scene = world.scene(seed, split)  # type: ignore[arg-type]
        caption = world.caption(scene, rich, seed)
        for entry in scene.objects:
            assert re.search(rf"\b{entry.title}\b", caption), caption
        quoted = re.findall(r'"([^"]*)"', caption)
        assert quoted == ([scene.sign.word] if scene.sign else [])
        if scene.background.kind == "transparent":
            assert "transparent" in caption
        if rich:
            assert all(colour in caption for colour in scene.background.colours)
        without_names = caption
        for entry in scene.objects:
            without_names = without_names.replace(entry.title, "")
        for shape in ("circle", "square", "triangle", "diamond"):
            assert shape not in without_names.replace(f'"{scene.sign.word if scene.sign else ""}"', ""), caption


def test_stated_relations_hold() -> None:
    world = World(MICRO)
    phrases = {"to the left of": "left of", "to the right of": "right of", "above": "above", "below": "below"}
    checked = 0
    for seed in range(400):
        scene = world.scene(seed)
        if scene.layout != "pair":
            continue
        (relation,) = scene.relations
        first, second = (with_article(entry.title) for entry in scene.objects)
        caption = world.caption(scene, False, seed)
        for phrase, predicate in phrases.items():
            if f"{first} {phrase} {second}" in caption:
                assert predicate == relation.predicate
                checked += 1
            if f"{second} {phrase} {first}" in caption:
                assert predicate == INVERSE[relation.predicate]
                checked += 1
    assert checked > 20


@pytest.mark.parametrize("config", [MICRO, FULL])
def test_objects_are_whole_apart_and_where_the_relations_say(config: WorldConfig) -> None:
    world = World(config)
    for seed in range(400):
        scene = world.scene(seed)
        width, height = (length / min(scene.width, scene.height) for length in (scene.width, scene.height))
        for entry in scene.objects:
            assert entry.size / 2 <= entry.x * width <= width - entry.size / 2
            assert entry.size / 2 <= entry.y * height <= height - entry.size / 2
        for i, first in enumerate(scene.objects):
            for second in scene.objects[i + 1 :]:
                gap = max(abs(first.x - second.x) * width, abs(first.y - second.y) * height)
                assert gap >= (first.size + second.size) / 2 - 0.05
        for relation in scene.relations:
            subject, other = scene.objects[relation.subject], scene.objects[relation.object]
            if relation.predicate in ("left of", "right of"):
                assert (subject.x < other.x - 0.2) == (relation.predicate == "left of")
            else:
                assert (subject.y < other.y - 0.2) == (relation.predicate == "above")


def test_shapes_stand_out_from_their_background() -> None:
    world = World(MICRO)
    for seed in range(200):
        scene = world.scene(seed)
        for entry in scene.objects:
            if entry.colour is not None:
                assert all(stands_out(entry.colour, colour) for colour in scene.background.colours)
    for background in BACKGROUND_COLOURS:
        assert sum(stands_out(colour, background) for colour in SHAPE_COLOURS) >= 5


def test_scenes_survive_json() -> None:
    world = World(FULL)
    for seed in range(60):
        scene = world.scene(seed)
        assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene


def test_pictures_are_opaque_and_stickers_transparent() -> None:
    opaque = World(MICRO).sample(3).image
    assert opaque.shape == (96, 96, 4)
    assert opaque.dtype == np.uint8
    assert (opaque[..., 3] == 255).all()
    sticker = World(WorldConfig(transparent=1.0)).sample(3).image
    assert (sticker[0, 0] == 0).all()
    assert 0.03 < (sticker[..., 3] > 128).mean() < 0.6
    assert (sticker[sticker[..., 3] == 0] == 0).all()


def test_every_sprite_has_a_glyph_of_its_own() -> None:
    assert len(SPRITES) >= 150
    assert len(set(SPRITES.values())) == len(SPRITES)
    assert set(SPRITES) >= FACES
    pictures = {sprite_picture(name).tobytes() for name in SPRITES}
    assert len(pictures) == len(SPRITES)
    for name in choose_sprites(20):
        stamp = object_stamp(name, None, 48)
        assert max(stamp.kept.shape) == 48
        assert (stamp.kept < 0.5).mean() > 0.2


def test_scenes_do_not_depend_on_the_size() -> None:
    small, large = World(MICRO), World(WorldConfig(width=192, height=192))
    assert small.scene(5).objects == large.scene(5).objects


def test_the_world_is_fast() -> None:
    world = World(WorldConfig(width=256, height=256))
    for seed in range(200):
        world.sample(seed)
    start = time.process_time()
    for seed in range(100):
        world.sample(seed)
    assert 100 / (time.process_time() - start) >= 100


@pytest.mark.parametrize(
    "wrong",
    [
        {"sprites": 9999},
        {"sprites": ("cat", "gryphon")},
        {"count_weights": ()},
        {"scripts": ("klingon",)},
        {"sprites": 0, "shapes": False},
        {"width": 8},
    ],
)
def test_wrong_configurations_say_so(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        WorldConfig(**wrong)  # type: ignore[arg-type]


def test_captions_of_sheets_are_written_in_their_script_and_stay_in_their_column() -> None:
    """Chinese has no spaces to break lines at, and no glyph in the font of the other scripts."""
    picture = np.zeros((64, 64, 3), np.uint8)
    one, other = (np.asarray(contact_sheet([picture], [text])) for text in ("\u732b" * 3, "\u72d7" * 3))
    assert one.shape == other.shape
    assert not np.array_equal(one, other)  # no boxes that stand for any character
    sheet = np.asarray(contact_sheet([picture, picture], ["\u732b" * 12, ""], columns=2))
    below = sheet[8 + 64 :]
    assert (below[:, 8:72] < 128).any()
    assert (below[:, 72:] >= 250).all()


def test_notes_stand_in_grey_below_the_captions() -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    plain = np.asarray(contact_sheet([picture], ["cat"]))
    noted = np.asarray(contact_sheet([picture], ["cat"], notes=["dog"]))
    lines = len(noted) - len(plain)
    assert lines > 0
    top, bottom = noted[72 : 72 + 4 + lines], noted[72 + 4 + lines :]
    assert top.min() < 60
    assert 60 < bottom.min() < 200


def test_sheets_hold_pictures_of_any_kind() -> None:
    pictures = [np.zeros((16, 24, 3), np.uint8), np.zeros((32, 16, 4), np.uint8)]
    sheet = contact_sheet(pictures, ["black", "nothing but a checkerboard"], columns=2, upscale=4)
    assert sheet.mode == "RGB"
    assert sheet.width >= 2 * 96
    assert sheet.getpixel((20, 20)) == (0, 0, 0)
    with pytest.raises(ValueError, match="captions"):
        contact_sheet(pictures, ["one"])
