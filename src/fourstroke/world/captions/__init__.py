"""Says what scenes of the second edition show, in many wordings, of which some are kept from training."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fourstroke.world.captions import chinese, english, rich_english, russian, spanish
from fourstroke.world.captions.wordings import Wordings
from fourstroke.world.graph import Scene

__all__ = ["LANGUAGES", "Language", "Wordings", "caption_of"]

Language = Literal["en", "es", "ru", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "es", "ru", "zh")
_DESCRIBE = {"en": english.describe, "es": spanish.describe, "ru": russian.describe, "zh": chinese.describe}


def caption_of(scene: Scene, rng: np.random.Generator, language: Language, rich: bool, wordings: Wordings) -> str:
    """One caption: a rich one is English and says all that is drawn.

    A short one always names things with their colours and numbers, what they are to each other where the scene states
    it, sizes that are spoken of, places off the centre, words, a transparent background, and styles that differ; a
    style that all share and another background it may leave out.
    """
    if rich and language != "en":
        raise ValueError(f"rich captions are English, not {language!r}")
    return (rich_english.describe if rich else _DESCRIBE[language])(scene, rng, wordings)
