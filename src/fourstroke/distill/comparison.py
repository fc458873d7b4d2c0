"""Compares a student with its teacher on held-out prompts: the score that picks the checkpoint, and what a collapse is.

Known failures of published few-step students: diversity falls (a withdrawn adapter had .75 of its teacher's),
saturation drifts up after some thousand steps, a grid of the latents' period appears. Both draw the same prompts from
the same noise, so that without a judge of what the pictures show the error against the teacher's says how near the
student is.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from torch import Tensor

from fourstroke.data.datasets.mixture import stretches
from fourstroke.data.sample import Dataset, SampleError
from fourstroke.evaluate.image_metrics import stack
from fourstroke.evaluate.prompts import Drawing, PromptsConfig, PromptsValidator
from fourstroke.evaluate.validation import Validator, run_validators
from fourstroke.flow.sampler import NonFiniteError
from fourstroke.pipeline import Pipeline
from fourstroke.ranges import Count, NonNegative, Range, check_ranges

Metrics = Mapping[str, float]

DIVERSITY_FLOOR, SATURATION_SLACK, GRID_SLACK = 0.9, 0.05, 0.5
"""What costs nothing: this share of the teacher's diversity, a drift of saturation, grey levels of a grid."""
GRID_WEIGHT = 0.1
"""Score that a grey level of a grid costs."""
ABSOLUTE = {"grid_artefact"}
"""Metrics that are next to nothing for a teacher, so that ratios say nothing."""
QUALITY, LIKENESS = "composition", "likeness"
"""Metrics that a validator may give: how much of what was asked is there, and how well it is drawn; 0 to 1."""
EDITED, OUTSIDE = "edits/right", "edits/outside_psnr"
"""The same of edits: the share that is made and keeps the rest, and how well it does, in dB."""
OUTSIDE_SLACK, OUTSIDE_WEIGHT = 1.0, 0.02
"""dB less than the teacher's that cost nothing, and what a further one costs."""


@dataclass(frozen=True, kw_only=True)
class CollapseLimits:
    """When a run is given up: ratios to the teacher's, and composition as a share of the best so far."""

    diversity: NonNegative = 0.5
    saturation: Annotated[float, Range(1, above=True)] = 1.5
    """Ratio that the saturation may not leave upwards, nor its inverse downwards."""
    composition: NonNegative = 0.5
    noise: NonNegative = 0.05
    """Share by which composition may always fall: below this much the scores are noise."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """How many held-out prompts are drawn, and for how many of them several seeds are compared."""

    prompts: Count = 64
    diversity_prompts: Count = 8
    seeds: Count = 4
    batch: Count = 16
    teacher_steps: Count | None = None
    """Steps of the teacher that the student is compared with; None is the teacher's own number."""
    limits: CollapseLimits = field(default_factory=CollapseLimits)

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.diversity_prompts > self.prompts or self.seeds < 2:
            raise ValueError(
                f"prompts={self.prompts}, diversity_prompts={self.diversity_prompts}, seeds={self.seeds}: choose 2 "
                "seeds or more for 1 to all of the prompts"
            )


class TeacherComparison:
    """A validator of students: what it and others measure, as ratios to the teacher's, and the score made of them."""

    def __init__(
        self, config: ComparisonConfig, prompts: Sequence[str], size: tuple[int, int], others: Sequence[Validator] = ()
    ) -> None:
        self.config, self.others = config, others
        own = PromptsConfig(
            prompts=tuple(prompts[: config.prompts]),
            diversity_prompts=config.diversity_prompts,
            seeds=config.seeds,
            batch=config.batch,
            width=size[0],
            height=size[1],
        )
        self._prompts: PromptsValidator = own.open()
        self.teacher: Metrics = {}
        self.student: Metrics = {}
        self._taught: Drawing | None = None

    def see_teacher(self, pipe: Pipeline, folder: Path) -> Metrics:
        """Measure the teacher, which draws with the pipeline's own steps and guidance; needed once, before `run`."""
        self._taught = self._prompts.draw(pipe)
        self._prompts.sheet(self._taught, folder, "teacher")
        own = folder / "teacher"
        own.mkdir(parents=True, exist_ok=True)
        self.teacher = self._taught.metrics() | run_validators(self.others, pipe, own, 0)
        return self.teacher

    def run(self, pipe: Pipeline, folder: Path, step: int) -> dict[str, float]:
        """The score of a student, its error against the teacher, and the ratios of its metrics to the teacher's.

        What others could not measure is left out, unless the score is made of it.

        Raises:
            NonFiniteError: if its pictures are not finite.
        """
        assert self._taught is not None
        drawing = self._prompts.draw(pipe)
        self._prompts.sheet(drawing, folder, f"step-{step:06d}")
        others = run_validators(self.others, pipe, folder, step).items()
        own = drawing.metrics() | {k: v for k, v in others if math.isfinite(v) or k in (QUALITY, LIKENESS, EDITED)}
        own["teacher_error"] = teacher_error(stack(drawing.pictures), stack(self._taught.pictures))
        if not all(map(math.isfinite, own.values())):
            raise NonFiniteError("a metric of the student's pictures is not finite")
        self.student, compared = own, own.keys() - ABSOLUTE
        return {
            "score": score(own, self.teacher),
            "teacher_error": own["teacher_error"],
            **{name: own[name] for name in ABSOLUTE if name in own},
            **{f"{name}_ratio": ratio(own[name], value) for name, value in self.teacher.items() if name in compared},
        }


def held_out_prompts(data: Dataset, count: int) -> list[str]:
    """Captions of up to `count` held-out samples, every other one the last of its sample, which is mostly the longest.

    They are the last samples: what a model is tested on begins with the first, and should not have chosen it. The parts
    of a mixture take turns by their weights.

    Raises:
        ValueError: if no sample has a caption.
    """
    parts = [stretch for stretch in stretches(data) if stretch.weight]
    left = [reversed(range(part.first, part.first + len(part.dataset))) for part in parts]
    taken, found = [0] * len(parts), list[str]()
    while len(found) < count and parts:
        turn = min(range(len(parts)), key=lambda part: (taken[part] + 0.5) / parts[part].weight)
        if (index := next(left[turn], None)) is None:
            for each in (parts, left, taken):
                del each[turn]
            continue
        with contextlib.suppress(SampleError):
            if captions := data.record(index).captions:
                found.append(captions[-(taken[turn] % 2)].text)
                taken[turn] += 1
    if not found:
        raise ValueError(f"{data.name} has no captions to validate with; keep some samples back for it (held_out)")
    return found


def teacher_error(pictures: Tensor, teacher: Tensor) -> float:
    """How far pictures (B, 3, H, W) are from the teacher's of the same prompts and noise: the root mean square over
    pixels, averaged over pictures, 0 to 1.
    """
    return (pictures - teacher).square().flatten(1).mean(1).sqrt().mean().item()


def score(student: Metrics, teacher: Metrics) -> float:
    """The rule by which the best checkpoint is kept; higher is better.

    Composition where a validator measures it, else minus the error against the teacher; the mean of it and the share
    of edits that are right where another measures that. Less what diversity lacks to 0.9 of the teacher's, what
    saturation is off by beyond 5 %, what a grid stands out by beyond half a grey level, what edits change beside what
    they should, and what likeness lacks: where composition is at its ceiling, only likeness sees a bent face.
    """
    lacking = max(0.0, DIVERSITY_FLOOR - ratio(student["diversity"], teacher["diversity"]))
    drift = max(0.0, abs(ratio(student["saturation"], teacher["saturation"]) - 1) - SATURATION_SLACK)
    grid = max(0.0, student.get("grid_artefact", 0.0) - teacher.get("grid_artefact", 0.0) - GRID_SLACK)
    bent = max(0.0, 1 - ratio(student.get(LIKENESS, 0.0), teacher.get(LIKENESS, 0.0)))
    beside = max(0.0, teacher.get(OUTSIDE, 0.0) - student.get(OUTSIDE, 0.0) - OUTSIDE_SLACK)
    quality = student.get(QUALITY, -student.get("teacher_error", 0.0))
    if EDITED in student:
        quality = (quality + student[EDITED]) / 2
    return quality - lacking - drift - GRID_WEIGHT * grid - bent - OUTSIDE_WEIGHT * beside


def collapse(student: Metrics, teacher: Metrics, best: float, limits: CollapseLimits) -> str | None:
    """Why the student has collapsed, in words, or None; `best` is the highest composition of the run so far."""
    spread = ratio(student["diversity"], teacher["diversity"])
    if spread < limits.diversity:
        return f"diversity fell to {spread:.2f} of the teacher's"
    colour = ratio(student["saturation"], teacher["saturation"])
    if not 1 / limits.saturation < colour < limits.saturation:
        return f"saturation went to {colour:.2f} of the teacher's"
    found = student.get(QUALITY)
    if found is not None and found < limits.composition * best and found < best - limits.noise:
        return f"{QUALITY} fell from {best:.3f} to {found:.3f}"
    return None


def ratio(student: float, teacher: float) -> float:
    """student / teacher; 1 where both are nothing."""
    return 1.0 if student == teacher else student / max(teacher, 1e-6)
