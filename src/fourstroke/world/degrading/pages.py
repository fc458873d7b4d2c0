"""A page on its way to a short prompt: all of its words stay.

Their places, letters, paper and ornaments may go, and so may its picture: who wants a poster often leaves open what it
shows.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from fourstroke.chance import pick
from fourstroke.enhance.degrade import PROBABILITIES, Odds
from fourstroke.world import short_prompts
from fourstroke.world.caption import with_article
from fourstroke.world.graph import Split
from fourstroke.world.pages.caption import STYLE_WORDS, chart_noun, listed, quote
from fourstroke.world.pages.graph import Page, Picture, text_of
from fourstroke.world.pages.telling import decorations, paper_words, picture_place, place_words
from fourstroke.world.pages.wordings import ENGLISH, FIELD, wordings_for

SAYING = ("that says", "saying", "with the words", "that reads")
OPEN = {"layout": Odds(drop=0.7), "secondary": Odds(drop=0.35), "texture": Odds(drop=0.9)}
PAGE_PROBABILITIES = {category: {**odds, **OPEN} for category, odds in PROBABILITIES.items()}
"""Odds of pages: people seldom say where a text stands or what frames it."""


class PageDraft:
    """What is still said of a page, and how; see `caption_rules.SceneDegrader`."""

    def __init__(self, page: Page, rich: str, rng: np.random.Generator) -> None:
        self.page, self.rng = page, rng
        self.texts = sorted((quote(text_of(block)) for block in page.blocks), key=rich.find)
        title = page.lines[0]
        ornaments = " ".join(decorations(page)).rstrip(".")
        self.phrases = {
            "typography": f"in {title.ink} {title.font} letters",
            "background": f"on {paper_words(page)}",
            "texture": f"with this: {ornaments[0].lower()}{ornaments[1:]}" if ornaments else "",
        }
        self.pictures = page.pictures
        self.styled, self.placed, self.casual = True, True, False

    def lose(self, strategy: str, blur: bool) -> str:
        """Drop what the strategy is about; returns the thought that undoes it, empty if nothing was there."""
        if strategy == "layout":
            self.placed = False
            return f"Layout: {self._layout()}."
        if strategy == "secondary" and self.page.pictures:
            thought = f"Picture: {listed([_styled(picture) for picture in self.pictures])}."
            self.pictures = ()
            return thought
        if strategy == "style" and self.pictures:
            self.styled = False
            return f"Style: {STYLE_WORDS[self.pictures[0].style]}."
        if strategy == "wording":
            self.casual = True
            return "Say it plainly."
        if not (phrase := self.phrases.get(strategy)):
            return ""
        self.phrases[strategy] = ""
        name = {"typography": "Letters", "background": "Paper", "texture": "Ornaments"}[strategy]
        return f"{name}: {phrase.split(' ', 2 if strategy == 'texture' else 1)[-1]}."

    def text(self, rng: np.random.Generator, split: Split) -> str:
        """The short prompt."""
        behind = [phrase for phrase in self.phrases.values() if phrase]
        behind += [self._layout()] if self.placed else []
        text = ", ".join([self._clause(rng, split), *behind])
        return short_prompts.casual(text, rng, split) if self.casual else text

    def asked(self, lost: Collection[str]) -> str:
        """What `text` has said, always in the same words and order."""
        said = [with_article(self.page.kind), *self.texts, *self._shown()]
        said += [text for key, text in self.phrases.items() if text and key not in lost]
        return "; ".join(said)

    def _clause(self, rng: np.random.Generator, split: Split) -> str:
        """The page with its words and what it shows, often as short captions word it that say no more."""
        kind, shown = self.page.kind, self._shown()
        facts = {"title": self.texts[0]}
        facts |= {"rest": listed(self.texts[1:])} if self.texts[1:] else {}
        facts |= {"thing": listed(shown)} if shown else {}
        known = [
            wording
            for wording in wordings_for(ENGLISH[kind], facts, split)
            if set(FIELD.findall(wording)) == facts.keys()
            and kind in wording
            and "paper" not in wording
            and wording.startswith(("a ", "{", kind))
        ]
        if known and rng.random() < 0.6:
            return pick(rng, known).format(**facts)
        clause = f"{with_article(kind)} {pick(rng, SAYING)} {listed(self.texts)}"
        return f"{clause} with {listed(shown)}" if shown else clause

    def _shown(self) -> list[str]:
        pictures = [_styled(picture) if self.styled else with_article(picture.name) for picture in self.pictures]
        return pictures + [with_article(chart_noun(chart)) for chart in self.page.charts]

    def _layout(self) -> str:
        """Where the title and what is shown stand."""
        parts = [f"the title {place_words(self.page.lines[0])}"]
        parts += [f"the {picture.name} {picture_place(self.page, picture)}" for picture in self.pictures]
        parts += [f"the {chart_noun(chart)} {place_words(chart)}" for chart in self.page.charts]
        return listed(parts)


def _styled(picture: Picture) -> str:
    return with_article(f"{STYLE_WORDS[picture.style]} {picture.name}")
