"""The judge sees the second edition's facts by pixels: styles, counts, sizes, what is in front; and only those."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fourstroke.recipe import load_recipe
from fourstroke.world import World, WorldConfig
from fourstroke.world.captions import LANGUAGES
from fourstroke.world.graph import Background, Group, Object, Relation, Scene
from fourstroke.world.judging.composition import Prompt, held_out_prompts, judge_pictures, states_style, summarise
from fourstroke.world.judging.judge import Detection, Judge, judge_background

CONFIG = WorldConfig(
    width=128,
    height=128,
    things=12,
    styles=(1.0, 1.0, 1.0, 0.5),
    mixed_styles=0.2,
    shape_share=0.15,
    count_weights=(0.45, 0.4, 0.15),
    groups=0.35,
    sizes=0.35,
    overlaps=0.7,
    unstated=0.35,
    textures=0.2,
    lights=0.2,
)
WORLD = World(CONFIG)
FACTS = ("objects", "colours", "relations", "style", "counts", "sizes", "backgrounds")
PLAIN = Background(kind="flat", colour="white")


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(CONFIG)


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return held_out_prompts(WORLD, 48)


@pytest.fixture(scope="module")
def pictures(prompts) -> list[np.ndarray]:
    return [WORLD.render(prompt.scene) for prompt in prompts]


def scene(*objects: Object, **fields) -> Scene:
    return Scene(width=128, height=128, background=PLAIN, objects=objects, **{"layout": "alone", **fields})


def thing(name: str, x: float, y: float = 0.5, size: float = 0.4, **fields) -> Object:
    return Object(name=name, kind="sprite", x=x, y=y, size=size, **fields)


def rotated(items: list, shift: int) -> list:
    return items[shift:] + items[:shift]


def test_ground_truth_is_right(judge, prompts, pictures):
    verdicts = judge_pictures(judge, prompts, pictures)
    shares = summarise(prompts, verdicts)
    for name in FACTS:
        assert shares[name].count >= 6, name
        assert shares[name].value > 0.97, name
    fronts = [v.relations for p, v in zip(prompts, verdicts, strict=True) if p.scene.layout == "front"]
    assert len(fronts) >= 3
    assert all(fronts)


@pytest.mark.slow
def test_ground_truth_of_the_whole_world_is_right():
    path = Path(__file__).parents[3] / "recipes" / "micro" / "world.yaml"
    config = load_recipe(WorldConfig, path, ["words=0.0"])
    world = World(config)
    prompts = held_out_prompts(world, 200)
    shares = summarise(prompts, judge_pictures(Judge(config), prompts, [world.render(p.scene) for p in prompts]))
    for name in FACTS:
        assert shares[name].value > 0.97, name


def test_other_pictures_are_no_better_than_chance(judge, prompts, pictures):
    shifts = (1, 19)
    others = [prompt for shift in shifts for prompt in rotated(prompts, shift)]
    drawn = [picture for shift in shifts for picture in rotated(pictures, shift)]
    asked = prompts * len(shifts)
    shares = summarise(asked, judge_pictures(judge, asked, drawn))
    there = [
        thing.name in {other.name for other in q.scene.objects}
        for p, q in zip(asked, others, strict=True)
        for thing in p.scene.objects
    ]
    assert shares["objects"].value <= sum(there) / len(there) + 0.04
    for name in ("relations", "style", "counts", "sizes"):
        assert shares[name].value <= 0.1, name


def test_another_style_is_noticed(judge):
    asked = scene(thing("cat", 0.5, style="flat"))
    for style in ("flat", "3d", "clip-art"):
        verdict = judge.verdict(WORLD.render(scene(thing("cat", 0.5, style=style))), asked)
        assert verdict.objects == (True,)
        assert verdict.styles == (style == "flat",)
        assert verdict.right


def test_a_count_is_neither_more_nor_fewer(judge):
    places = [(0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)]
    fish = [thing("fish", x, y, 0.36, style="3d") for x, y in places]
    asked = scene(*fish[:3], groups=(Group(indices=(0, 1, 2), form="cluster"),))
    for number in (2, 3, 4):
        verdict = judge.verdict(WORLD.render(scene(*fish[:number])), asked)
        assert verdict.counts == (number == 3,)
        assert verdict.right == (number == 3)
        assert verdict.objects == (True, True, number > 2)


@pytest.mark.parametrize("kind", ["flat", "gradient", "horizon"])
def test_a_background_is_seen_between_four_things_that_fill_the_picture(judge, kind):
    second = None if kind == "flat" else "teal"
    ground = Background(kind=kind, colour="lavender", second=second)
    things = [thing("cat", x, y, 60 / 128) for x in (0.25, 0.75) for y in (0.25, 0.75)]
    full = replace(scene(*things, groups=(Group(indices=(0, 1, 2, 3), form="cluster"),)), background=ground)
    assert all(judge.verdict(WORLD.render(full), full).backgrounds)
    other = replace(full, background=replace(ground, colour="mint"))
    assert not all(judge.verdict(WORLD.render(other), full).backgrounds)


@pytest.mark.parametrize(("high", "texture"), [(True, "plain"), (True, "checks"), (False, "stripes")])
def test_a_gradient_is_seen_from_where_things_leave_it_bare(high, texture):
    """Beside three large things nothing of one end is left but their shadows."""
    row, lone = (0.75, 0.25) if high else (0.25, 0.75)
    places = [(0.25, row), (0.75, row), (0.5, lone)]
    seen = [Detection(name="square", kind="shape", style="flat", colour="blue", x=x, y=y, size=0.47, score=1.0)
            for x, y in places]  # fmt: skip
    blocks = [Object(name="square", kind="shape", colour="blue", x=x, y=y, size=0.47) for x, y in places]
    ground = Background(kind="gradient", colour="beige", second="mint", texture=texture)
    full = replace(scene(*blocks), background=ground)
    picture = WORLD.render(full)
    assert judge_background(picture, full, seen) == (True, True)
    for other in ("white", "blush", "teal", "gray"):
        assert judge_background(picture, replace(full, background=replace(ground, second=other)), seen)[1] is False
        assert judge_background(picture, replace(full, background=replace(ground, colour=other)), seen)[0] is False


def test_sizes_are_against_each_other_or_alone(judge):
    def pair(first: float, second: float) -> Scene:
        scales = ("large", "small") if first > second else ("small", "large")
        objects = [thing(name, x, 0.5, size, scale=scale) for name, x, size, scale in
                   zip(("cat", "house"), (0.3, 0.75), (first, second), scales, strict=True)]  # fmt: skip
        return scene(*objects, layout="pair", stated=False)

    asked = pair(0.5, 0.25)
    assert judge.verdict(WORLD.render(asked), asked).sizes == (True,)
    for drawn in (pair(0.25, 0.5), pair(0.4, 0.39)):
        verdict = judge.verdict(WORLD.render(drawn), asked)
        assert verdict.objects == (True, True)
        assert verdict.sizes == (False,)
        assert not verdict.right
    small, large = (
        scene(thing("cat", 0.5, 0.5, size, scale=scale)) for size, scale in ((0.25, "small"), (0.8, "large"))
    )
    for asked, other in ((small, large), (large, small)):
        assert judge.verdict(WORLD.render(asked), asked).sizes == (True,)
        assert judge.verdict(WORLD.render(other), asked).sizes == (False,)


def test_what_is_behind_is_not_in_front(judge):
    fronts = [s for seed in range(400) if (s := WORLD.scene(seed)).layout == "front"][:8]
    assert len(fronts) == 8
    right = wrong = 0
    for asked in fronts:
        back, front = asked.objects
        turned = replace(
            asked, objects=(front, back), relations=(Relation(subject=0, predicate="in front of", object=1),)
        )
        right += judge.verdict(WORLD.render(asked), asked).relations == (True,)
        # the same two things in the same places, drawn in the other order
        wrong += judge.verdict(WORLD.render(turned), asked).relations == (True,)
        alone = replace(asked, objects=(front,), relations=(), layout="alone")
        verdict = judge.verdict(WORLD.render(alone), asked)
        assert verdict.objects == (False, True)
        assert verdict.relations == (False,)
    assert right >= 7
    assert wrong <= 1


def test_relations_that_nobody_states_are_not_judged(judge):
    cat, house = thing("cat", 0.27), thing("house", 0.73)
    relation = (Relation(subject=0, predicate="right of", object=1),)  # not so
    verdict = judge.verdict(WORLD.render(scene(cat, house)), scene(cat, house, layout="pair", relations=relation))
    assert verdict.relations == (False,)
    unstated = scene(cat, house, layout="pair", relations=relation, stated=False)
    verdict = judge.verdict(WORLD.render(unstated), unstated)
    assert verdict.relations == ()
    assert verdict.right


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_style_counts_where_it_is_said(language):
    asked = scene(thing("cat", 0.5, style="3d"))
    captions = {WORLD.caption(asked, False, seed, language=language) for seed in range(40)}
    said = {caption for caption in captions if "3D" in caption}
    assert said
    assert said != captions
    for caption in captions:
        assert states_style(Prompt(seed=0, scene=asked, caption=caption, rich=False)) == (caption in said)
