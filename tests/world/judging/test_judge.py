"""The judge sees what is there, and only that."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from fourstroke.evaluate.reading import compare, levenshtein
from fourstroke.world import World, WorldConfig
from fourstroke.world.graph import INVERSE, Background, Object, Relation, Scene, Sign
from fourstroke.world.judging.composition import held_out_prompts, judge_pictures, summarise
from fourstroke.world.judging.judge import Judge, match, nearest_shape_colour
from fourstroke.world.palette import SHAPE_COLOURS

MICRO = WorldConfig()
WORLD = World(MICRO)
PROMPTS = held_out_prompts(WORLD, 32)
PICTURES = [WORLD.render(prompt.scene) for prompt in PROMPTS]
CAT_BESIDE_SQUARE = Scene(
    width=96,
    height=96,
    layout="pair",
    background=Background(kind="gradient", colour="white", second="sky blue"),
    objects=(
        Object(name="cat", kind="sprite", x=0.27, y=0.5, size=0.42),
        Object(name="square", kind="shape", colour="red", x=0.73, y=0.52, size=0.4),
    ),
    relations=(Relation(subject=0, predicate="left of", object=1),),
)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(MICRO)


def degraded(picture: np.ndarray) -> np.ndarray:
    soft = np.asarray(Image.fromarray(picture[..., :3]).filter(ImageFilter.GaussianBlur(0.7)))
    moved = np.pad(soft, ((2, 0), (0, 2), (0, 0)), mode="edge")[:-2, 2:]
    file = io.BytesIO()
    Image.fromarray(moved).save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("degrade", [False, True])
def test_ground_truth_is_right(judge: Judge, degrade: bool) -> None:
    pictures = [degraded(picture) for picture in PICTURES] if degrade else PICTURES
    shares = summarise(PROMPTS, judge_pictures(judge, PROMPTS, pictures))
    for name in ("objects", "colours", "relations", "backgrounds"):
        row = shares[name]
        assert row is not None
        assert row.value > 0.97, name
    assert shares["words_exact"] is None


def test_other_pictures_are_no_better_than_chance(judge: Judge) -> None:
    turned = PICTURES[1:] + PICTURES[:1]
    others = [p.scene for p in PROMPTS[1:] + PROMPTS[:1]]
    by_chance = asked = 0
    for prompt, other in zip(PROMPTS, others, strict=True):
        names = [thing.name for thing in other.objects]
        asked += len(prompt.scene.objects)
        by_chance += sum(thing.name in names for thing in prompt.scene.objects)
    shares = summarise(PROMPTS, judge_pictures(judge, PROMPTS, turned))
    objects, relations = shares["objects"], shares["relations"]
    assert objects is not None
    assert relations is not None
    assert objects.value <= by_chance / asked + 0.03
    assert relations.value <= 0.05


def test_a_removed_object_is_noticed(judge: Judge) -> None:
    without = replace(CAT_BESIDE_SQUARE, objects=CAT_BESIDE_SQUARE.objects[1:], relations=())
    verdict = judge.verdict(WORLD.render(without), CAT_BESIDE_SQUARE)
    assert verdict.objects == (False, True)
    assert verdict.colours == (True,)
    assert verdict.relations == (False,)
    assert not verdict.right
    assert verdict.likeness[0] == 0
    assert verdict.likeness[1] > 0.9


def test_a_bent_object_is_less_alike(judge: Judge) -> None:
    picture = WORLD.render(CAT_BESIDE_SQUARE)
    bent = np.stack([np.roll(row, 2 * (y // 8 % 2), axis=0) for y, row in enumerate(picture)])
    straight, wavy = judge.verdict(picture, CAT_BESIDE_SQUARE), judge.verdict(bent, CAT_BESIDE_SQUARE)
    assert straight.objects == wavy.objects == (True, True)
    assert all(b < a for a, b in zip(straight.likeness, wavy.likeness, strict=True))


def test_a_swapped_relation_is_noticed(judge: Judge) -> None:
    picture = WORLD.render(CAT_BESIDE_SQUARE)
    (asked,) = CAT_BESIDE_SQUARE.relations
    turned = replace(CAT_BESIDE_SQUARE, relations=(replace(asked, predicate=INVERSE[asked.predicate]),))
    assert judge.verdict(picture, CAT_BESIDE_SQUARE).right
    verdict = judge.verdict(picture, turned)
    assert verdict.objects == (True, True)
    assert verdict.relations == (False,)


@pytest.mark.parametrize("colour", list(SHAPE_COLOURS))
def test_a_recoloured_shape_is_noticed(judge: Judge, colour: str) -> None:
    cat, square = CAT_BESIDE_SQUARE.objects
    picture = WORLD.render(replace(CAT_BESIDE_SQUARE, objects=(cat, replace(square, colour=colour))))
    verdict = judge.verdict(picture, CAT_BESIDE_SQUARE)
    assert verdict.objects == (True, True)
    assert verdict.colours == (colour == "red",)


def test_another_background_is_noticed(judge: Judge) -> None:
    picture = WORLD.render(replace(CAT_BESIDE_SQUARE, background=Background(kind="flat", colour="mint")))
    assert judge.verdict(picture, CAT_BESIDE_SQUARE).backgrounds == (False, False)
    assert judge.verdict(picture, CAT_BESIDE_SQUARE).objects == (True, True)


@pytest.mark.parametrize(("width", "height"), [(256, 256), (160, 96), (64, 128)])
def test_size_and_shape_of_the_picture_do_not_matter(judge: Judge, width: int, height: int) -> None:
    scene = WORLD.scene(3, "heldout")
    picture = WORLD.render(replace(scene, width=width, height=height))
    assert judge.verdict(picture, scene).right


def test_transparent_backgrounds(judge: Judge) -> None:
    scene = replace(CAT_BESIDE_SQUARE, background=Background(kind="transparent"))
    sticker = WORLD.render(scene)
    assert judge.verdict(sticker, scene).right
    assert judge.verdict(sticker, scene).backgrounds == (True,)
    assert judge.verdict(sticker[..., :3], scene).backgrounds == (False,)


def test_an_empty_picture_shows_nothing(judge: Judge) -> None:
    for texture in ("plain", "paper", "stripes", "dots", "checks"):
        background = Background(kind="horizon", colour="white", second="slate", horizon=0.6, texture=texture)
        assert judge.look(WORLD.render(replace(CAT_BESIDE_SQUARE, objects=(), background=background))) == []
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    assert judge.look(noise) == []


def test_each_detection_serves_one_object(judge: Judge) -> None:
    cat, square = CAT_BESIDE_SQUARE.objects
    seen = judge.look(WORLD.render(CAT_BESIDE_SQUARE))
    first, second = match((square, replace(square, colour="blue")), seen)
    assert first is not None
    assert second is None
    assert sum(m is not None for m in match((cat, cat), seen)) == 1


def test_dim_colours_keep_their_names() -> None:
    for name, rgb in SHAPE_COLOURS.items():
        for light in (1.0, 0.7):
            assert nearest_shape_colour(tuple(light * c / 255 for c in rgb)) == name


def test_pictures_of_another_kind_are_refused(judge: Judge) -> None:
    with pytest.raises(ValueError, match="uint8"):
        judge.look(np.zeros((96, 96, 3), np.float32))


def test_words_are_compared_as_drawn() -> None:
    assert compare("CAT ", "cat").exact
    assert compare("", "cat").ned == 0.0
    assert compare("car", "cat").ned == pytest.approx(2 / 3)
    assert levenshtein("kitten", "sitting") == 3


@pytest.mark.parametrize("word", ["lily", "stamp"])
def test_words_on_signs_are_read(judge: Judge, word: str) -> None:
    pytest.importorskip("rapidocr", reason="RapidOCR is not installed: pip install fourstroke[eval]")
    sign = Sign(
        word=word, script="latin", font="sans-serif", board="blue", ink="white", x=0.5, y=0.5, width=0.8, height=0.36
    )
    scene = replace(CAT_BESIDE_SQUARE, width=256, height=256, layout="sign", objects=(), relations=(), sign=sign)
    reading = judge.verdict(WORLD.render(scene), scene).word
    assert reading is not None
    assert reading.exact, reading.text
    other = judge.verdict(WORLD.render(scene), replace(scene, sign=replace(sign, word="other"))).word
    assert other is not None
    assert not other.exact
