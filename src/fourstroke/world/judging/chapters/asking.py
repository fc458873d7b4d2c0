"""Questions of the report from held-out prompts of the world, judged by the facts of their scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from fourstroke.data.sample import DatasetConfig
from fourstroke.evaluate.reading import can_read
from fourstroke.evaluate.report.chapter import LeftOutError, Question, Scores
from fourstroke.world.find import world_of
from fourstroke.world.judging.composition import Prompt, facts, held_out_prompts
from fourstroke.world.judging.judge import Judge
from fourstroke.world.judging.kinds import COMPOSITION
from fourstroke.world.render import render_scene
from fourstroke.world.world import World, WorldConfig


def find_config(data: DatasetConfig) -> WorldConfig:
    """The world of a dataset, without words where nothing can read them; raises LeftOutError without a world."""
    try:
        config = world_of(data)
    except ValueError:
        raise LeftOutError("the data has no drawn scenes") from None
    return config if can_read() else replace(config, words=0.0, spelled=0.0)


def second_edition(data: DatasetConfig) -> WorldConfig:
    """The same, of a world of the second edition alone."""
    config = find_config(data)
    if not config.things:
        raise LeftOutError("the data is of the world's first edition, which has nothing of the kind")
    return config


def arm(config: WorldConfig, n: int, **options: Any) -> list[Question]:
    """The questions of n held-out prompts (`held_out_prompts`)."""
    return ask(config, held_out_prompts(World(config), n, **options))


def ask(config: WorldConfig, prompts: Sequence[Prompt], truth: bool = False) -> list[Question]:
    """A question for each prompt, judged by all facts that its caption states; with its true picture, or without."""
    judge = Judge(config)

    def question(prompt: Prompt) -> Question:
        def read(pictures: Sequence[np.ndarray]) -> Scores:
            verdict = judge.verdict(pictures[0], prompt.scene)
            found = {name: (sum(each), len(each)) for name, each in facts(prompt, verdict).items()}
            parts = [found[name] for name in COMPOSITION]
            found["composition"] = sum(right for right, _ in parts), sum(count for _, count in parts)
            return found | {"all_right": (float(verdict.right), 1)}

        return Question(
            prompt=prompt.caption, judge=read, judged="facts", size=prompt.size, seeds=(prompt.seed,),
            transparent=prompt.transparent, truth=partial(render_scene, prompt.scene) if truth else None,
        )  # fmt: skip

    return [question(prompt) for prompt in prompts]
