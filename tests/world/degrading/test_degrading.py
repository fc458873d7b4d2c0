"""Scenes, pages and edits of the second edition are taken apart truly: facts are what the short prompt says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fourstroke.enhance.checks import hopeless, problems, quoted, unquoted
from fourstroke.enhance.degrade import PROBABILITIES, Odds, degrade_dataset
from fourstroke.enhance.protocol import unfinished, write_answer
from fourstroke.enhance.triplet import CATEGORIES, Annotation, RejectedError, Triplet
from fourstroke.recipe import load_recipe
from fourstroke.world import World, WorldConfig
from fourstroke.world.caption_rules import SceneDegrader, WorldRules, lexicon_of, scene_of, world_triplets
from fourstroke.world.captions.english import NUMBERS, STYLE_NOUNS
from fourstroke.world.captions.saying import read_names
from fourstroke.world.captions.wordings import Wordings, wordings_of
from fourstroke.world.dataset import PosterData, WorldData
from fourstroke.world.degrading import scenes
from fourstroke.world.edits.dataset import EditData
from fourstroke.world.edits.world import EditConfig
from fourstroke.world.graph import Scene
from fourstroke.world.pages.pages import PageConfig

CONFIG = load_recipe(WorldConfig, Path(__file__).parents[3] / "recipes" / "micro" / "world.yaml")
WORLD = World(CONFIG)
LEXICON = lexicon_of(WORLD)
DROPPED = {category: {name: Odds(drop=1.0) for name in odds} for category, odds in PROBABILITIES.items()}


@pytest.fixture(scope="module")
def triplets() -> list[Triplet]:
    return world_triplets(WORLD, 300)


def facts_of(triplet: Triplet) -> Scene:
    scene = scene_of(triplet.meta)
    assert scene is not None
    return scene


def lost(triplet: Triplet) -> set[str]:
    return {step.strategy for step in triplet.steps}


def test_rich_captions_keep_all_that_short_prompts_ask(triplets):
    assert not [(t.short, t.rich) for t in triplets if problems(t.short, t.rich, LEXICON)]
    assert {t.category for t in triplets} >= {"General", "Text", "Complex Text"}
    for t in triplets:
        assert t.reasoning.startswith(f"{t.category}: ")
        assert t.reasoning.endswith(" ".join(step.thought for step in reversed(t.steps)))
        assert quoted(t.short) == quoted(t.rich)
        assert Triplet.from_dict(t.to_dict()) == t


def test_facts_are_the_things_that_short_prompts_name_in_their_numbers(triplets):
    for t in triplets:
        facts = facts_of(t)
        assert {entry.title for entry in facts.objects} == LEXICON.titles(t.short)
        for group in facts.groups:
            assert f"{NUMBERS[group.number]} " in t.short
        for unit in facts.units:
            name = facts.objects[unit[0]].name
            assert (name if len(unit) == 1 else read_names()[name]["en"]["many"]) in t.short


def test_what_is_lost_is_no_fact_and_what_is_kept_is_said(triplets):
    seen = set()
    for t in triplets:
        facts, whole = facts_of(t), WORLD.scene(t.seed)
        if "layout" in lost(t):
            assert not facts.relations
            seen.add("layout")
        if any(entry.scale for entry in facts.objects):
            assert any(word in t.short for word in ("small", "large", "medium-sized"))
            seen.add("size kept")
        elif any(entry.scale for entry in whole.objects) and "secondary" not in lost(t):
            assert "size" in lost(t)
            seen.add("size lost")
        styles = {entry.style for entry in whole.objects if entry.kind == "sprite"}
        if len(styles) == 1:
            said = STYLE_NOUNS[styles.pop()][0].replace(" a ", " ") in t.short.replace(" a ", " ")
            assert said == t.meta["states_style"] == ("style" not in lost(t))
            seen.add(f"style {said}")
        if whole.sign and "typography" not in lost(t):
            assert f"{whole.sign.ink} {whole.sign.font}" in t.short
            seen.add("letters")
    assert seen == {"layout", "size kept", "size lost", "style True", "style False", "letters"}


def test_strategies_come_as_often_as_told(triplets):
    share = sum("wording" in lost(t) for t in triplets) / len(triplets)
    assert share == pytest.approx(PROBABILITIES["General"]["wording"].drop, abs=0.1)
    kept = SceneDegrader({category: {} for category in CATEGORIES}, LEXICON, second_edition=True)
    bare = SceneDegrader(DROPPED, LEXICON, second_edition=True)
    data = WorldData(world=CONFIG, samples=20).open()
    for whole, least in zip(degrade_dataset(data, kept), degrade_dataset(data, bare), strict=True):
        assert not whole.steps
        assert len(least.short) < len(whole.short)
        assert least.rich == whole.rich


def test_held_out_scenes_are_asked_for_in_wordings_that_training_never_saw(monkeypatch):
    used = set()

    def noted(name: str, kind: str, wordings: Wordings) -> tuple[str, ...]:
        used.add(wordings)
        return wordings_of(name, kind, wordings)

    monkeypatch.setattr(scenes, "wordings_of", noted)
    world_triplets(WORLD, 30, "train")
    assert used == {"trained"}
    world_triplets(WORLD, 30, "heldout")
    assert used == {"trained", "heldout"}


def test_pages_are_asked_for_as_people_do():
    posters = PosterData(pages=PageConfig(kinds=(1, 0, 0, 0, 0, 0)), samples=150).open()
    found = list(degrade_dataset(posters, WorldRules(world=CONFIG).open()))
    shown = [t for t in found if LEXICON.titles(t.rich)]
    named = sum(bool(LEXICON.titles(t.short)) for t in shown)
    assert {picture.name for i in range(150) for picture in posters.record(i).meta["page"].pictures} - {*WORLD.sprites}
    assert len(shown) == sum(bool(posters.record(i).meta["page"].pictures) for i in range(150))
    assert 0.5 < named / len(shown) < 0.8
    assert all(("Picture: " in t.reasoning) == (not LEXICON.titles(t.short)) for t in shown)
    assert sum("layout" in lost(t) for t in found) > 75
    assert len({unquoted(t.short).split("  ")[0] for t in found}) > 20
    assert not LEXICON.invented('a poster that says "SALE"', 'A poster: "SALE" above a cat.')
    assert LEXICON.invented('a poster with a dog that says "SALE"', 'A dog and a cat, "SALE".') == ["cat"]
    assert LEXICON.invented('a board that says "SALE"', 'A board, "SALE", above a cat.') == ["cat"]


def test_stickers_are_asked_for_in_several_ways():
    stickers = world_triplets(World(replace(CONFIG, transparent=1.0)), 80)
    ways = ("transparent background", "as a sticker", "sticker of ")
    counts = [sum(way in t.short.replace("as sticker", "as a sticker") for t in stickers) for way in ways]
    assert all(count > 8 for count in counts)
    assert sum(counts) == len(stickers)
    assert not any(problems(t.short, t.rich, LEXICON) for t in stickers)


def test_pages_keep_their_words_and_their_category():
    rules = WorldRules(world=CONFIG).open()
    pages = PosterData(pages=PageConfig(kinds=(1, 0.3, 0, 0.3, 0.5, 0.5)), samples=60).open()
    found = list(degrade_dataset(pages, rules))
    assert len(found) == 60
    assert {t.category for t in found} == {"Text", "Complex Text"}
    for index, t in enumerate(found):
        page = pages.record(index).meta["page"]
        assert page.kind in t.short
        assert sorted(set(quoted(t.short))) == sorted(set(quoted(t.rich)))
        assert not problems(t.short, t.rich, LEXICON)
        assert ("paper" in unquoted(t.short)) == ("background" not in lost(t))
        assert len(t.short) < len(t.rich)


def test_a_text_that_a_page_bears_twice_is_asked_for_twice_and_words_of_another_page_are_rejected():
    rules = WorldRules(world=CONFIG).open()
    record = PosterData(pages=PageConfig(kinds=(0, 0, 0, 0, 0, 1), words=(2, 8)), samples=60).open().record(0)
    page = record.meta["page"]
    line = page.lines[0]
    twice = replace(page, lines=(replace(line, text="9-21", block=0), replace(line, text="9-21", block=1)), charts=())
    rich = 'On a sign stands "9-21" and below it "9-21".'
    for seed in range(20):
        short = rules.degrade(Annotation(text=rich, meta={"page": twice}), seed).short
        assert quoted(short) == ["9-21", "9-21"]
    with pytest.raises(RejectedError, match="would lose its words"):
        rules.degrade(Annotation(text='A sign that says "open".', meta={"page": twice.to_dict()}), 0)


def test_right_answers_are_hopeful_as_far_as_they_are_written(triplets):
    pages = PosterData(pages=PageConfig(kinds=(1, 0.3, 0, 0.3, 0.5, 0.5)), samples=20).open()
    edits = EditData(edits=EditConfig(world=CONFIG), samples=20).open()
    rules = WorldRules(world=CONFIG).open()
    for t in [*degrade_dataset(pages, rules), *triplets[:20], *degrade_dataset(edits, rules)]:
        turn = write_answer(t.rich, t.wh_ratio, t.reasoning)
        for end in range(4, len(turn), 4):
            thoughts, prompt, _ = unfinished(turn[:end])
            assert not hopeless(t.short, thoughts, prompt, LEXICON), (t.short, turn[:end])
    request = 'a sign that says "hot dog stand"'
    for begun in ("A square", "A square poster on pl", 'A square poster says "hot dog', "A square navy"):
        assert not hopeless(request, "", begun, LEXICON)
    assert hopeless(request, "", "A square and a sign and", LEXICON) == ["it added a square"]


def test_edits_are_asked_for_and_said_plainly():
    edits = EditData(edits=EditConfig(world=CONFIG), samples=60).open()
    found = list(degrade_dataset(edits, WorldRules(world=CONFIG).open()))
    assert len({t.rich.split()[0] for t in found}) > 6
    for t in found:
        assert t.kind == "edit"
        assert t.rich.endswith("Keep everything else exactly as before.")
        assert set(quoted(t.short)) <= set(quoted(t.rich))
        assert not LEXICON.lost(t.short, t.rich)
        assert not LEXICON.invented(t.short, t.rich)
