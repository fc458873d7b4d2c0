"""The rules by which captions of the drawn world are taken apart, and what an enhancer of it learns from.

Exact and offline: a strategy is applied to the scene graph, and the short prompt is worded anew. A secondary object is
never dropped without a trace: the short prompt leaves it open ("and something else"), so that an enhancer does not
learn to add things to a request that names all it wants.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import numpy as np

from fourstroke.chance import generator, pick
from fourstroke.enhance.checks import Lexicon, lost_words, quoted
from fourstroke.enhance.degrade import PROBABILITIES, Odds, summarise, wh_ratio
from fourstroke.enhance.triplet import Annotation, RejectedError, Step, Triplet
from fourstroke.world import short_prompts
from fourstroke.world.atlas import THINGS
from fourstroke.world.caption import category_of, size_word, with_article
from fourstroke.world.captions.saying import read_names
from fourstroke.world.compose import SHAPES
from fourstroke.world.degrading.edits import degrade_edit
from fourstroke.world.degrading.pages import PAGE_PROBABILITIES, PageDraft
from fourstroke.world.degrading.scenes import SceneDraft
from fourstroke.world.degrading.surroundings import Surroundings
from fourstroke.world.edits.graph import Edit
from fourstroke.world.graph import Scene, Split, split_of
from fourstroke.world.pages.caption import category_of_page
from fourstroke.world.pages.colours import COLOURS
from fourstroke.world.pages.graph import KINDS as PAGES
from fourstroke.world.pages.graph import Page, split_of_page
from fourstroke.world.palette import BACKGROUND_COLOURS, BOARD_COLOURS, SHAPE_COLOURS
from fourstroke.world.world import World, WorldConfig

STREAM = 3
"""Keeps the draws apart from those of the world's scenes and captions."""


@dataclass(frozen=True, kw_only=True)
class WorldRules:
    """Captions of a world, taken apart; `world` says which things they can name."""

    kind: ClassVar[str] = "world"

    world: WorldConfig = field(default_factory=WorldConfig)

    def open(self) -> SceneDegrader:
        """The rules, with all that the world can draw as their lexicon."""
        world = World(self.world)
        return SceneDegrader(lexicon=lexicon_of(world), second_edition=bool(world.config.things))


class Said(Protocol):
    """What is still said of a picture while its caption is taken apart."""

    def lose(self, strategy: str, blur: bool) -> str:
        """Drop or blur what the strategy is about; returns the thought that undoes it, empty if nothing was there."""

    def text(self, rng: np.random.Generator, split: Split) -> str:
        """The short prompt."""

    def asked(self, lost: Collection[str]) -> str:
        """What `text` has said, always in the same words."""


class SceneDegrader:
    """Takes captions of the drawn world apart by rules over their graphs: scenes, pages and edits; exact and offline.

    A strategy applies only where there is something to lose: no texture, nothing to drop. `wording` makes the result
    casual. The same caption and seed give the same triplet everywhere.
    """

    def __init__(
        self,
        odds: Mapping[str, Mapping[str, Odds]] = PROBABILITIES,
        lexicon: Lexicon | None = None,
        second_edition: bool = False,
    ) -> None:
        self.odds, self.lexicon, self.second_edition = odds, lexicon or Lexicon(), second_edition
        self.page_odds = PAGE_PROBABILITIES if odds is PROBABILITIES else odds

    def degrade(self, annotation: Annotation, seed: int) -> Triplet:
        """The triplet of a caption whose `meta` holds its scene, or of an edit's description.

        Raises:
            RejectedError: for a caption without a scene graph, or one whose quoted words are not its graph's.
        """
        rng = generator(seed, STREAM)
        if annotation.kind == "edit":
            edit = annotation.meta.get("edit")
            if edit is None:
                return summarise(annotation, seed)
            edit = edit if isinstance(edit, Edit) else Edit.from_dict(edit)
            return degrade_edit(annotation, edit, seed, wh_ratio(annotation.width, annotation.height))
        if (page := annotation.meta.get("page")) is not None:
            page = page if isinstance(page, Page) else Page.from_dict(page)
            said = PageDraft(page, annotation.text, rng)
            category = category_of_page(page)
            odds = self.page_odds[category]
            return self._taken_apart(annotation, seed, said, category, odds, split_of_page(page), rng, page)
        scene = scene_of(annotation.meta)
        if scene is None:
            raise RejectedError("it has no scene graph: rules need one, take an endpoint for captions from elsewhere")
        words = [scene.sign.word] if scene.sign else []
        if quoted(annotation.text) != words:
            raise RejectedError(f"its quoted words are {quoted(annotation.text)}, those of its scene are {words}")
        draft = (SceneDraft if self.second_edition else Draft)(scene, annotation.text, rng)
        category = category_of(scene)
        triplet = self._taken_apart(annotation, seed, draft, category, self.odds[category], split_of(scene), rng, scene)
        states = {"states_background": draft.background_stated, "states_style": draft.style_stated}
        return replace(triplet, meta={"scene": draft.facts.to_dict(), **states})

    def _taken_apart(
        self,
        annotation: Annotation,
        seed: int,
        draft: Said,
        category: str,
        odds_of: Mapping[str, Odds],
        split: Split | None,
        rng: np.random.Generator,
        size: Scene | Page,
    ) -> Triplet:
        steps: list[Step] = []
        for strategy, odds in odds_of.items():
            draw = rng.random()
            blur = odds.drop <= draw < odds.drop + odds.blur
            if draw < odds.drop + odds.blur and (thought := draft.lose(strategy, blur)):
                steps.append(Step(strategy=strategy, probability=odds.blur if blur else odds.drop, thought=thought))
        short = draft.text(rng, split or "train")
        if lost := lost_words(annotation.text, short):
            raise RejectedError(f"the short prompt would lose its words {lost}")
        first = f"{category}: {draft.asked([step.strategy for step in steps])}."
        return Triplet(
            short=short,
            reasoning=" ".join([first, *(step.thought for step in reversed(steps))]),
            rich=annotation.text,
            category=category,
            wh_ratio=wh_ratio(size.width, size.height),
            steps=tuple(steps),
            seed=seed,
        )


class Draft(Surroundings):
    """A scene on its way to a short prompt: what is still said of it, and how."""

    def __init__(self, scene: Scene, rich: str, rng: np.random.Generator) -> None:
        super().__init__(scene, rng)
        self.facts = scene
        self.style = next((style for opening, style in short_prompts.STYLES.items() if rich.startswith(opening)), "")
        self.size = len(scene.objects) == 1 and scene.sign is None
        sign = scene.sign
        self.sign = ""
        if sign is not None:
            self.sign = f'{with_article(f"{sign.board} sign")} with "{sign.word}" in {sign.ink} {sign.font} letters'
        self.laid_out, self.left_open, self._reading = True, "", ""
        self.style_stated = False
        self.turned = _turned(scene, rich)

    def lose(self, strategy: str, blur: bool) -> str:
        """Drop or blur what the strategy is about; returns the thought that undoes it, empty if nothing was there."""
        lose = {
            "layout": self._lose_layout,
            "secondary": self._lose_secondary,
            "size": self._lose_size,
            "typography": self._lose_typography,
            "background": self._lose_background,
            "style": self._lose_style,
            "wording": self._lose_wording,
        }
        return lose[strategy](blur) if strategy in lose else self._lose_phrase(strategy, blur)

    def text(self, rng: np.random.Generator, split: Split) -> str:
        """The short prompt."""
        if not self.scene.objects:
            clause = ""
        elif self.left_open:
            clause = f"{short_prompts.names(self.facts)[0]} and {self.left_open}"
        elif self.laid_out:
            clause, self._reading = short_prompts.arranged(self.scene, rng, sized=self.size, turned=self.turned)
        else:
            clause, self._reading = short_prompts.pair_colloquial(short_prompts.names(self.scene), rng)
        if self.scene.sign is not None:
            clause = short_prompts.with_sign(clause, self.scene.sign, self.sign)
        clause = f"{self.style} of {clause}" if self.style else clause
        behind = [self.phrases[key] for key in ("background", "texture", "light") if self.phrases[key]]
        joint = ", " if len(behind) > 1 or "," in clause or " and " in clause else " "
        text = joint.join([clause, ", ".join(behind)]) if behind else clause
        return short_prompts.casual(text, rng, split) if self.casual else text

    def asked(self, lost: Collection[str]) -> str:
        """What `text` has said, always in the same words and order, so that the rest builds on one reading."""
        scene = self.scene
        said = [f'the word "{scene.sign.word}"'] if scene.sign else []
        if scene.sign and scene.objects:
            said[0] += f" {'above' if scene.sign.place == 'top' else 'below'}"
        if scene.objects:
            said.append(self._reading or short_prompts.listed(short_prompts.names(self.facts)))
        if self.size:
            said.append(size_word(scene.objects[0].size))
        said += [text for key, text in {**self.phrases, "style": self.style}.items() if text and key not in lost]
        return "; ".join(said)

    def _lose_layout(self, blur: bool) -> str:
        if not self.scene.objects or (len(self.scene.objects) == 1 and self.scene.objects[0].place == "center"):
            return ""
        self.laid_out, self.size = False, False
        self.facts = replace(self.facts, relations=())
        return f"Layout: {short_prompts.meaning(self.scene, self.turned)}."

    def _lose_secondary(self, blur: bool) -> str:
        if len(self.scene.objects) != 2 or self.scene.sign is not None:
            return ""
        self.left_open = pick(self.rng, short_prompts.LEFT_OPEN)
        self.facts = replace(self.facts, objects=self.scene.objects[:1], relations=())
        return f"Open thing: {short_prompts.meaning(self.scene, self.turned)}."

    def _lose_size(self, blur: bool) -> str:
        if not self.size:
            return ""
        self.size = False
        return f"Size: {size_word(self.scene.objects[0].size)}."

    def _lose_typography(self, blur: bool) -> str:
        sign = self.scene.sign
        if sign is None:
            return ""
        board = with_article(f"{sign.board} sign") if blur else "a sign"
        self.sign = f'{board} {pick(self.rng, ("that says", "saying", "with the word", "that reads"))} "{sign.word}"'
        return f"Letters: {sign.ink} {sign.font} on {sign.board}."

    def _lose_style(self, blur: bool) -> str:
        style = self.style
        self.style = pick(self.rng, short_prompts.STYLE_WORDS[style]) if blur and style else ""
        return f"Style: {style}." if style else ""


def _turned(scene: Scene, rich: str) -> bool:
    """Whether the caption names the last thing before the first: what is taken apart keeps its order."""
    if len(scene.objects) < 2:
        return False
    ends = (re.search(rf"\b{re.escape(scene.objects[end].title)}\b", rich) for end in (0, -1))
    first, last = (match.start() if match else 0 for match in ends)
    return last < first


def scene_of(meta: Mapping[str, Any]) -> Scene | None:
    """The scene graph that a record, an annotation or a triplet carries; None if there is none.

    Raises:
        RejectedError: if it is no graph of the world.
    """
    value = meta.get("scene")
    if value is None or isinstance(value, Scene):
        return value
    try:
        return Scene.from_dict(value)
    except (KeyError, TypeError, AttributeError):
        raise RejectedError("its scene is no scene graph of the world") from None


def lexicon_of(world: World) -> Lexicon:
    """All that a world can draw, and its colours; of the second edition with all that its posters show."""
    shown = [name for name in THINGS if name not in world.sprites] if world.config.things else []
    things = (*world.sprites, *shown, *(SHAPES if world.config.shapes else ()))
    plurals = tuple((read_names()[thing]["en"]["many"], thing) for thing in things) if world.config.things else ()
    others = (*PAGES, *(f"{colour} mark" for colour in COLOURS))  # a square poster, a square navy mark
    return Lexicon(things, tuple({*SHAPE_COLOURS, *BACKGROUND_COLOURS, *BOARD_COLOURS}), plurals, others)


def world_triplets(world: World, count: int, split: Split = "train", first: int = 0) -> list[Triplet]:
    """The triplets of the seeds `first` … of a world's split."""
    degrader, found = SceneDegrader(second_edition=bool(world.config.things)), []
    for seed in range(first, first + count):
        scene = world.scene(seed, split)
        caption = world.caption(scene, rich=True, seed=seed)
        found.append(degrader.degrade(Annotation(text=caption, meta={"scene": scene}), seed))
    return found
