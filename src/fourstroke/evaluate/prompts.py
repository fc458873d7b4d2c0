"""Draws a fixed set of prompts, each from noise of its own, and measures the pictures without knowing what they show.

The same prompts and the same noise every time, so that looks of one run can be compared, and a student's pictures with
its teacher's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import Tensor

from fourstroke import progress
from fourstroke.data.prompts import read_prompts
from fourstroke.data.sample import Caption, Record
from fourstroke.data.sheet import contact_sheet
from fourstroke.enhance.endpoint import EndpointError
from fourstroke.evaluate.image_metrics import diversity, image_metrics, stack
from fourstroke.evaluate.judges import JudgeOption
from fourstroke.files import save_image
from fourstroke.pipeline import Pipeline
from fourstroke.ranges import Count, Natural, NonNegative, check_ranges

SHEET = 16
"""Pictures of a sheet."""
SEEDS = 1000
"""Seeds of one prompt; the next prompt's begin after them."""


@dataclass(frozen=True, kw_only=True)
class PromptsConfig:
    """Prompts that are drawn at every look: written in the recipe, or the first `count` lines of a file.

    The first `diversity_prompts` of them are drawn from several `seeds`. None is the model's own size, steps and
    guidance. `name` goes before the metrics' names, where a run has several such sets.
    """

    kind: ClassVar[str] = "prompts"
    prompts: tuple[str, ...] = ()
    file: Path | None = None
    count: Count = 64
    diversity_prompts: Natural = 8
    seeds: Count = 4
    width: Count | None = None
    height: Count | None = None
    steps: Count | None = None
    guidance: NonNegative | None = None
    batch: Count = 16
    judges: tuple[JudgeOption, ...] = ()
    """What judges say of each prompt's first picture is measured too: `KIND/SCORE`, means over pictures with a score.
    """
    name: str = ""

    def __post_init__(self) -> None:
        check_ranges(self)
        if bool(self.prompts) == (self.file is not None):
            raise ValueError("name the prompts to draw, either as prompts or as a file")
        if self.seeds > SEEDS or (self.diversity_prompts and self.seeds < 2):
            raise ValueError(f"seeds={self.seeds}: choose 2 to {SEEDS}, or diversity_prompts=0")
        if twice := [kind for kind, count in Counter(judge.kind for judge in self.judges).items() if count > 1]:
            raise ValueError(f"two judges are of the kind {twice[0]}; put one of them into a validator of its own")

    def open(self) -> PromptsValidator:
        """The validator; raises ValueError for a file that cannot be used or holds no prompt."""
        if self.file is None:
            return PromptsValidator(self, self.prompts)
        return PromptsValidator(self, [line.rich for line in read_prompts(self.file)[: self.count]])


@dataclass(frozen=True)
class Drawing:
    """What a look drew: one picture (H, W, 3) uint8 of each prompt, and those of several seeds."""

    pictures: list[np.ndarray]
    several: Tensor | None
    """(diversity prompts, seeds, 3, H, W) in [0, 1]; None where diversity is not measured."""

    def metrics(self) -> dict[str, float]:
        """Those of `image_metrics`, and diversity."""
        found = image_metrics(stack(self.pictures))
        return found if self.several is None else {"diversity": diversity(self.several), **found}


class PromptsValidator:
    """Draws and measures the prompts of a configuration."""

    def __init__(self, config: PromptsConfig, prompts: Sequence[str]) -> None:
        self.config, self.prompts = config, list(prompts)
        self.judges = {judge.kind: judge.open() for judge in config.judges}
        if wrong := [kind for kind, judge in self.judges.items() if getattr(judge, "reach", "picture") != "picture"]:
            raise ValueError(f"{wrong[0]} does not judge pictures one by one; use fourstroke eval judge")

    def run(self, pipe: Pipeline, folder: Path, step: int) -> dict[str, float]:
        """Metrics of the pictures, and a sheet of the first ones."""
        drawing = self.draw(pipe)
        self.sheet(drawing, folder, f"step-{step:06d}")
        prefix = f"{self.config.name}/" if self.config.name else ""
        return {prefix + name: value for name, value in (drawing.metrics() | self.judge(drawing)).items()}

    def judge(self, drawing: Drawing) -> dict[str, float]:
        """Means of what judges say; NaN where an endpoint fails, which is told, or no picture has a score.

        The NaN of a judge that has no names for its scores then is under its kind.
        """
        records = [
            Record(name=str(index), size=(picture.shape[1], picture.shape[0]), captions=(Caption(text, "prompt"),))
            for index, (picture, text) in enumerate(zip(drawing.pictures, self.prompts, strict=True))
        ]
        found: dict[str, float] = {}
        for kind, judge in self.judges.items():
            try:
                scores = judge.score(drawing.pictures, records)
            except EndpointError as error:
                print(f"{kind} has no scores this time: {error}", flush=True)
                scores = {name: [] for name in getattr(judge, "names", ())}
            means = {name: [value for value in column if math.isfinite(value)] for name, column in scores.items()}
            found |= {f"{kind}/{name}": sum(v) / len(v) if v else math.nan for name, v in means.items()}
            found |= {} if means else {kind: math.nan}
        return found

    def draw(self, pipe: Pipeline) -> Drawing:
        """All pictures of a look; those of a prompt and a seed do not depend on what else is drawn."""
        config = self.config
        diverse = min(config.diversity_prompts, len(self.prompts))
        counts = [config.seeds if index < diverse else 1 for index in range(len(self.prompts))]
        rows = [(index, seed) for index, count in enumerate(counts) for seed in range(count)]
        drawn: list[np.ndarray] = []
        tell = progress.pictures(f"{config.name or 'validation'}: drawing")
        for start in range(0, len(rows), config.batch):
            part = rows[start : start + config.batch]
            out = pipe(
                [self.prompts[index] for index, _ in part],
                seed=[SEEDS * index + seed for index, seed in part],
                width=config.width,
                height=config.height,
                num_inference_steps=config.steps,
                guidance_scale=config.guidance,
            )
            drawn += [np.asarray(image) for image in out.images]
            tell(len(drawn), len(rows))
        firsts = [picture for picture, (_, seed) in zip(drawn, rows, strict=True) if seed == 0]
        several = stack(drawn[: diverse * config.seeds]).unflatten(0, (diverse, config.seeds)) if diverse else None
        return Drawing(firsts, several)

    def sheet(self, drawing: Drawing, folder: Path, name: str) -> None:
        """Write the first pictures above their prompts into `name.png`."""
        shown, texts = drawing.pictures[:SHEET], self.prompts[:SHEET]
        upscale = max(1, 192 // shown[0].shape[1])
        name = f"{self.config.name}-{name}" if self.config.name else name
        save_image(contact_sheet(shown, texts, columns=8, upscale=upscale), folder / f"{name}.png")
