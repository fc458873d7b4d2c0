"""Draws a fixed set of held-out prompts with a pipeline and reads the monitors off the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fourstroke.distill.monitors import CollapseLimits, Readings
from fourstroke.evaluate.image_metrics import diversity, flat_noise, saturation, stack
from fourstroke.pipeline import Pipeline
from fourstroke.ranges import Count, check_ranges
from fourstroke.world import World, WorldConfig
from fourstroke.world.graph import Scene
from fourstroke.world.judging.composition import CHOOSING, Prompt, draw, held_out_prompts, judge_pictures, summarise
from fourstroke.world.judging.judge import Judge, Verdict


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """How many held-out prompts are judged, and for how many of them several seeds are compared."""

    prompts: Count = 64
    diversity_prompts: Count = 8
    seeds: Count = 4
    teacher_steps: Count | None = None
    """Steps of the teacher that the student is compared with; None is the teacher's own number."""
    limits: CollapseLimits = field(default_factory=CollapseLimits)

    def __post_init__(self) -> None:
        check_ranges(self)
        if not 1 <= self.diversity_prompts <= self.prompts or self.seeds < 2:
            raise ValueError(
                f"prompts={self.prompts}, diversity_prompts={self.diversity_prompts}, seeds={self.seeds}: choose 2 "
                "seeds or more for 1 to all of the prompts"
            )


class Watch:
    """The same prompts and seeds every time, so that readings of one run can be compared."""

    def __init__(self, config: WatchConfig, world: WorldConfig) -> None:
        self.config = config
        self.judge = Judge(world)
        self.prompts = held_out_prompts(World(world), config.prompts, first=CHOOSING)
        self.captions = [prompt.caption for prompt in self.prompts]
        self._diverse = self.prompts[: config.diversity_prompts]
        self.flat = [is_flat(prompt.scene) for prompt in self.prompts]

    def look(
        self, pipe: Pipeline, steps: int | None = None, guidance: float | None = None
    ) -> tuple[Readings, list[Image.Image]]:
        """The readings, and the pictures of the judged prompts; None is the pipeline's own steps and guidance."""
        pictures = draw(pipe, self.prompts, steps=steps, guidance=guidance, batch=16)
        verdicts = judge_pictures(self.judge, self.prompts, pictures)
        shares = summarise(self.prompts, verdicts)
        parts = [share.value for key in ("objects", "colours", "relations") if (share := shares[key]) is not None]
        words = shares["words_exact"]
        tensor = stack(pictures)
        readings = Readings(
            composition=sum(parts) / len(parts),
            words=None if words is None else words.value,
            diversity=diversity(draw_seeds(pipe, self._diverse, self.config.seeds, steps, guidance)),
            saturation=saturation(tensor),
            flat_noise=flat_noise(tensor[torch.tensor(self.flat)]) if any(self.flat) else None,
            likeness=likeness(verdicts),
        )
        return readings, [Image.fromarray(picture) for picture in pictures]


class WordsWatch:
    """The monitors for prompts without scene graphs: all but composition, words and noise on flat backgrounds.

    Every prompt has its own noise, the same at every look, so that pictures can be compared with the teacher's.
    """

    def __init__(self, config: WatchConfig, captions: list[str], width: int, height: int) -> None:
        self.config, self.captions = config, captions
        self.width, self.height = width, height

    def look(
        self, pipe: Pipeline, steps: int | None = None, guidance: float | None = None
    ) -> tuple[Readings, list[Image.Image]]:
        """The readings, and one picture for each prompt; None is the pipeline's own steps and guidance."""
        rows = []
        for index, caption in enumerate(self.captions):
            out = pipe(
                caption,
                width=self.width,
                height=self.height,
                num_images=self.config.seeds if index < self.config.diversity_prompts else 1,
                seed=1000 * index,
                num_inference_steps=steps,
                guidance_scale=guidance,
            )
            rows.append([np.asarray(image) for image in out.images])
        several = torch.stack([stack(row) for row in rows[: self.config.diversity_prompts]])
        firsts = [row[0] for row in rows]
        readings = Readings(
            composition=None,
            words=None,
            diversity=diversity(several),
            saturation=saturation(stack(firsts)),
            flat_noise=None,
        )
        return readings, [Image.fromarray(picture) for picture in firsts]


def draw_seeds(
    pipe: Pipeline, prompts: Sequence[Prompt], seeds: int, steps: int | None, guidance: float | None
) -> Tensor:
    """(prompts, seeds, 3, H, W) in [0, 1]: every prompt from the same number of seeds."""
    rows = []
    for prompt in prompts:
        out = pipe(
            prompt.caption,
            width=prompt.scene.width,
            height=prompt.scene.height,
            num_images=seeds,
            seed=1000 * prompt.seed,
            num_inference_steps=steps,
            guidance_scale=guidance,
        )
        rows.append(stack([np.asarray(image) for image in out.images]))
    return torch.stack(rows)


def likeness(verdicts: Sequence[Verdict]) -> float:
    """Mean over all asked objects of how well their own pictures explain what was drawn, 0 to 1."""
    return float(np.mean([score for verdict in verdicts for score in verdict.likeness]))


def is_flat(scene: Scene) -> bool:
    """Whether the background is of one colour, so that all that moves on it is noise."""
    background = scene.background
    return background.kind == "flat" and background.texture == "plain" and background.light == "even"
