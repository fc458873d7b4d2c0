"""Measures rewrites: by their text, and by the pictures that a frozen generator draws of them."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fourstroke.enhance import protocol
from fourstroke.enhance.checks import Lexicon, lost_words
from fourstroke.enhance.degrade import WorldEngine
from fourstroke.enhance.enhancer import EnhancerConfig, LocalModel
from fourstroke.enhance.rewards import consistency, language, richness
from fourstroke.enhance.triplet import Caption, Triplet
from fourstroke.evaluate.statistics import Share, share
from fourstroke.flow.sampler import seeded_noise
from fourstroke.pipeline import Pipeline
from fourstroke.ranges import Fraction, check_ranges
from fourstroke.text import PromptTooLong
from fourstroke.world import BACKGROUND_COLOURS, SHAPE_COLOURS, SHAPES, World, WorldConfig
from fourstroke.world.graph import Split
from fourstroke.world.judging.judge import Judge
from fourstroke.world.palette import BOARD_COLOURS


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How often the captions that an enhancer learns from have what the world has more seldom.

    Rich captions should be rich, so textures and lights are frequent; words are there even where the generator cannot
    draw them, because an enhancer must keep them.
    """

    words: Fraction = 0.1
    textures: Fraction = 0.6
    lights: Fraction = 0.6

    def __post_init__(self) -> None:
        check_ranges(self)

    def of(self, world: WorldConfig) -> World:
        """The world with these shares."""
        return World(replace(world, words=self.words, textures=self.textures, lights=self.lights))


def world_triplets(world: World, count: int, split: Split = "train", first: int = 0) -> list[Triplet]:
    """The triplets of the seeds `first` … of a world's split."""
    engine, found = WorldEngine(), []
    for seed in range(first, first + count):
        scene = world.scene(seed, split)
        found.append(engine.degrade(Caption(text=world.caption(scene, rich=True, seed=seed), scene=scene), seed))
    return found


def lexicon_of(world: World) -> Lexicon:
    """All that a world can draw, and its colours."""
    things = (*world.sprites, *(SHAPES if world.config.shapes else ()))
    return Lexicon(things, tuple({*SHAPE_COLOURS, *BACKGROUND_COLOURS, *BOARD_COLOURS}))


def answers(
    model: LocalModel,
    requests: Sequence[str],
    system_prompt: str,
    config: EnhancerConfig,
    *,
    seed: int = 0,
    batch: int = 32,
) -> list[str]:
    """The raw turns of a model on many requests, in batches; greedy ones are those of one request at a time.

    Nobody waits for them, so `max_seconds` is not looked at.
    """
    config = replace(config, max_seconds=sys.float_info.max)
    found: list[str] = []
    for start in range(0, len(requests), batch):
        conversations = [protocol.messages(request, system_prompt) for request in requests[start : start + batch]]
        found += model.complete_many(conversations, config, seed + start)
    return found


def rewrites(turns: Sequence[str]) -> list[str | None]:
    """What each turn rewrote; None where it holds no answer."""
    found: list[str | None] = []
    for turn in turns:
        try:
            found.append(protocol.parse_answer(turn).prompt)
        except protocol.AnswerError:
            found.append(None)
    return found


def text_scores(requests: Sequence[str], given: Sequence[str | None], lexicon: Lexicon) -> dict[str, Share | None]:
    """Shares of requests: valid JSON; quoted words, language, things, places kept; nothing invented. Invalid: lost."""
    pairs = list(zip(requests, given, strict=True))
    hits = {
        "valid": [text is not None for _, text in pairs],
        "words_kept": [text is not None and not lost_words(r, text) for r, text in pairs],
        "language_kept": [text is not None and language(r, text) == 1 for r, text in pairs],
        "things_kept": [text is not None and not lexicon.lost(r, text) for r, text in pairs],
        "places_kept": [text is not None and not lexicon.moved(r, text) for r, text in pairs],
        "nothing_invented": [text is not None and not lexicon.invented(r, text) for r, text in pairs],
    }
    return {name: share([float(hit) for hit in row], [1] * len(row)) for name, row in hits.items()}


class Studio:
    """The frozen generator with the judge of pixels: captions to pictures to scores. Weights take no gradient."""

    def __init__(self, pipe: Pipeline, world: WorldConfig, batch: int = 16) -> None:
        for part in (pipe.transformer, pipe.autoencoder, pipe.text_encoder):
            part.eval().requires_grad_(False)
        self.pipe, self.world, self.batch, self.judge = pipe, world, batch, Judge(world)

    def draw(self, captions: Sequence[str], seeds: Sequence[int]) -> list[np.ndarray]:
        """A picture (H, W, 3) uint8 for each caption from the noise of its seed; one too long to draw is black."""
        width, height = self.world.width, self.world.height
        pictures = [np.zeros((height, width, 3), np.uint8) for _ in captions]
        fitting = [index for index, caption in enumerate(captions) if caption.strip() and self._fits(caption)]
        tokens, channels = math.prod(self.pipe.info.grid(width, height)), self.pipe.transformer.config.in_channels
        for start in range(0, len(fitting), self.batch):
            part = fitting[start : start + self.batch]
            noise = seeded_noise([seeds[index] for index in part], tokens, channels)
            out = self.pipe([captions[index] for index in part], width=width, height=height, latents=noise, seed=0)
            for index, image in zip(part, out.images, strict=True):
                pictures[index] = np.asarray(image)
        return pictures

    def scores(self, picture: np.ndarray, triplet: Triplet) -> tuple[float, float]:
        """(consistency with the short prompt's facts, richness) of a picture."""
        if triplet.facts is None:
            raise ValueError("this triplet has no facts to judge by; name an endpoint with a model that sees")
        facts = replace(triplet.facts, sign=None) if not self.world.words else triplet.facts
        return consistency(self.judge.verdict(picture, facts), triplet.states_background), richness(picture)

    def _fits(self, caption: str) -> bool:
        try:
            self.pipe.text_encoder.tokenize([caption])
        except (PromptTooLong, ValueError):
            return False
        return True
