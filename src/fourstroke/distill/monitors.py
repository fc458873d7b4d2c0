"""What goes wrong in distillation, measured on pictures: too little variety, too much colour, leftover noise.

Known failures of published few-step students: diversity falls (a withdrawn adapter had .75 of its teacher's),
saturation drifts up after some thousand steps, noise stays on flat backgrounds. Pictures are (..., 3, H, W) in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from fourstroke.ranges import NonNegative, Range, check_ranges

DIVERSITY_FLOOR, SATURATION_SLACK = 0.9, 0.05


def teacher_error(pictures: Tensor, teacher: Tensor) -> float:
    """How far pictures (B, 3, H, W) are from the teacher's of the same prompts and noise: the root mean square over
    pixels, averaged over pictures, 0 to 1.
    """
    return (pictures - teacher).square().flatten(1).mean(1).sqrt().mean().item()


@dataclass(frozen=True, kw_only=True)
class Readings:
    """One look at a model; `composition` is None where there is no scene graph to judge by, `words` and
    `flat_noise` where the world has no signs or flat backgrounds.
    """

    composition: float | None
    """Mean of the shares of right objects, colours and relations, 0 to 1."""
    words: float | None
    diversity: float
    saturation: float
    flat_noise: float | None
    likeness: float | None = None
    """How well sprites and shapes explain what was drawn for them, 0 to 1; None where there is no scene graph."""
    teacher_error: float | None = None
    """`teacher_error` of a student's pictures, where there is no scene graph to judge them by."""


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


def checkpoint_score(student: Readings, teacher: Readings) -> float:
    """The rule by which the best checkpoint is kept; higher is better; of equals the first is kept.

    Composition, or, without a scene graph, minus the error against the teacher; less what diversity lacks to 0.9 of the
    teacher's, less what saturation is off by beyond 5 %, less what likeness lacks: where composition is at its ceiling,
    only likeness sees a bent face.
    """
    lacking = max(0.0, DIVERSITY_FLOOR - ratio(student.diversity, teacher.diversity))
    drift = max(0.0, abs(ratio(student.saturation, teacher.saturation) - 1) - SATURATION_SLACK)
    bent = max(0.0, 1 - ratio(student.likeness or 0.0, teacher.likeness or 0.0))
    quality = -(student.teacher_error or 0.0) if student.composition is None else student.composition
    return quality - lacking - drift - bent


def compared(student: Readings, teacher: Readings) -> dict[str, float]:
    """For the log: the ratio of each reading to the teacher's, of those that both have, and the error against it."""
    pairs = {
        "diversity_ratio": (student.diversity, teacher.diversity),
        "saturation_ratio": (student.saturation, teacher.saturation),
        "composition_ratio": (student.composition, teacher.composition),
        "words_ratio": (student.words, teacher.words),
        "noise_ratio": (student.flat_noise, teacher.flat_noise),
        "likeness_ratio": (student.likeness, teacher.likeness),
    }
    error = {} if student.teacher_error is None else {"teacher_error": student.teacher_error}
    return {key: ratio(a, b) for key, (a, b) in pairs.items() if a is not None and b is not None} | error


def collapse(student: Readings, teacher: Readings, best: float, limits: CollapseLimits) -> str | None:
    """Why the student has collapsed, in words, or None; `best` is the highest composition of the run so far."""
    if not all(math.isfinite(value) for value in (student.diversity, student.saturation)):
        return "its pictures are not finite"
    spread = ratio(student.diversity, teacher.diversity)
    if spread < limits.diversity:
        return f"diversity fell to {spread:.2f} of the teacher's"
    colour = ratio(student.saturation, teacher.saturation)
    if not 1 / limits.saturation < colour < limits.saturation:
        return f"saturation went to {colour:.2f} of the teacher's"
    found = student.composition
    if found is not None and found < limits.composition * best and found < best - limits.noise:
        return f"composition fell from {best:.3f} to {found:.3f}"
    return None


def ratio(student: float, teacher: float) -> float:
    """student / teacher; 1 where both are nothing."""
    return 1.0 if student == teacher else student / max(teacher, 1e-6)
