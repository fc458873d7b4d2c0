"""Pages from seeds: each with its picture, its captions, and the graph that makes both checkable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fourstroke.chance import generator, pick_weighted
from fourstroke.ranges import Count, Natural, NonNegative, check_ranges
from fourstroke.world.atlas import STYLES
from fourstroke.world.graph import Split
from fourstroke.world.pages.caption import describe_page_shortly
from fourstroke.world.pages.cards import compose_menu, compose_sign, compose_ticket
from fourstroke.world.pages.draft import Draft
from fourstroke.world.pages.graph import KINDS, Page, PageKind, split_of_page, word_count
from fourstroke.world.pages.lattice import compose_poster_on_lattice
from fourstroke.world.pages.layouts import compose_infographic, compose_poster, compose_slide
from fourstroke.world.pages.render import render_page
from fourstroke.world.pages.rich import describe_page_richly
from fourstroke.world.pages.type import CrowdedError, check_script
from fourstroke.world.snap import LATENT, PITCHES

PAGES_STREAM, CAPTION_STREAM = 40, 41
MAX_DRAWS = 400
COMPOSERS: dict[PageKind, Callable[[Draft], None]] = {
    "poster": compose_poster,
    "slide": compose_slide,
    "infographic": compose_infographic,
    "menu": compose_menu,
    "ticket": compose_ticket,
    "sign": compose_sign,
}
RANGES: dict[PageKind, tuple[int, int]] = {
    "poster": (1, 12),
    "slide": (4, 34),
    "infographic": (7, 26),
    "menu": (6, 22),
    "ticket": (4, 11),
    "sign": (1, 11),
}
"""Fewest words without which a kind makes no sense, and the most that its layouts come to."""


@dataclass(frozen=True, kw_only=True)
class PageConfig:
    """What pages there are. Weights need not sum to one; a kind or script of weight 0 never comes."""

    width: Count = 128
    height: Count = 128
    kinds: tuple[NonNegative, ...] = (0.3, 0.15, 0.15, 0.12, 0.13, 0.15)
    """Weights of posters, slides, infographics, menus, tickets and signs."""
    scripts: tuple[str, ...] = ("latin",)
    script_weights: tuple[NonNegative, ...] | None = None
    """One for each script; None for equal ones."""
    words: tuple[Count, Count] = (1, 40)
    """Fewest and most words and numbers; `words_that_fit` bounds them too."""
    styles: tuple[str, ...] = STYLES
    """Of the pictures."""
    things: Natural = 0
    """How many of the ordered `THINGS` pictures show; 0 are all."""
    snap: Literal[0, 16] = 0
    """Pixels of a lattice for posters: a picture in a square, letters of one width (`pages.lattice`); 0 is none."""
    few_colours: bool = False
    """Paper and ink in six pairs, as boards of signs have them, in place of some sixty."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if len(self.kinds) != len(KINDS) or sum(self.kinds) <= 0:
            raise ValueError(f"kinds={self.kinds}: give six weights, not all zero, for {', '.join(KINDS)}")
        if min(self.width, self.height) < 64 or max(self.width, self.height) > 2 * min(self.width, self.height):
            raise ValueError(f"{self.width}x{self.height}: pages need 64 pixels a side and a ratio from 1:2 to 2:1")
        if not self.scripts or (self.script_weights is not None and len(self.script_weights) != len(self.scripts)):
            raise ValueError(f"scripts={self.scripts}: name one or more, with one weight each in script_weights")
        if self.script_weights is not None and sum(self.script_weights) <= 0:
            raise ValueError(f"script_weights={self.script_weights}: they must not all be zero")
        if self.snap and (set(self.scripts) - set(PITCHES) or self.width % LATENT or self.height % LATENT):
            raise ValueError(f"snap={self.snap}: sides are multiples of {LATENT}, scripts of {', '.join(PITCHES)}")
        for script in self.scripts:
            check_script(script)
        if not self.styles or not set(self.styles) <= set(STYLES):
            raise ValueError(f"styles={self.styles}: choose from {', '.join(STYLES)}")
        if len(self.words) != 2 or self.words[0] > min(self.words[1], words_that_fit(self.width, self.height)):
            most = words_that_fit(self.width, self.height)
            raise ValueError(f"words={self.words}: give the fewest and the most; {most} fit {self.width}x{self.height}")


class Pages:
    """Pages, pictures and captions from seeds; the same seed gives the same page on every machine."""

    def __init__(self, config: PageConfig) -> None:
        self.config = config

    def page(self, seed: int, split: Split = "train") -> Page:
        """The page of a seed (>= 0); held-out pages show words that no training page shows."""
        if split not in ("train", "heldout"):
            raise ValueError(f"split={split!r}: choose 'train' or 'heldout'")
        config, rng = self.config, generator(seed, PAGES_STREAM)
        fewest, most = config.words[0], min(config.words[1], words_that_fit(config.width, config.height))
        able = [
            weight if RANGES[kind][0] <= most and fewest <= RANGES[kind][1] else 0.0
            for kind, weight in zip(KINDS, config.kinds, strict=True)
        ]
        if sum(able) <= 0:
            raise ValueError(
                f"no page of the asked kinds has {fewest} to {most} words on {config.width}x{config.height}"
            )
        kind = pick_weighted(rng, KINDS, able)
        script = pick_weighted(rng, config.scripts, config.script_weights or [1.0] * len(config.scripts))
        low = min(
            most, max(fewest, round(RANGES[kind][0] * max(1.0, 0.05 * words_that_fit(config.width, config.height))))
        )
        wanted = low + int(rng.random() * (most - low + 1))
        for attempt in range(MAX_DRAWS):
            words = low + (wanted - low - attempt // 6) % (most - low + 1)  # fewer and fewer, then from the most on
            size, few = (config.width, config.height), config.few_colours
            draft = Draft(rng, kind, size, script, split, words, config.styles, config.things, few)
            try:
                compose = compose_poster_on_lattice if config.snap and kind == "poster" else COMPOSERS[kind]
                compose(draft)
            except CrowdedError:
                continue
            page = draft.done()
            if fewest <= word_count(page) <= most and split_of_page(page) == split:
                return page
        raise ValueError(
            f"found no {split} {kind} in {script} with {fewest} to {most} words on {config.width}x{config.height} "
            f"in {MAX_DRAWS} draws: allow fewer words, a larger page or other kinds"
        )

    def render(self, page: Page) -> np.ndarray:
        """The picture of a page, (height, width, 4) uint8, opaque."""
        return render_page(page)

    def caption(self, page: Page, rich: bool, seed: int, language: str = "en", wordings: Split = "train") -> str:
        """A true description of the page, worded by ``seed``; rich ones are English."""
        rng = generator(seed, CAPTION_STREAM, int(rich))
        if rich:
            return describe_page_richly(page, rng, wordings)
        return describe_page_shortly(page, rng, language, wordings)


def words_that_fit(width: int, height: int) -> int:
    """Most words on a page: 8 at 128 pixels, 16 at 192, 40 at 256 and above."""
    return round(float(np.interp((width * height) ** 0.5, (64, 128, 192, 256), (2, 8, 16, 40))))
