"""The world as datasets: the same samples everywhere, held-out ones apart, captions true of what is drawn."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

from fourstroke.data.sample import Caption, Data, SampleError
from fourstroke.recipe import RecipeError, build, resolved
from fourstroke.text.templates import transparent
from fourstroke.world import WorldConfig, split_of
from fourstroke.world.dataset import PosterData, SmallTextData, WorldData
from fourstroke.world.page import render_page
from fourstroke.world.pages import PageConfig, split_of_page

WORLD = WorldConfig(width=64, height=48, sprites=4, words=0.3)
KINDS = [
    WorldData(world=WORLD, samples=6, held_out=4),
    PosterData(pages=PageConfig(scripts=("latin", "cyrillic")), sizes=((128, 128), (96, 160)), samples=6, held_out=4),
    SmallTextData(width=64, height=48, scripts=("latin", "cyrillic"), samples=6, held_out=4),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    data: Data


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)
def test_a_sample_is_the_same_in_any_order_and_process(config):
    first, again = config.open(), pickle.loads(pickle.dumps(config)).open()
    assert len(first) == 6
    assert len(config.open("heldout")) == 4
    for index in (5, 0):
        one, other = first.sample(index), again.sample(index)
        assert (one.image == other.image).all()
        assert one.record == other.record == first.record(index)
        assert one.image.shape == (*one.record.size[::-1], 4)
        assert one.image.dtype == np.uint8
        assert first.digest(index) == again.digest(index)
    with pytest.raises(IndexError, match="6 samples"):
        first.record(6)


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)
def test_samples_seeds_and_splits_are_told_apart(config):
    opened = [config.open(), config.open("heldout"), dataclasses.replace(config, seed=1).open()]
    for told in (lambda data, i: data.digest(i), lambda data, i: data.sample(i).image.tobytes()):
        assert len({told(data, index) for data in opened for index in range(4)}) == 12
    assert len({data.record(index).name for data in opened for index in range(4)}) == 12
    more = dataclasses.replace(config, samples=9)
    assert more.open().digest(3) == opened[0].digest(3)  # caches serve on when more is asked for


def test_scenes_have_their_graph_and_both_captions():
    for split in ("train", "heldout"):
        data = KINDS[0].open(split)
        for index in range(4):
            sample = data.sample(index)
            record, scene = sample.record, sample.record.meta["scene"]
            assert split_of(scene) == split
            assert [caption.kind for caption in record.captions] == ["short", "rich"]
            assert len(record.captions[1].text) > len(record.captions[0].text)
            assert all(thing.name in caption.text for thing in scene.objects for caption in record.captions)
            assert (data.world.render(scene) == sample.image).all()


def test_stickers_are_also_asked_for_as_the_pipeline_asks():
    data = WorldData(world=dataclasses.replace(WORLD, transparent=1.0)).open()
    for index in range(4):
        short, rich, asked = data.record(index).captions
        assert asked == Caption(transparent((short, rich)[index % 2].text), "transparent")


def test_posters_have_their_graph_sizes_in_turn_and_languages():
    data = dataclasses.replace(KINDS[1], languages=(0.0, 1.0, 0.0, 0.0)).open("heldout")
    for index in range(4):
        record = data.record(index)
        page = record.meta["page"]
        assert split_of_page(page) == "heldout"
        assert record.size == (page.width, page.height) == ((128, 128), (96, 160))[index % 2]
        assert [caption.kind for caption in record.captions] == ["short", "rich"]
    english = KINDS[1].open("heldout")
    said = [(data.record(i).captions[0].text, english.record(i)) for i in range(4)]
    for text, record in said:
        assert (text != record.captions[0].text) == (record.meta["page"].kind in ("poster", "sign"))
    assert {record.meta["page"].kind for _, record in said} & {"poster", "sign"}


def test_small_text_is_the_page_of_its_seed():
    one = SmallTextData(width=64, height=48, sizes=(8, 9), seed=2)
    wanted = render_page((2 << 40) + 3, 64, 48, (8, 9), "heldout")
    assert (one.open("heldout").sample(3).image == wanted).all()
    assert one.open().record(0).captions == ()


def test_a_page_that_cannot_be_drawn_is_a_sample_that_cannot_be_used():
    tickets = PageConfig(kinds=(0.0, 0.0, 0.0, 0.0, 1.0, 0.0), words=(4, 4))
    data = PosterData(pages=tickets, samples=1).open()
    with pytest.raises(SampleError, match="found no train ticket") as error:
        data.sample(0)
    assert error.value.stage == "draw"


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"kind": "world", "world": {"width": 8}}, "at least 32 pixels"),
        ({"kind": "world", "samples": 0}, "samples"),
        ({"kind": "world_posters", "sizes": [[64, 300]]}, "64x300"),
        ({"kind": "world_posters", "languages": [1.0, 0.0]}, "give 4 weights"),
        ({"kind": "world_pages", "sizes": [12, 8]}, "smallest first"),
        ({"kind": "world_pages", "scripts": ["runic"]}, "choose from"),
    ],
)
def test_recipes_name_them_and_what_cannot_be_is_one_line(tree, said):
    with pytest.raises(RecipeError, match=said):
        build(Recipe, {"data": tree})


def test_a_recipe_says_all_again():
    tree = {"kind": "world", "world": {"width": 64, "height": 48, "sprites": 4, "words": 0.3}, "samples": 6}
    recipe = build(Recipe, {"data": tree})
    assert recipe.data == dataclasses.replace(KINDS[0], held_out=1024)
    plain = resolved(recipe)["recipe"]
    assert build(Recipe, plain) == recipe
