"""Rules that read places agree with the scene graphs, and notice when a rewrite moves something."""

from __future__ import annotations

import dataclasses

import pytest

from fourstroke.enhance.checks import Lexicon, problems
from fourstroke.world import World, WorldConfig
from fourstroke.world.caption_rules import lexicon_of, world_triplets
from fourstroke.world.graph import Scene

LEXICON = Lexicon(("cat", "dog", "star", "circle"), ("red", "blue"))


def _true_places(scene: Scene) -> set[tuple[str, str, str]]:
    titles = [entry.title for entry in scene.objects]
    if len(titles) == 1:
        return {(titles[0], "at", scene.objects[0].place)}
    found = set()
    for relation in scene.relations:
        a, b = titles[relation.subject], titles[relation.object]
        turned = relation.predicate in ("right of", "below")
        name = "left of" if relation.predicate in ("left of", "right of") else "above"
        found.add((b, name, a) if turned else (a, name, b))
    return found | {(a, name, c) for a, name, b in found for b_, other, c in found if b == b_ and name == other}


def test_captions_and_short_prompts_are_read_as_their_scenes_are():
    config = WorldConfig(width=32, height=32, sprites=0, shapes=True, words=0.2, count_weights=(0.2, 0.3, 0.5))
    for split in ("train", "heldout"):
        world = World(config)
        lexicon = lexicon_of(world)
        for t in world_triplets(world, 200, split):
            scene = world.scene(t.seed, split)
            truth, rich, short = _true_places(scene), lexicon.places(t.rich), lexicon.places(t.short)
            assert rich == truth or scene.sign is not None
            assert rich <= truth
            assert short <= truth
            laid_out = not {"layout", "secondary"} & {step.strategy for step in t.steps}
            assert short == truth or not laid_out or len(scene.objects) == 1 or scene.sign is not None
            assert not problems(t.short, t.rich, lexicon)


def test_a_mirrored_scene_is_noticed():
    world = World(WorldConfig(width=32, height=32, sprites=0, shapes=True, count_weights=(0.2, 0.4, 0.4)))
    lexicon, seen = lexicon_of(world), 0
    for seed in range(150):
        scene = world.scene(seed)
        if not scene.relations:
            continue
        inverse = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
        relations = tuple(dataclasses.replace(r, predicate=inverse[r.predicate]) for r in scene.relations)
        objects = scene.objects
        if scene.layout in ("row", "column"):  # said in order, so the order turns it
            objects, relations = objects[::-1], scene.relations
        elif scene.layout != "pair":
            continue
        mirrored = dataclasses.replace(scene, objects=objects, relations=relations)
        request = world.caption(scene, rich=False, seed=seed)
        assert lexicon.moved(request, world.caption(mirrored, rich=True, seed=seed + 1))
        assert not lexicon.moved(request, world.caption(scene, rich=True, seed=seed + 1))
        seen += 1
    assert seen > 60


@pytest.mark.parametrize(
    ("request_", "rewrite", "kept"),
    [
        ("a cat left of a dog", "The picture shows a dog on the right and a cat on the left.", True),
        ("a cat left of a dog", "A cat on the left and a dog on the left.", False),
        ("a cat left of a dog", "A cat and a dog in soft light.", False),
        ("cat sits on top of dog", "A large cat above a dog, lit from the left.", True),
        ("a circle under a star", "A star above a red circle.", True),
        ("a red circle under a star", "A star above a blue circle.", False),
        ("a cat", "A large cat on the right side of the picture.", True),
        ("a cat at the top", "A cat in the lower part.", False),
        ("a cat at the top and something else", "A cat above a star.", True),
        ("a cat and a dog", "A cat to the right of a dog. The cat is left of the dog.", False),
        ('a cat above "left of"', 'A cat in the middle, "left of" in red.', True),
        ("a cat, a dog and a star in a row from left to right", "A dog between a cat on the left and a star.", True),
        ("a cat, a dog and a star in a row from left to right", "A dog between a cat on the right and a star.", False),
        ("a cat in front of a dog", "A dog is partly hidden by a cat, which is nearer.", True),
        ("a cat in front of a dog", "A cat and a dog overlap, and the cat is in front.", True),
        ("a cat in front of a dog", "In the foreground there is a dog; a cat is behind it.", False),
        ("a dog standing behind a cat", "A dog that hides a part of a cat.", False),
        ("a dog behind a cat", "A cat and a dog.", False),
        ('a sign that says "x" at the bottom, a dog on the right and a cat on the left', "A dog right of a cat.", True),
        (
            'a sign that says "x" at the bottom, a dog on the right and a cat on the left',
            "A cat right of a dog.",
            False,
        ),
        ('a dog right of a cat and, at the top, a red sign with "x"', "A cat left of a dog.", True),
        ('in the middle a board saying "x", on the left a cat, on the right a dog', "A cat left of a dog.", True),
        ("a cat left of a dog, a star under them", "A cat and a dog side by side, the dog on the left.", False),
        ("a cat left of a dog", "A cat and a dog side by side, the cat on the left, with a cat under them.", True),
        ("a star over a dog", "A star and a dog, the dog at the bottom.", True),
        ("", "A cat.", True),
    ],
)
def test_words_about_places(request_, rewrite, kept):
    assert bool(LEXICON.moved(request_, rewrite)) is not kept


def test_without_a_lexicon_no_place_is_asked_for():
    assert Lexicon().moved("a cat left of a dog", "nothing") == []
    assert Lexicon().places("a cat left of a dog") == set()
