"""The procedural world: scenes from seeds, each with a picture, captions and the graph that makes both checkable.

The reports train on photographs that cannot be shipped; this world stands in for them. Its captions follow the
Qwen-Image-2.0 report: rich ones state objects, places, relations, colours, texture, light and style and quote the
words, in the report's four categories (General, Portrait, Text, Complex Text). Scenes and wordings are our own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fourstroke.chance import generator, pick, pick_weighted
from fourstroke.ranges import Count, Fraction, Natural, NonNegative, check_ranges
from fourstroke.world.atlas import STYLES, choose_things, styles_of
from fourstroke.world.caption import describe_richly, describe_shortly
from fourstroke.world.captions import LANGUAGES, Language, Wordings, caption_of
from fourstroke.world.compose import (
    arrange,
    arrange_beside_sign,
    build_scene,
    draw_background,
    draw_sign,
    draw_titles,
)
from fourstroke.world.drawing import draw_scene
from fourstroke.world.graph import Background, Scene, Split, split_of
from fourstroke.world.render import render_scene
from fourstroke.world.sprites import choose_sprites
from fourstroke.world.words import SIGN_FONTS, WORDS, choose_words

SCENE_STREAM, CAPTION_STREAM, SHORT_STREAM, LANGUAGE_STREAM = 0, 1, 2, 4
MAX_DRAWS = 10_000
SCENES = 2
"""Raised whenever seeds give other scenes than before: what was made of the old ones is not mixed with new ones."""


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """What the world contains. Shares and weights lie in [0, 1]; the defaults are the first edition's."""

    width: Count = 96
    height: Count = 96
    sprites: int | tuple[str, ...] = 18
    """How many of the ordered sprites, or their names."""
    shapes: bool = True
    shape_share: Fraction = 0.3
    """Share of objects that are shapes, where there are shapes."""
    count_weights: tuple[NonNegative, ...] = (0.45, 0.45, 0.1)
    """How often there are one, two and three objects."""
    centred: Fraction = 0.5
    """Share of lone objects that stand in the centre."""
    backgrounds: tuple[NonNegative, ...] = (0.5, 0.25, 0.25)
    """How often the background is flat, a gradient, or a wall above a floor."""
    words: Fraction = 0.0
    """Share of scenes with a sign that bears one word."""
    max_word_length: Count = 6
    scripts: tuple[str, ...] = ("latin",)
    textures: Fraction = 0.3
    """Share of backgrounds with a texture."""
    lights: Fraction = 0.3
    """Share of scenes in another light than an even one."""
    transparent: Fraction = 0.0
    """Share of stickers, on a transparent background."""
    things: int | tuple[str, ...] = 0
    """The second edition: how many of the ordered `THINGS`, or names from the atlas, instead of the sprites.

    The fields below are the second edition's.
    """
    styles: tuple[NonNegative, ...] = (1.0, 0.0, 0.0, 0.0)
    """How often the things are flat, glossy 3D, clip-art and rendered."""
    mixed_styles: Fraction = 0.0
    """Share of scenes in which each thing has a style of its own."""
    groups: Fraction = 0.0
    """Share of scenes (of one or two things) in which one is there two to four times."""
    sizes: Fraction = 0.0
    """Share of scenes (without groups and signs) that captions call things small, medium-sized or large in."""
    overlaps: Fraction = 0.0
    """Share of scenes of two things (without groups and signs) in which one stands in front of the other."""
    unstated: Fraction = 0.0
    """Share of scenes of two and three things whose captions state no relation."""
    in_order: Fraction = 0.0
    """Share of those whose captions name things from left to right and from top to bottom, as people do; else by
    chance. Which of two things stands where is then no matter of chance: a model that has to choose for each place
    alone draws one of them twice.
    """
    soft_edges: Fraction = 0.0
    """Share of stickers with soft edges."""
    languages: tuple[NonNegative, ...] = (1.0, 0.0, 0.0, 0.0)
    """How often short captions are English, Spanish, Russian and Chinese."""
    spelled: Fraction = 0.0
    """Share of the signs of training scenes that bear letters by chance instead of a word: they have to be read."""
    capitals: Fraction = 0.0
    """Share of the signs that stand in capitals, where their script has some."""
    characters: Natural = 0
    """How many letters of each script signs are written in, the most frequent of its words; 0 are all."""
    sign_fonts: tuple[str, ...] = ()
    """Fonts of signs, as captions say them; none are all, and a script that has none of them takes all of its own."""
    snap: Natural = 0
    """Pixels of which things' places and sizes are multiples; signs then have letters of few sizes (`world.snap`)."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not 1 <= len(self.count_weights) <= 3 or sum(self.count_weights) <= 0:
            raise ValueError(f"count_weights={self.count_weights}: give one to three weights >= 0, not all zero")
        if len(self.backgrounds) != 3 or sum(self.backgrounds) <= 0:
            raise ValueError(f"backgrounds={self.backgrounds}: give three weights (flat, gradient, horizon)")
        if min(self.width, self.height) < 32:
            raise ValueError(f"{self.width}x{self.height}: pictures need at least 32 pixels a side")
        unknown = set(self.scripts) - set(WORDS)
        if unknown or not self.scripts:
            raise ValueError(f"scripts={self.scripts}: choose from {', '.join(WORDS)}")
        if not self.things:
            changed = [name for name in SECOND_EDITION if getattr(self, name) != getattr(WorldConfig, name)]
            if changed:
                raise ValueError(f"{', '.join(changed)}: only the second edition has these; set things as well")
        for name, kinds in (("styles", STYLES), ("languages", LANGUAGES)):
            weights = getattr(self, name)
            if len(weights) != len(kinds) or sum(weights) <= 0:
                raise ValueError(f"{name}={weights}: give {len(kinds)} weights ({', '.join(kinds)}), not all zero")
        fonts = {font for script in self.scripts for font in SIGN_FONTS[script]}
        if strange := set(self.sign_fonts) - fonts:
            raise ValueError(f"sign_fonts: {', '.join(sorted(strange))} is not among {', '.join(sorted(fonts))}")
        names = choose_names(self)
        least = 1 if self.shapes else len(self.count_weights)
        for style, weight in zip(STYLES, self.styles, strict=True):
            if self.things and weight and len(names_of_style(names, style)) < least:
                raise ValueError(f"things={self.things}: too few of them have pictures in style {style}")
        if not names and not self.shapes:
            raise ValueError("no sprites and no shapes leave nothing to draw")
        if not self.shapes and len(names) < len(self.count_weights):
            raise ValueError(f"{len(names)} sprites cannot fill scenes of {len(self.count_weights)} different objects")


SECOND_EDITION = (
    "styles",
    "snap",
    "mixed_styles",
    "groups",
    "sizes",
    "overlaps",
    "unstated",
    "in_order",
    "soft_edges",
    "languages",
    "spelled",
    "capitals",
    "characters",
    "sign_fonts",
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A picture with all that is known about it."""

    image: np.ndarray
    """(height, width, 4) uint8, straight alpha."""
    scene: Scene
    short: str
    """A short caption of the same scene."""
    rich: str
    """A rich caption of the same scene."""


class World:
    """Scenes, pictures and captions from seeds; the same seed gives the same sample on every machine."""

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.sprites = choose_names(config)
        """Names of the things that there can be."""
        self.by_style = {style: names_of_style(self.sprites, style) for style in STYLES}
        self.shape_share = 0.0 if not config.shapes else 1.0 if not self.sprites else config.shape_share

    def scene(self, seed: int, split: Split = "train") -> Scene:
        """The scene of a seed (>= 0). Held-out scenes show combinations and words that no training scene shows."""
        if split not in ("train", "heldout"):
            raise ValueError(f"split={split!r}: choose 'train' or 'heldout'")
        rng = generator(seed, SCENE_STREAM)
        for _ in range(MAX_DRAWS):
            scene = self._draw(rng, split)
            if scene is not None and split_of(scene) == split:
                return scene
        raise ValueError(f"found no {split} scene in {MAX_DRAWS} draws: the configuration leaves too few combinations")

    def render(self, scene: Scene) -> np.ndarray:
        """The picture of a scene, (height, width, 4) uint8 with straight alpha."""
        return render_scene(scene)

    def caption(
        self, scene: Scene, rich: bool, seed: int, wordings: Wordings = "trained", language: Language | None = None
    ) -> str:
        """A true description of the scene, several sentences if ``rich``, else a clause or a wish; worded by ``seed``.

        Of the second edition, captions for training use the ``trained`` wordings only, and none of the ``heldout``;
        short ones are in the seed's language unless one is given.
        """
        rng = generator(seed, CAPTION_STREAM if rich else SHORT_STREAM)
        if self.config.things:
            return caption_of(scene, rng, language or ("en" if rich else self.language(seed)), rich, wordings)
        if wordings != "trained" or language not in (None, "en"):
            raise ValueError("the first edition has no held-out wordings and only English; set things for the second")
        return describe_richly(scene, rng) if rich else describe_shortly(scene, rng)

    def language(self, seed: int) -> Language:
        """The language of a seed's short caption; rich ones are English."""
        return pick_weighted(generator(seed, LANGUAGE_STREAM), LANGUAGES, self.config.languages)

    def sample(self, seed: int, split: Split = "train", wordings: Wordings = "trained") -> Sample:
        """Scene, picture and captions of a seed."""
        scene = self.scene(seed, split)
        short, rich = (self.caption(scene, kind, seed, wordings) for kind in (False, True))
        return Sample(image=self.render(scene), scene=scene, short=short, rich=rich)

    def _draw(self, rng: np.random.Generator, split: Split) -> Scene | None:
        config = self.config
        if config.things:
            return draw_scene(rng, config, self.by_style, self.shape_share, split)
        background = draw_background(rng, config.backgrounds, config.textures, config.lights)
        if rng.random() < config.transparent:
            background = Background(kind="transparent")
        if rng.random() < config.words:
            return self._draw_with_sign(rng, split, background)
        count = pick_weighted(rng, range(1, len(config.count_weights) + 1), config.count_weights)
        titles = draw_titles(rng, count, self.sprites, self.shape_share, background)
        arrangement = arrange(rng, count, config.centred)
        return build_scene(config.width, config.height, background, titles, arrangement, None)

    def _draw_with_sign(self, rng: np.random.Generator, split: Split, background: Background) -> Scene:
        config = self.config
        script = pick(rng, config.scripts)
        word = pick(rng, choose_words(script, split, config.max_word_length))
        count = pick_weighted(rng, (0, 1, 2), (0.3, *(*config.count_weights, 0.0)[:2]))
        place = pick(rng, ("top", "bottom")) if count else "center"
        sign = draw_sign(rng, word, script, place)
        titles = draw_titles(rng, count, self.sprites, self.shape_share, background)
        arrangement = arrange_beside_sign(rng, count, place) if count else None
        return build_scene(config.width, config.height, background, titles, arrangement, sign)


def choose_names(config: WorldConfig) -> tuple[str, ...]:
    """What there can be besides shapes: the things of the second edition, or the sprites of the first."""
    return choose_things(config.things) if config.things else choose_sprites(config.sprites)


def names_of_style(names: tuple[str, ...], style: str) -> tuple[str, ...]:
    """Those of the names that have a picture in the style."""
    return tuple(name for name in names if style in styles_of(name))
