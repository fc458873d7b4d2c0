"""Reverse engineering: a rich caption is taken apart, and every degradation, undone, is a step of reasoning.

Qwen-Image-2.0 report, prompt enhancer: classify P_fine, sample degradation strategies for its class with set
probabilities, apply them to get P_short; reversed, they are the chain of thought, which begins with what P_short says.
The probabilities are ours. A secondary object is never dropped without a trace: the short prompt leaves it open ("and
something else"), so that an enhancer does not learn to add things to a request that names all it wants.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from math import gcd

import numpy as np

from fourstroke.chance import generator, pick
from fourstroke.enhance import wording
from fourstroke.enhance.checks import lost_words, quoted
from fourstroke.enhance.triplet import Caption, RejectedError, Step, Triplet
from fourstroke.world.caption import category_of, size_word, with_article
from fourstroke.world.graph import Scene, Split, split_of

STREAM = 3
"""Keeps the draws apart from those of the world's scenes and captions."""


@dataclass(frozen=True)
class Odds:
    """How often a strategy drops what it is about, and how often it only blurs it."""

    drop: float = 0.0
    blur: float = 0.0


BASE = {
    "layout": Odds(drop=0.15),
    "secondary": Odds(blur=0.08),
    "size": Odds(drop=0.8),
    "typography": Odds(drop=0.5, blur=0.4),
    "background": Odds(drop=0.6, blur=0.1),
    "texture": Odds(drop=0.75, blur=0.1),
    "light": Odds(drop=0.75, blur=0.1),
    "style": Odds(drop=0.75, blur=0.15),
    "wording": Odds(drop=0.6),
}
PROBABILITIES: Mapping[str, Mapping[str, Odds]] = {
    "General": BASE,
    "Portrait": {**BASE, "background": Odds(drop=0.7, blur=0.15), "light": Odds(drop=0.6, blur=0.25)},
    "Text": {**BASE, "background": Odds(drop=0.8, blur=0.05)},
    "Complex Text": {**BASE, "layout": Odds(drop=0.25), "typography": Odds(drop=0.7, blur=0.25)},
}
"""For each category the odds of each strategy, in the order in which they are applied."""


class WorldEngine:
    """Takes captions of the drawn world apart by rules over their scene graphs; exact and offline.

    A strategy applies only where there is something to lose: no texture, nothing to drop. `wording` makes the result
    casual. The same caption and seed give the same triplet everywhere.
    """

    def __init__(self, odds: Mapping[str, Mapping[str, Odds]] = PROBABILITIES) -> None:
        self.odds = odds

    def degrade(self, caption: Caption, seed: int) -> Triplet:
        """The triplet of a caption with its scene, or of an edit's annotation.

        Raises:
            RejectedError: for a caption without a scene graph, or one whose quoted words are not its scene's.
        """
        if caption.kind == "edit":
            return summarise(caption, seed)
        if caption.scene is None:
            raise RejectedError("it has no scene graph: rules need one, take an endpoint for captions from elsewhere")
        scene, rng = caption.scene, generator(seed, STREAM)
        words = [scene.sign.word] if scene.sign else []
        if quoted(caption.text) != words:
            raise RejectedError(f"its quoted words are {quoted(caption.text)}, those of its scene are {words}")
        category = category_of(scene)
        draft = Draft(scene, caption.text, rng)
        steps: list[Step] = []
        split = split_of(scene) or "train"
        for strategy, odds in self.odds[category].items():
            draw = rng.random()
            blur = odds.drop <= draw < odds.drop + odds.blur
            if draw < odds.drop + odds.blur and (thought := draft.lose(strategy, blur)):
                steps.append(Step(strategy=strategy, probability=odds.blur if blur else odds.drop, thought=thought))
        short = draft.text(rng, split)
        assert not lost_words(caption.text, short)
        first = f"{category}: {draft.asked([step.strategy for step in steps])}."
        return Triplet(
            short=short,
            reasoning=" ".join([first, *(step.thought for step in reversed(steps))]),
            rich=caption.text,
            category=category,
            wh_ratio=shape(scene.width, scene.height),
            steps=tuple(steps),
            seed=seed,
            facts=draft.facts,
            states_background=draft.background_stated,
        )


class Draft:
    """A scene on its way to a short prompt: what is still said of it, and how."""

    def __init__(self, scene: Scene, rich: str, rng: np.random.Generator) -> None:
        self.scene, self.facts, self.rng = scene, scene, rng
        background = scene.background
        self.style = next((style for opening, style in wording.STYLES.items() if rich.startswith(opening)), "")
        self.size = len(scene.objects) == 1 and scene.sign is None
        stated, self._vague_background, self._background = wording.background_phrase(background, rng)
        texture = wording.TEXTURES.get(background.texture)
        light = wording.LIGHTS.get(background.light)
        self.phrases = {
            "background": stated,
            "texture": texture[0] if texture else "",
            "light": light[0] if light else "",
        }
        self._vague = {"texture": texture[1] if texture else "", "light": light[1] if light else ""}
        sign = scene.sign
        self.sign = ""
        if sign is not None:
            self.sign = f'{with_article(f"{sign.board} sign")} with "{sign.word}" in {sign.ink} {sign.font} letters'
        self.laid_out, self.left_open, self.casual, self._reading = True, "", False, ""
        self.background_stated = True
        self.turned = _turned(scene, rich)

    def lose(self, strategy: str, blur: bool) -> str:
        """Drop or blur what the strategy is about; returns the thought that undoes it, empty if nothing was there."""
        return getattr(self, f"_lose_{strategy}")(blur)

    def text(self, rng: np.random.Generator, split: Split) -> str:
        """The short prompt."""
        if not self.scene.objects:
            clause = ""
        elif self.left_open:
            clause = f"{wording.names(self.facts)[0]} and {self.left_open}"
        elif self.laid_out:
            clause, self._reading = wording.arranged(self.scene, rng, sized=self.size, turned=self.turned)
        else:
            clause, self._reading = wording.pair_colloquial(wording.names(self.scene), rng)
        if self.scene.sign is not None:
            clause = wording.with_sign(clause, self.scene.sign, self.sign)
        clause = f"{self.style} of {clause}" if self.style else clause
        behind = [self.phrases[key] for key in ("background", "texture", "light") if self.phrases[key]]
        joint = ", " if len(behind) > 1 or "," in clause or " and " in clause else " "
        text = joint.join([clause, ", ".join(behind)]) if behind else clause
        return wording.casual(text, rng, split) if self.casual else text

    def asked(self, lost: Collection[str]) -> str:
        """What `text` has said, always in the same words and order, so that the rest builds on one reading."""
        scene = self.scene
        said = [f'the word "{scene.sign.word}"'] if scene.sign else []
        if scene.sign and scene.objects:
            said[0] += f" {'above' if scene.sign.place == 'top' else 'below'}"
        if scene.objects:
            said.append(self._reading or wording.listed(wording.names(self.facts)))
        if self.size:
            said.append(size_word(scene.objects[0].size))
        said += [text for key, text in {**self.phrases, "style": self.style}.items() if text and key not in lost]
        return "; ".join(said)

    def _lose_layout(self, blur: bool) -> str:
        if not self.scene.objects or (len(self.scene.objects) == 1 and self.scene.objects[0].place == "center"):
            return ""
        self.laid_out, self.size = False, False
        self.facts = replace(self.facts, relations=())
        return f"Layout: {wording.meaning(self.scene, self.turned)}."

    def _lose_secondary(self, blur: bool) -> str:
        if len(self.scene.objects) != 2 or self.scene.sign is not None:
            return ""
        self.left_open = pick(self.rng, wording.LEFT_OPEN)
        self.facts = replace(self.facts, objects=self.scene.objects[:1], relations=())
        return f"Open thing: {wording.meaning(self.scene, self.turned)}."

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

    def _lose_background(self, blur: bool) -> str:
        if self.scene.background.kind == "transparent":  # whoever wants a sticker says so
            return ""
        self.background_stated = False
        self.phrases["background"] = self._vague_background if blur else ""
        return f"Background: {self._background}."

    def _lose_texture(self, blur: bool) -> str:
        return self._lose_phrase("texture", blur)

    def _lose_light(self, blur: bool) -> str:
        return self._lose_phrase("light", blur)

    def _lose_phrase(self, key: str, blur: bool) -> str:
        phrase = self.phrases[key]
        if phrase:
            self.phrases[key] = self._vague[key] if blur else ""
        return f"{key.capitalize()}: {phrase}." if phrase else ""

    def _lose_style(self, blur: bool) -> str:
        style = self.style
        self.style = pick(self.rng, wording.STYLE_WORDS[style]) if blur and style else ""
        return f"Style: {style}." if style else ""

    def _lose_wording(self, blur: bool) -> str:
        self.casual = True
        return "Say it plainly."


def _turned(scene: Scene, rich: str) -> bool:
    """Whether the caption names the last thing before the first: what is taken apart keeps its order."""
    if len(scene.objects) < 2:
        return False
    ends = (re.search(rf"\b{re.escape(scene.objects[end].title)}\b", rich) for end in (0, -1))
    first, last = (match.start() if match else 0 for match in ends)
    return last < first


def summarise(caption: Caption, seed: int) -> Triplet:
    """An edit's annotation in short: its first sentence, and those that quote words to draw."""
    sentences = re.split(r"(?<=[.!?])\s+(?=[^\s\"])", caption.text.strip())
    kept = [s for index, s in enumerate(sentences) if index == 0 or quoted(s)]
    short = " ".join(kept).rstrip(".")
    if not short:
        raise RejectedError("it is empty")
    steps: tuple[Step, ...] = ()
    if len(kept) < len(sentences):
        steps = (Step(strategy="summary", probability=1.0, thought="Say in full what changes and what stays."),)
    return Triplet(
        short=short,
        reasoning=" ".join(["Edit.", *(step.thought for step in steps)]),
        rich=caption.text,
        category="General",
        kind="edit",
        wh_ratio=shape(caption.width, caption.height),
        steps=steps,
        seed=seed,
    )


def shape(width: int | None, height: int | None) -> str:
    """`16:9` from pixels; `1:1` where they are unknown."""
    if not width or not height:
        return "1:1"
    divisor = gcd(width, height)
    return f"{width // divisor}:{height // divisor}"
