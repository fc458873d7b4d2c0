"""Chapters of what scenes show: composition, counts, relations, wordings, languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from fourstroke.data.sample import DatasetConfig
from fourstroke.evaluate.report.chapter import ALL, Contrast, LeftOutError, Question, Rows, Unit
from fourstroke.folder import ModelInfo
from fourstroke.world.atlas import STYLES
from fourstroke.world.captions import LANGUAGES
from fourstroke.world.judging.chapters.asking import arm, ask, find_config, second_edition
from fourstroke.world.judging.composition import held_out_prompts
from fourstroke.world.world import World

UNITS: Mapping[str, Unit] = {"words_ned": ""}
SPOKEN = {"en": "English", "es": "Spanish", "ru": "Russian", "zh": "Chinese"}


@dataclass(frozen=True, kw_only=True)
class CompositionChapter:
    """Everything that captions state, of scenes as they come."""

    kind: ClassVar[str] = "composition"
    title: ClassVar[str] = "Composition"
    about: ClassVar[str] = (
        "Held-out combinations, half in short and half in rich captions; a fact counts where the caption states it. "
        "Composition is the share of all objects, colours, relations, styles, counts and, by NED, words. "
        "Rows of a style are scenes whose things are all of it."
    )
    units: ClassVar[Mapping[str, Unit]] = UNITS
    contrasts: ClassVar[Sequence[Contrast]] = ()
    bars: ClassVar[Mapping[str, float]] = {"composition": 0.97}

    def rows(self, data: DatasetConfig, n: int, info: ModelInfo) -> Rows:
        """All, by kind of caption, and by style."""
        config = find_config(data)
        prompts = held_out_prompts(World(config), n)
        pairs = list(zip(prompts, ask(config, prompts, truth=True), strict=True))
        found: dict[str, list[Question]] = {ALL: [question for _, question in pairs]}
        for name, rich in (("short captions", False), ("rich captions", True)):
            found[name] = [question for prompt, question in pairs if prompt.rich == rich]
        for style in STYLES if config.things else ():
            styles = [{o.style for o in p.scene.objects if o.kind == "sprite"} for p, _ in pairs]
            found[style] = [q for (_, q), there in zip(pairs, styles, strict=True) if there == {style}]
        return {name: questions for name, questions in found.items() if questions}


@dataclass(frozen=True, kw_only=True)
class CountsChapter:
    """Two to four of one thing."""

    kind: ClassVar[str] = "counts"
    title: ClassVar[str] = "Counts"
    about: ClassVar[str] = "One thing is there two to four times; neither more nor fewer count as right."
    units: ClassVar[Mapping[str, Unit]] = UNITS

    def rows(self, data: DatasetConfig, n: int, info: ModelInfo) -> Rows:
        """All, and by number."""
        config = second_edition(data)
        if not config.groups:
            raise LeftOutError("the world has nothing twice")
        weights = (*config.count_weights[:2],) if sum(config.count_weights[:2]) else (1.0,)
        config = replace(config, groups=1.0, words=0.0, overlaps=0.0, sizes=0.0, count_weights=weights)
        prompts = [p for p in held_out_prompts(World(config), n) if p.scene.groups]
        pairs = list(zip(prompts, ask(config, prompts), strict=True))
        found = {ALL: [question for _, question in pairs]}
        for number, name in ((2, "two"), (3, "three"), (4, "four")):
            found[name] = [q for p, q in pairs if any(group.number == number for group in p.scene.groups)]
        return {name: questions for name, questions in found.items() if questions}


@dataclass(frozen=True, kw_only=True)
class RelationsChapter:
    """Several things with and without a word on how they stand."""

    kind: ClassVar[str] = "relations"
    title: ClassVar[str] = "Relations, stated or not"
    about: ClassVar[str] = (
        "Two and three things whose captions say how they stand, others whose captions do not, pairs of which one "
        "stands in front, and pairs of a small and a large thing. Things should be as right in all of them; sizes are "
        "where the large one is seen larger."
    )
    units: ClassVar[Mapping[str, Unit]] = UNITS
    contrasts: ClassVar[Sequence[Contrast]] = (Contrast(ours="not stated", theirs="stated", paired=False),)
    bars: ClassVar[Mapping[str, float]] = {}

    def rows(self, data: DatasetConfig, n: int, info: ModelInfo) -> Rows:
        """An arm of n prompts each."""
        config = second_edition(data)
        several, sizes = (0.0, *config.count_weights[1:]), config.sizes
        if not sum(several):
            raise LeftOutError("the world has things one by one")
        config = replace(config, words=0.0, count_weights=several, groups=0.0, sizes=0.0)
        found = {"stated": arm(replace(config, unstated=0.0, overlaps=0.0), n)}
        if config.unstated:
            found["not stated"] = arm(replace(config, unstated=1.0, overlaps=0.0), n)
        if config.overlaps and several[1]:
            pairs = replace(config, unstated=0.0, overlaps=1.0, count_weights=(0.0, 1.0))
            found["in front of"] = arm(pairs, n)
        if sizes and several[1]:
            found["sizes"] = arm(replace(config, sizes=1.0, overlaps=0.0, count_weights=(0.0, 1.0)), n)
        return found


@dataclass(frozen=True, kw_only=True)
class WordingsChapter:
    """The same scenes in sentences of the training captions, and in others."""

    kind: ClassVar[str] = "wordings"
    title: ClassVar[str] = "Wordings"
    about: ClassVar[str] = (
        "The same held-out scenes and noise, in sentences of the training captions, and in some that these never have."
    )
    units: ClassVar[Mapping[str, Unit]] = UNITS
    contrasts: ClassVar[Sequence[Contrast]] = (Contrast(ours="held out", theirs="trained"),)
    bars: ClassVar[Mapping[str, float]] = {}

    def rows(self, data: DatasetConfig, n: int, info: ModelInfo) -> Rows:
        """An arm each."""
        config = second_edition(data)
        return {"trained": arm(config, n), "held out": arm(config, n, wordings="heldout")}


@dataclass(frozen=True, kw_only=True)
class LanguagesChapter:
    """The same scenes in short captions of every language of the data."""

    kind: ClassVar[str] = "languages"
    title: ClassVar[str] = "Languages"
    about: ClassVar[str] = "The same held-out scenes and noise, in short captions of each language."
    units: ClassVar[Mapping[str, Unit]] = UNITS

    def rows(self, data: DatasetConfig, n: int, info: ModelInfo) -> Rows:
        """An arm each."""
        config = second_edition(data)
        spoken = [name for name, weight in zip(LANGUAGES, config.languages, strict=True) if weight]
        if len(spoken) < 2:
            raise LeftOutError("the data has one language")
        return {SPOKEN[name]: arm(config, n, language=name) for name in spoken}
