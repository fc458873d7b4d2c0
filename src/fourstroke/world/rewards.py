"""Rewards that only a world can give: facts checked by looking at pixels, things and places by their names."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from fourstroke.enhance.checks import Lexicon
from fourstroke.enhance.rewards.reward import Reward, RewardBatch
from fourstroke.world.caption_rules import scene_of
from fourstroke.world.graph import Group, Scene
from fourstroke.world.judging.judge import Judge, Verdict
from fourstroke.world.world import WorldConfig


@dataclass(frozen=True, kw_only=True)
class Consistency(Reward):
    """Share of the *short* prompt's facts that the picture shows (`consistency`). Words on signs count only where the
    world's generator draws words.
    """

    kind: ClassVar[str] = "consistency"

    world: WorldConfig = field(default_factory=WorldConfig)

    @cached_property
    def judge(self) -> Judge:
        """The judge of pixels."""
        return Judge(self.world)

    def __call__(self, batch: RewardBatch) -> Tensor:
        """Raises ValueError for a request without a scene."""
        found = []
        for picture, record in zip(batch.pictures, batch.records, strict=True):
            facts = scene_of(record.meta)
            if facts is None:
                raise ValueError(f"{record.name} has no scene to be judged by; take another reward, such as vision")
            facts = counted(facts if self.world.words else replace(facts, sign=None))
            states = [bool(record.meta.get(key)) for key in ("states_background", "states_style")]
            found.append(consistency(self.judge.verdict(picture, facts), *states))
        return torch.tensor(found)


@dataclass(frozen=True, kw_only=True)
class Things(Reward):
    """Share of the request's things and colours that the rewrite names and leaves as many, as large and in the style
    that they were asked for, halved if it invents others.
    """

    kind: ClassVar[str] = "things"

    def __call__(self, batch: RewardBatch) -> Tensor:
        """By the enhancer's lexicon."""
        pairs = zip(batch.requests, batch.rewrites, strict=True)
        return torch.tensor([things(request, rewrite, batch.lexicon) for request, rewrite in pairs])


@dataclass(frozen=True, kw_only=True)
class Places(Reward):
    """Whether the rewrite says of every thing that it stands where the request wants it, and nothing against it."""

    kind: ClassVar[str] = "places"

    def __call__(self, batch: RewardBatch) -> Tensor:
        """By the enhancer's lexicon."""
        pairs = zip(batch.requests, batch.rewrites, strict=True)
        return torch.tensor([float(not batch.lexicon.moved(request, rewrite)) for request, rewrite in pairs])


def counted(facts: Scene) -> Scene:
    """The facts with each lone thing as a group of one, so that one is also a number that a judge counts."""
    lone = (unit for unit in facts.units if len(unit) == 1)
    return replace(facts, groups=(*facts.groups, *(Group(indices=unit, form="cluster") for unit in lone)))


def consistency(verdict: Verdict, states_background: bool = False, states_style: bool = False) -> float:
    """Share of the short prompt's facts that the picture shows: objects, colours, numbers, sizes, relations, words.

    `verdict` judges the picture against the facts; background and styles count only where they were stated. NaN where
    nothing was.
    """
    facts = verdict.objects + verdict.colours + verdict.relations + verdict.counts + verdict.sizes
    hits: list[float] = [*map(float, facts)]
    if states_background:
        hits += map(float, verdict.backgrounds)
    if states_style:
        hits += map(float, verdict.styles)
    if verdict.word is not None:
        hits.append(float(verdict.word.exact))
    return sum(hits) / len(hits) if hits else math.nan


def things(request: str, rewrite: str, lexicon: Lexicon) -> float:
    """Share of the request's things and colours that the rewrite keeps (`Things`), halved if it invents others."""
    asked = len(lexicon.titles(request)) + len(lexicon.colours_of(request))
    wrong = len(lexicon.lost(request, rewrite)) + len(lexicon.altered(request, rewrite))
    kept = 1 - min(1.0, wrong / asked) if asked else 1.0
    return kept * (0.5 if lexicon.invented(request, rewrite) else 1.0)
