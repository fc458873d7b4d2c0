"""Taking captions apart: deterministic, true to the scene, quoted words untouched, thoughts that undo the steps."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from fourstroke.enhance.checks import lost_words, quoted
from fourstroke.enhance.degrade import PROBABILITIES, Odds, summarise
from fourstroke.enhance.triplet import CATEGORIES, Annotation, RejectedError, Triplet
from fourstroke.registry import find
from fourstroke.world import World, WorldConfig
from fourstroke.world.caption_rules import SceneDegrader, lexicon_of, scene_of, world_triplets
from fourstroke.world.graph import split_of
from fourstroke.world.short_prompts import FRAMES, LIGHTS, TEXTURES, frames


@pytest.fixture(scope="module")
def world():
    return World(WorldConfig(width=32, height=32, sprites=0, words=0.3, textures=0.6, lights=0.6))


@pytest.fixture(scope="module")
def triplets(world):
    return world_triplets(world, 200)


def _facts(triplet):
    return scene_of(triplet.meta)


def test_a_seed_gives_the_same_triplet_and_json_gives_it_back(world, triplets):
    assert world_triplets(world, 20) == triplets[:20]
    assert [Triplet.from_dict(t.to_dict()) for t in triplets] == triplets
    scene = world.scene(3)
    annotation = Annotation(text=world.caption(scene, rich=True, seed=3), meta={"scene": scene})
    assert len({SceneDegrader().degrade(annotation, seed).short for seed in range(20)}) > 5


def test_short_prompts_name_what_their_facts_hold_and_quote_the_words(world, triplets):
    lexicon = lexicon_of(world)
    for t in triplets:
        assert {entry.title for entry in _facts(t).objects} == lexicon.titles(t.short)
        assert quoted(t.short) == quoted(t.rich) == ([_facts(t).sign.word] if _facts(t).sign else [])
        assert not lexicon.lost(t.short, t.rich)
        assert not lexicon.invented(t.short, t.rich)
        assert len(t.short) < len(t.rich)


def test_thoughts_undo_the_steps_from_last_to_first(triplets):
    for t in triplets:
        assert t.reasoning.startswith(f"{t.category}: ")
        thoughts = [step.thought for step in reversed(t.steps)]
        assert t.reasoning.endswith(" ".join(thoughts))
        for step in t.steps:
            odds = PROBABILITIES[t.category][step.strategy]
            assert step.probability in (odds.drop, odds.blur)


def test_strategies_are_sampled_with_their_probabilities(world, triplets):
    share = sum(any(s.strategy == "wording" for s in t.steps) for t in triplets) / len(triplets)
    assert share == pytest.approx(PROBABILITIES["General"]["wording"].drop, abs=0.12)
    nothing = SceneDegrader({category: {} for category in CATEGORIES})
    scene = world.scene(0)
    t = nothing.degrade(Annotation(text=world.caption(scene, rich=True, seed=0), meta={"scene": scene}), 0)
    assert not t.steps
    assert t.meta["states_background"]
    everything = SceneDegrader(
        {category: {name: Odds(drop=1.0) for name in odds} for category, odds in PROBABILITIES.items()}
    )
    t = everything.degrade(Annotation(text=world.caption(scene, rich=True, seed=0), meta={"scene": scene}), 0)
    assert not t.meta["states_background"]
    assert "background" not in t.short


def test_relations_that_were_lost_are_no_facts(triplets):
    lost = [t for t in triplets if any(s.strategy == "layout" for s in t.steps)]
    assert lost
    assert all(not _facts(t).relations for t in lost)
    assert all("Layout: " in t.reasoning for t in lost)


def test_the_rules_are_found_by_name_with_their_lexicon_and_take_scenes_as_json(world):
    degrader = find("caption_rules", "world")(world=world.config).open()
    assert degrader.lexicon == lexicon_of(world)
    scene = world.scene(5)
    text = world.caption(scene, rich=True, seed=5)
    assert degrader.degrade(Annotation(text=text, meta={"scene": scene.to_dict()}), 5) == world_triplets(world, 6)[5]
    with pytest.raises(RejectedError, match="no scene graph of the world"):
        degrader.degrade(Annotation(text=text, meta={"scene": {"objects": 1}}), 5)


def _steps(t):
    return {step.strategy for step in t.steps}


def test_what_is_dropped_is_gone_and_what_is_blurred_is_vague(world, triplets):
    seen = set()
    for t in triplets:
        for step in t.steps:
            phrases = {"texture": TEXTURES, "light": LIGHTS}.get(step.strategy, {}).values()
            for stated, vague in phrases:
                if stated in step.thought:
                    blurred = step.probability == PROBABILITIES[t.category][step.strategy].blur
                    assert stated.replace("a ", "") not in t.short.replace("a ", "")
                    assert any(v in t.short for _, v in phrases) is blurred
                    assert (vague in t.short) is blurred
                    seen.add((step.strategy, blurred))
    assert len(seen) == 4


def test_short_prompts_keep_the_order_of_their_captions_and_the_first_thing(world, triplets):
    turned = 0
    for t in triplets:
        objects = world.scene(t.seed).objects
        if "secondary" in _steps(t):
            assert _facts(t).objects == objects[:1]
        elif len(objects) == 2 and "layout" not in _steps(t):
            places = [[text.index(entry.title) for entry in objects] for text in (t.rich, t.short)]
            assert (places[0][0] < places[0][1]) is (places[1][0] < places[1][1])
            turned += places[0][0] > places[0][1]
    assert turned > 5


def test_signs_stand_where_the_scene_has_them(triplets):
    signed = [t for t in triplets if _facts(t).sign and _facts(t).objects]
    assert {_facts(t).sign.place for t in signed} == {"top", "bottom"}
    for t in signed:
        after = t.short.split(f'"{_facts(t).sign.word}"')[1]
        assert re.search("above|below", after)[0] == ("above" if _facts(t).sign.place == "top" else "below")


def test_casual_frames_of_training_and_held_out_differ():
    assert set(frames("train")) | set(frames("heldout")) == set(FRAMES)
    assert not set(frames("train")) & set(frames("heldout"))
    assert len(frames("heldout")) >= 3


def test_captions_without_a_scene_or_with_other_words_are_rejected(world):
    scene = world.scene(1)
    with pytest.raises(RejectedError, match="no scene graph"):
        SceneDegrader().degrade(Annotation(text="a cat"), 0)
    with pytest.raises(RejectedError, match="quoted words"):
        SceneDegrader().degrade(
            Annotation(text='a sign that says "stop it now"', meta={"scene": replace(scene, sign=None)}), 0
        )


def test_edits_are_summarised_with_their_words():
    text = 'Replace the sign with one that says "open". Keep the light. The letters "OK" stay. Nothing else changes.'
    t = summarise(Annotation(text=text, kind="edit", width=160, height=90), 0)
    assert t.kind == "edit"
    assert t.short == 'Replace the sign with one that says "open". The letters "OK" stay'
    assert not lost_words(text, t.short)
    assert t.wh_ratio == "16:9"


def test_triplets_of_a_world_are_those_of_their_seeds_and_split():
    world = World(WorldConfig(width=32, height=32, sprites=0))
    assert world_triplets(world, 3, first=5) == world_triplets(world, 8)[5:]
    for split in ("train", "heldout"):
        assert {split_of(scene_of(t.meta)) for t in world_triplets(world, 60, split) if scene_of(t.meta).relations} <= {
            split,
            None,
        }
        assert [t.seed for t in world_triplets(world, 3, split)] == [0, 1, 2]
    assert world_triplets(world, 20) != world_triplets(world, 20, "heldout")
