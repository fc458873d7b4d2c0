"""The procedural world: scenes from seeds, each with a picture, captions and the graph that makes both checkable.

The reports train on photographs that cannot be shipped; this world stands in for them. Its captions follow the
Qwen-Image-2.0 report: rich ones state objects, places, relations, colours, texture, light and style and quote the
words, in the report's four categories (General, Portrait, Text, Complex Text). Scenes and wordings are our own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fourstroke.ranges import Count, Fraction, NonNegative, check_ranges
from fourstroke.world.caption import describe_richly, describe_shortly
from fourstroke.world.chance import generator, pick, pick_weighted
from fourstroke.world.compose import (
    arrange,
    arrange_beside_sign,
    build_scene,
    draw_background,
    draw_sign,
    draw_titles,
)
from fourstroke.world.graph import Background, Scene, Split, split_of
from fourstroke.world.render import render_scene
from fourstroke.world.sprites import choose_sprites
from fourstroke.world.words import WORDS, choose_words

SCENE_STREAM, CAPTION_STREAM, SHORT_STREAM = 0, 1, 2
MAX_DRAWS = 10_000
SCENES = 2
"""Raised whenever seeds give other scenes than before: what was made of the old ones is not mixed with new ones."""


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """What the world contains. Shares and weights lie in [0, 1]; the defaults are those of the micro family."""

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
        names = choose_sprites(self.sprites)
        if not names and not self.shapes:
            raise ValueError("sprites=0 and shapes=False leave nothing to draw")
        if not self.shapes and len(names) < len(self.count_weights):
            raise ValueError(f"{len(names)} sprites cannot fill scenes of {len(self.count_weights)} different objects")


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
        self.sprites = choose_sprites(config.sprites)
        self.shape_share = 0.0 if not config.shapes else 1.0 if not self.sprites else config.shape_share

    def scene(self, seed: int, split: Split = "train") -> Scene:
        """The scene of a seed (>= 0). Held-out scenes show combinations and words that no training scene shows."""
        if split not in ("train", "heldout"):
            raise ValueError(f"split={split!r}: choose 'train' or 'heldout'")
        rng = generator(seed, SCENE_STREAM)
        for _ in range(MAX_DRAWS):
            scene = self._draw(rng, split)
            if split_of(scene) == split:
                return scene
        raise ValueError(f"found no {split} scene in {MAX_DRAWS} draws: the configuration leaves too few combinations")

    def render(self, scene: Scene) -> np.ndarray:
        """The picture of a scene, (height, width, 4) uint8 with straight alpha."""
        return render_scene(scene)

    def caption(self, scene: Scene, rich: bool, seed: int) -> str:
        """A true description of the scene, 25 words and more if ``rich``, else at most about 20; worded by ``seed``."""
        rng = generator(seed, CAPTION_STREAM if rich else SHORT_STREAM)
        return describe_richly(scene, rng) if rich else describe_shortly(scene, rng)

    def sample(self, seed: int, split: Split = "train") -> Sample:
        """Scene, picture and captions of a seed."""
        scene = self.scene(seed, split)
        short, rich = (self.caption(scene, rich=kind, seed=seed) for kind in (False, True))
        return Sample(image=self.render(scene), scene=scene, short=short, rich=rich)

    def _draw(self, rng: np.random.Generator, split: Split) -> Scene:
        config = self.config
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
