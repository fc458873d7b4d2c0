"""The second edition keeps its promises: what the graph says of styles, numbers, sizes and overlaps is to be seen."""

import hashlib
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fourstroke.recipe import load_recipe
from fourstroke.world import SPRITES, STYLES, THINGS, Scene, World, WorldConfig, split_of
from fourstroke.world.atlas import styles_of
from fourstroke.world.graph import combinations, is_held_out
from fourstroke.world.stamps import object_stamp
from fourstroke.world.units import HIDDEN, NARROWEST, SMALLEST, STEP
from fourstroke.world.words import WORDS, choose_words, letters_of

RECIPE = Path(__file__).parents[2] / "recipes" / "micro" / "world.yaml"
CONFIG = load_recipe(WorldConfig, RECIPE)
WORLD = World(CONFIG)
SCENES = [WORLD.scene(seed) for seed in range(600)]
FREE = replace(CONFIG, snap=0, words=0.0, groups=0.0, overlaps=0.0, sizes=1.0)
"""Scenes off the lattice, where captions tell three sizes apart."""
SIZED = [World(FREE).scene(seed) for seed in range(150)]
SINGLES = {"left of": (0, 1), "right of": (0, -1), "above": (1, 1), "below": (1, -1)}


def digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def coverage(scene: Scene, index: int) -> np.ndarray:
    """Where an object lies in the picture, whatever covers it, (height, width) bool."""
    alone = replace(scene, objects=(scene.objects[index],), relations=(), groups=(), sign=None)
    picture = WORLD.render(replace(alone, background=replace(scene.background, kind="transparent", edge="clean")))
    return picture[..., 3] > 128


def test_every_machine_draws_and_says_the_same() -> None:
    """These were written down on one machine."""
    samples = [WORLD.sample(seed) for seed in range(12)]
    assert digest(*(sample.image.tobytes() for sample in samples)) == "9229318f61184770"
    assert digest(*(f"{sample.short}\n{sample.rich}".encode() for sample in samples)) == "c2e2f1125a410323"


def test_scenes_survive_json() -> None:
    for scene in SCENES[:100]:
        assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene


def test_scenes_of_the_first_edition_are_read() -> None:
    scene = World(WorldConfig(words=0.5)).scene(2)
    plain = scene.to_dict()
    for part, added in ((plain, ("groups", "stated")), (plain["background"], ("edge",))):
        for name in added:
            del part[name]
    for entry in plain["objects"]:
        del entry["style"], entry["scale"]
    assert Scene.from_dict(plain) == scene


def test_all_features_are_drawn() -> None:
    kinds = {entry.style for scene in SCENES for entry in scene.objects if entry.kind == "sprite"}
    assert kinds == set(STYLES)
    assert {group.number for scene in SCENES for group in scene.groups} == {2, 3, 4}
    assert {entry.scale for scene in SCENES for entry in scene.objects} == {None, "small", "large"}
    assert {entry.scale for scene in SIZED for entry in scene.objects} == {"small", "medium", "large"}
    assert {scene.sign.script for scene in SCENES if scene.sign} == {"latin", "cyrillic", "chinese"}
    assert {scene.background.edge for scene in SCENES} == {"clean", "soft"}
    layouts = {scene.layout for scene in SCENES}
    assert layouts == {"alone", "pair", "front", "pyramid", "funnel", "sign"}
    assert {scene.layout for scene in SIZED} == {"alone", "pair", "row", "column"}
    assert 0.07 < np.mean([not scene.stated for scene in SCENES]) < 0.25


def test_things_have_the_style_that_is_said() -> None:
    mixed = 0
    for scene in SCENES:
        sprites = [entry for entry in scene.objects if entry.kind == "sprite"]
        assert all(entry.style in styles_of(entry.name) for entry in sprites)
        assert all(entry.style == "flat" for entry in scene.objects if entry.kind == "shape")
        mixed += len({entry.style for entry in sprites}) > 1
    assert 10 < mixed < 80


def test_objects_are_whole_apart_and_large_enough() -> None:
    for scene in SCENES[:300]:
        seen = [coverage(scene, index) for index in range(len(scene.objects))]
        for entry, where in zip(scene.objects, seen, strict=True):
            assert entry.size * STEP >= SMALLEST
            assert entry.size * 128 >= 24
            rows, columns = (np.flatnonzero(where.any(axis)) for axis in (1, 0))
            assert min(rows[0], columns[0]) > 0, scene
            assert max(rows[-1], columns[-1]) < 127, scene
            shape = object_stamp(entry.name, entry.colour, round(entry.size * 128), entry.style).kept.shape
            assert min(shape) >= NARROWEST * 128 - 1, scene
        if scene.layout != "front":
            assert all(not (a & b).any() for a, b in itertools.combinations(seen, 2)), scene


def test_groups_are_of_equal_things_that_hang_together() -> None:
    checked = 0
    for scene in SCENES:
        for group in scene.groups:
            members = [scene.objects[index] for index in group.indices]
            assert len({(m.name, m.colour, m.style, m.size, m.scale) for m in members}) == 1
            spread = [max(getattr(m, axis) for m in members) - min(getattr(m, axis) for m in members) for axis in "xy"]
            if group.form == "cluster":
                assert min(spread) > 0.8 * members[0].size
            else:
                assert spread[group.form == "row"] < 0.07 < spread[group.form == "column"]
            checked += 1
    assert checked > 80


def test_as_many_shapes_are_seen_as_are_said() -> None:
    """Counted in stickers, by a flood from each pixel that none has reached."""
    world = World(
        replace(CONFIG, shape_share=1.0, words=0.0, groups=1.0, overlaps=0.0, transparent=1.0, soft_edges=0.0)
    )
    for seed in range(40):
        scene = world.scene(seed)
        assert islands(world.render(scene)[..., 3] > 128) == len(scene.objects) == sum(map(len, scene.units))


def islands(where: np.ndarray) -> int:
    left, found = where.copy(), 0
    while left.any():
        found += 1
        stack = [tuple(np.argwhere(left)[0])]
        while stack:
            row, column = stack.pop()
            if 0 <= row < left.shape[0] and 0 <= column < left.shape[1] and left[row, column]:
                left[row, column] = False
                stack += [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
    return found


def test_relations_hold_for_every_member_whether_stated_or_not() -> None:
    for scene in SCENES:
        members = {unit[0]: unit for unit in scene.units}
        for relation in scene.relations:
            if relation.predicate == "in front of":
                continue
            axis, sign = SINGLES[relation.predicate]
            for a, b in itertools.product(members[relation.subject], members[relation.object]):
                first, second = ((scene.objects[i].x, scene.objects[i].y)[axis] for i in (a, b))
                assert sign * (second - first) > 0.15, scene


def test_sizes_are_what_they_are_called() -> None:
    steps, pairs = {"small": 0, "medium": 1, "large": 2}, 0
    for scene in (*SCENES, *SIZED):
        scaled = [entry for entry in scene.objects if entry.scale is not None]
        assert len(scaled) in (0, len(scene.objects))
        if len(scaled) == 1:
            assert scaled[0].size >= 0.68 if scaled[0].scale == "large" else scaled[0].size <= 0.3
        for a, b in itertools.permutations(scaled, 2):
            step = steps[str(a.scale)] - steps[str(b.scale)]
            if step > 0:
                assert a.size / b.size >= 1.4**step
                pairs += 1
    assert pairs > 100


def test_the_nearer_thing_is_drawn_later_lower_and_over_the_other() -> None:
    fronts = [scene for scene in SCENES if scene.layout == "front"]
    assert len(fronts) > 15
    for scene in fronts:
        (relation,) = scene.relations
        assert (relation.subject, relation.predicate, relation.object) == (1, "in front of", 0)
        assert scene.stated
        farther, nearer = coverage(scene, 0), coverage(scene, 1)
        assert 0.8 * HIDDEN[0] <= (farther & nearer).sum() / farther.sum() <= 1.1 * HIDDEN[1]
        lowest = [np.flatnonzero(where.any(1))[-1] for where in (farther, nearer)]
        assert scene.objects[1].y > scene.objects[0].y
        assert lowest[1] > lowest[0] - 12, scene
        alone = replace(scene, objects=(scene.objects[1],), relations=())
        sticker = replace(alone, background=replace(scene.background, kind="transparent", edge="clean"))
        solid = WORLD.render(sticker)[..., 3] == 255
        pictures = [WORLD.render(which)[solid].astype(int) for which in (scene, alone)]
        assert np.abs(pictures[0] - pictures[1]).max(initial=0) <= 1, scene  # the other does not show through


def test_splits_are_apart() -> None:
    heldout = [WORLD.scene(seed, "heldout") for seed in range(200)]
    assert all(split_of(scene) == "train" for scene in SCENES)
    assert all(split_of(scene) == "heldout" for scene in heldout)
    seen = {combination for scene in SCENES for combination in combinations(scene)}
    assert not any(is_held_out(*combination) for combination in seen)
    for scene in heldout:
        assert not scene.objects or not seen.issuperset(combinations(scene))
    words = [{scene.sign.word for scene in scenes if scene.sign} for scenes in (SCENES, heldout)]
    assert words[0].isdisjoint(words[1])
    assert {kind[0] for scene in heldout for kind in combinations(scene)} == {"alone", "pair", "count", "sizes"}


def test_signs_are_spelled_and_set_as_asked() -> None:
    config = replace(CONFIG, words=1.0, spelled=0.5, sign_fonts=("monospaced",))
    signs = [World(config).scene(seed).sign for seed in range(200)]
    assert {(s.script == "chinese", s.font) for s in signs} >= {(False, "monospaced"), (True, "sans-serif")}
    assert all(sign.font == "monospaced" for sign in signs if sign.script != "chinese")
    by_chance = [sign for sign in signs if sign.word not in WORDS[sign.script]]
    assert 70 < len(by_chance) < 130
    assert all(set(sign.word) <= set(letters_of(sign.script)) for sign in by_chance)
    held_out = [World(config).scene(seed, "heldout").sign for seed in range(50)]
    assert all(sign.word in WORDS[sign.script] for sign in held_out)


def test_signs_are_written_in_the_most_frequent_letters() -> None:
    config = replace(CONFIG, words=1.0, spelled=0.5, scripts=("chinese",), sign_fonts=(), characters=144)
    frequent = set(letters_of("chinese", 144))
    assert len(frequent) == 144
    assert {"店", "月"} <= frequent
    written: set[str] = set()
    for split in ("train", "heldout"):
        for seed in range(150):
            sign = World(config).scene(seed, split).sign
            assert sign is not None
            written |= set(sign.word)
    assert written <= frequent
    assert len(written) > 100


def test_some_signs_stand_in_capitals_and_a_word_stays_in_its_split() -> None:
    small = World(replace(CONFIG, words=1.0, spelled=0.0))
    both, tall = (World(replace(small.config, capitals=share)) for share in (0.5, 1.0))
    for split in ("train", "heldout"):
        for scene in map(small.scene, range(40), [split] * 40):
            assert split_of(replace(scene, sign=replace(scene.sign, word=scene.sign.word.upper()))) == split
        words = [world.scene(seed, split).sign.word for world in (small, tall) for seed in range(40)]
        assert not any(word.isupper() for word in words[:40])
        assert all(word == word.upper() for word in words[40:])
        assert {word.lower() for word in words} <= {
            word for script in small.config.scripts for word in choose_words(script, split, 8)
        }
    signs = [sign for seed in range(120) if (sign := both.scene(seed).sign) and sign.script != "chinese"]
    assert 0.3 < sum(sign.word.isupper() for sign in signs) / len(signs) < 0.7
    scene = next(scene for seed in range(200) if (scene := tall.scene(seed)).sign.script == "latin")
    assert f'"{scene.sign.word}"' in tall.caption(scene, rich=False, seed=0)


def test_words_have_up_to_eight_letters_in_every_alphabet() -> None:
    for script in ("latin", "cyrillic"):
        for split in ("train", "heldout"):
            assert {len(word) for word in choose_words(script, split, 8)} == {3, 4, 5, 6, 7, 8}


def test_soft_edges_are_softer_and_cover_the_same_place() -> None:
    scene = World(replace(CONFIG, transparent=1.0, soft_edges=1.0, words=0.0)).scene(0)
    soft = WORLD.render(scene)[..., 3]
    clean = WORLD.render(replace(scene, background=replace(scene.background, edge="clean")))[..., 3]
    assert ((soft > 20) & (soft < 235)).sum() > 1.5 * ((clean > 20) & (clean < 235)).sum()
    assert (soft <= clean).all()
    both, either = ((soft > 128) & (clean > 128)).sum(), ((soft > 128) | (clean > 128)).sum()
    assert both / either > 0.85


def test_wide_pictures_are_as_good() -> None:
    world = World(replace(CONFIG, width=192, height=128, overlaps=1.0))
    for seed in range(60):
        scene = world.scene(seed)
        for entry in scene.objects:
            assert entry.size / 2 <= entry.x * 1.5 <= 1.5 - entry.size / 2
            assert entry.size / 2 <= entry.y <= 1 - entry.size / 2
        if scene.layout == "front":
            gap = max(abs(scene.objects[0].x - scene.objects[1].x) * 1.5, abs(scene.objects[0].y - scene.objects[1].y))
            assert gap < 0.45


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"groups": 0.5}, "groups: only the second edition"),
        ({"styles": (0.0, 1.0, 0.0, 0.0)}, "styles: only the second edition"),
        ({"things": 9999}, "things=9999"),
        ({"things": ("cat", "gryphon")}, "unknown things gryphon"),
        ({"things": 8, "styles": (1.0, 0.0)}, "give 4 weights"),
        ({"spelled": 0.5}, "spelled: only the second edition"),
        ({"capitals": 0.5}, "capitals: only the second edition"),
        ({"things": 8, "sign_fonts": ("gothic",)}, "gothic is not among bold sans-serif"),
        ({"things": 8, "languages": (0.0, 0.0, 0.0, 0.0)}, "not all zero"),
        ({"things": ("octopus", "star"), "styles": (0.0, 0.0, 0.0, 1.0)}, "too few .* in style rendered"),
    ],
)
def test_wrong_configurations_say_so(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WorldConfig(**wrong)  # type: ignore[arg-type]


def test_things_replace_the_sprites() -> None:
    assert World(WorldConfig(things=30)).sprites == THINGS[:30]
    assert World(WorldConfig(things=("couch", "cat", "dog"))).sprites == ("couch", "cat", "dog")
    assert World(WorldConfig(sprites=30)).sprites == tuple(SPRITES)[:30]


def test_things_stand_out_from_what_is_behind() -> None:
    """At least a fifth of a thing's pixels differ clearly from the picture without it, whatever the light."""
    for scene in SCENES[:200]:
        if scene.background.kind == "transparent":
            continue
        empty = WORLD.render(replace(scene, objects=(), relations=(), groups=(), sign=None)).astype(float)
        shown = WORLD.render(scene).astype(float)
        for index in range(len(scene.objects)):
            where = coverage(scene, index)
            difference = np.linalg.norm((shown - empty)[where], axis=1)
            assert (difference > 25).mean() > 0.2, (scene.objects[index], scene.background)
