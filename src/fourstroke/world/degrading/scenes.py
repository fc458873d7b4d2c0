"""A scene of the second edition on its way to a short prompt: numbers, styles, sizes, relations, words, background.

A fact that the short prompt no longer says is taken out of the scene too, so that pictures of the short prompt are
judged by what was asked for and by nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

import numpy as np

from fourstroke.chance import pick
from fourstroke.world import short_prompts
from fourstroke.world.caption import PLACE_PHRASES, RELATION_PHRASES, size_word, with_article
from fourstroke.world.captions.english import FORMS, STYLE_NOUNS, fields_of, noun_of
from fourstroke.world.captions.saying import StyleSaid, Thing, kind_of, things_of
from fourstroke.world.captions.wordings import wordings_of
from fourstroke.world.degrading.surroundings import Surroundings
from fourstroke.world.edits.graph import without
from fourstroke.world.graph import INVERSE, Scene, Split

VAGUE_STYLES = {
    "flat": "in a simple style",
    "3d": "in a shiny style",
    "clip-art": "in a cartoon style",
    "rendered": "in a realistic style",
}
READINGS = {
    "alone": "{a}{place}",
    "count": "{a}{form}{place}",
    "pair": "{a} {rel} {b}",
    "front": "{a} in front of {b}",
    "two": "{a} and {b}",
    "three": "{a}, {b} and {c}",
    "sizes": "{a} and {b}",
    "line": "{a}, {b} and {c} in a {line} from {first} to {last}",
    "corners": "{a} {rel} {b} on the left and {c} on the right",
    "sign": "the word {word}",
    "sign one": "the word {word} {sign_rel} {a}",
    "sign pair": "the word {word} {sign_rel} {a} {rel} {b}",
}
"""By kind of scene, the one wording of its layout in thoughts."""


class SceneDraft(Surroundings):
    """What is still said of a scene, and how; see `caption_rules.SceneDegrader`."""

    def __init__(self, scene: Scene, rich: str, rng: np.random.Generator) -> None:
        super().__init__(scene, rng)
        self.facts, sign = scene, scene.sign
        self.turned = _turned(scene, rich)
        styles = {entry.style for entry in scene.objects if entry.kind == "sprite"}
        self._style = styles.pop() if len(styles) == 1 else None  # where they differ, each thing's is always said
        lone = len(scene.units) == 1 and sign is None and scene.objects[0].scale is None
        self.phrases = {
            "style": STYLE_NOUNS[self._style][0] if self._style else "",
            "size": size_word(scene.objects[0].size) if lone else "",
            "typography": f"in {sign.ink} {sign.font} letters" if sign else "",
        } | self.phrases
        if scene.background.edge == "soft":
            self.phrases["background"] += ", with soft edges"
        self.board = f"{sign.board} sign" if sign else ""
        self.placed, self.left_open = True, ""

    @property
    def style_stated(self) -> bool:
        """Whether the short prompt says in what style things are drawn, which a judge may then expect."""
        return self._style is None or self.phrases["style"] == STYLE_NOUNS[self._style][0]

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
        kind = kind_of(self.facts)
        fields = self._fields(self.facts, kind, rng)
        plain = [wording for wording in wordings_of("en", kind, "trained") if wording.startswith("{")]
        first = [wording for wording in plain if wording.startswith("{a}")]
        sticker = self.phrases["background"] == short_prompts.STICKER and bool(first) and rng.random() < 0.5
        if sticker:
            fields["a"] = f"a sticker of {fields['a']}"
        behind = [text for key, text in self.phrases.items() if text and not (sticker and key == "background")]
        apart = len(behind) > 1 or len(self.facts.units) > 1
        fields["tail"] = (", " if apart else " ") + ", ".join(behind) if behind else ""
        if self.left_open:
            return f"{fields['a']} and {self.left_open}{fields['tail']}"
        found = wordings_of("en", kind, "trained" if split == "train" else "heldout")
        text = pick(rng, first if sticker else found if self.casual else plain).format_map(fields)
        return short_prompts.careless(text, rng) if self.casual else text

    def asked(self, lost: Collection[str]) -> str:
        """What `text` has said, always in the same words and order, so that the rest builds on one reading."""
        said = [self._reading(self.facts)]
        said += [text for key, text in self.phrases.items() if text and key not in lost]
        return "; ".join(said)

    def _reading(self, scene: Scene) -> str:
        kind = kind_of(scene)
        return READINGS[kind].format_map(self._fields(scene, kind, None))

    def _fields(self, scene: Scene, kind: str, rng: np.random.Generator | None) -> dict[str, str]:
        """The gaps of sentences on a scene; without `rng`, by the first of all ways to say it."""
        things, predicate = self._order(scene, kind)
        said: StyleSaid = "none" if self._style else "each"
        fields = fields_of(scene, kind, rng or np.random.default_rng(0), True, (things, predicate), said)
        if scene.sign is not None:
            fields |= {"board": with_article(self.board), "bare_board": self.board}
        if rng is None:
            if "rel" in fields:
                fields["rel"] = RELATION_PHRASES[predicate][0]
            if scene.sign is not None:
                fields["sign_rel"] = "above" if scene.sign.place == "top" else "below"
            if "place" in fields:
                fields["place"] = f" {PLACE_PHRASES[things[0].place][0]}"
                fields["form"] = FORMS[things[0].form] if things[0].number > 1 else ""
        if scene is self.facts and not self.placed:
            fields |= {"place": "", "form": ""}
        return fields

    def _order(self, scene: Scene, kind: str) -> tuple[list[Thing], str]:
        """The things as the caption that is taken apart names them, and what the first two are to each other."""
        things = things_of(scene)
        predicate = str(scene.relations[0].predicate) if scene.relations and scene.stated else ""
        if kind == "front":
            return things[::-1], predicate
        if kind == "corners" or not self.turned:
            return things, predicate
        return things[::-1], INVERSE.get(predicate, "")

    def _lose_layout(self, blur: bool) -> str:
        kind = kind_of(self.scene)
        central = kind == "alone" and self.scene.objects[0].place == "center"
        if central or kind in ("two", "three", "sizes") or self.scene.sign is not None:
            return ""
        thought = f"Layout: {self._reading(self.scene)}."
        self.placed = False
        self.facts = replace(self.facts, relations=(), stated=False)
        if self.facts.layout == "front":
            self.facts = replace(self.facts, layout="pair")
        return thought

    def _lose_secondary(self, blur: bool) -> str:
        scene = self.scene
        if len(scene.units) != 2 or scene.sign is not None:
            return ""
        kept, _ = self._order(scene, kind_of(scene))
        gone = next(unit for unit, thing in zip(scene.units, things_of(scene), strict=True) if thing != kept[0])
        self.left_open = pick(self.rng, short_prompts.LEFT_OPEN)
        self.facts = without(scene, gone)
        return f"Open thing: {self._reading(scene)}."

    def _lose_size(self, blur: bool) -> str:
        if size := self.phrases["size"]:
            self.phrases["size"] = ""
            return f"Size: {size}."
        if self.left_open or not any(entry.scale for entry in self.facts.objects):
            return ""
        things = things_of(self.facts)
        said = ", ".join(f"{noun_of(thing)} {thing.scale}" for thing in things if thing.scale)
        self.facts = replace(self.facts, objects=tuple(replace(entry, scale=None) for entry in self.facts.objects))
        return f"Size: {said}."

    def _lose_typography(self, blur: bool) -> str:
        sign = self.scene.sign
        if sign is None:
            return ""
        self.phrases["typography"] = ""
        self.board = f"{sign.board} sign" if blur else "sign"
        return f"Letters: {sign.ink} {sign.font} on {sign.board}."

    def _lose_style(self, blur: bool) -> str:
        if self._style is None or not (phrase := self.phrases["style"]):
            return ""
        self.phrases["style"] = VAGUE_STYLES[self._style] if blur else ""
        return f"Style: {phrase.removeprefix('in ')}."


def _turned(scene: Scene, rich: str) -> bool:
    """Whether the caption names the last thing before the first: what is taken apart keeps its order."""
    things = things_of(scene)
    if len(things) < 2:
        return False
    found = (re.search(rf"\b{re.escape(noun_of(things[end]))}\b", rich) for end in (0, -1))
    first, last = (match.start() if match else 0 for match in found)
    return last < first
