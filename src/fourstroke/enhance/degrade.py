"""Reverse engineering: a rich caption is taken apart, and every degradation, undone, is a step of reasoning.

Qwen-Image-2.0 report, prompt enhancer: classify P_fine, sample degradation strategies for its class with set
probabilities, apply them to get P_short; reversed, they are the chain of thought, which begins with what P_short says.
The probabilities are ours; here is what all degraders share.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import gcd
from pathlib import Path

from PIL import Image

from fourstroke.data.sample import Dataset, Record, Sample, SampleError
from fourstroke.enhance.checks import quoted
from fourstroke.enhance.triplet import Annotation, Degrader, Kind, RejectedError, Step, Triplet
from fourstroke.files import save_image


@dataclass(frozen=True)
class Odds:
    """How often a strategy drops what it is about, and how often it only blurs it."""

    drop: float = 0.0
    blur: float = 0.0


BASE = {
    "layout": Odds(drop=0.15),
    "secondary": Odds(blur=0.08),
    "size": Odds(drop=0.8),
    "typography": Odds(drop=0.5, blur=0.4),
    "background": Odds(drop=0.6, blur=0.1),
    "texture": Odds(drop=0.75, blur=0.1),
    "light": Odds(drop=0.75, blur=0.1),
    "style": Odds(drop=0.75, blur=0.15),
    "wording": Odds(drop=0.6),
}
PROBABILITIES: Mapping[str, Mapping[str, Odds]] = {
    "General": BASE,
    "Portrait": {**BASE, "background": Odds(drop=0.7, blur=0.15), "light": Odds(drop=0.6, blur=0.25)},
    "Text": {**BASE, "background": Odds(drop=0.8, blur=0.05)},
    "Complex Text": {**BASE, "layout": Odds(drop=0.25), "typography": Odds(drop=0.7, blur=0.25)},
}
"""For each category the odds of each strategy, in the order in which they are applied."""


def summarise(annotation: Annotation, seed: int) -> Triplet:
    """An edit's annotation in short: its first sentence, and those that quote words to draw."""
    sentences = re.split(r"(?<=[.!?])\s+(?=[^\s\"])", annotation.text.strip())
    kept = [s for index, s in enumerate(sentences) if index == 0 or quoted(s)]
    short = " ".join(kept).rstrip(".")
    if not short:
        raise RejectedError("it is empty")
    steps: tuple[Step, ...] = ()
    if len(kept) < len(sentences):
        steps = (Step(strategy="summary", probability=1.0, thought="Say in full what changes and what stays."),)
    return Triplet(
        short=short,
        reasoning=" ".join(["Edit.", *(step.thought for step in steps)]),
        rich=annotation.text,
        category="General",
        kind="edit",
        wh_ratio=wh_ratio(annotation.width, annotation.height),
        steps=steps,
        seed=seed,
        inputs=annotation.inputs,
    )


def wh_ratio(width: int | None, height: int | None) -> str:
    """`16:9` from pixels; `1:1` where they are unknown."""
    if not width or not height:
        return "1:1"
    divisor = gcd(width, height)
    return f"{width // divisor}:{height // divisor}"


def degrade_dataset(
    dataset: Dataset, degrader: Degrader, count: int | None = None, images: Path | None = None
) -> Iterator[Triplet]:
    """The triplets of the first `count` samples of a dataset (None: of all); what cannot be used is left out.

    A sample's index is its seed. The images that edits start from are written to the folder `images` as PNG files;
    without one, triplets have none.
    """
    for index in range(len(dataset) if count is None else min(count, len(dataset))):
        with contextlib.suppress(SampleError, RejectedError):
            record = dataset.record(index)
            asked = annotation(record)
            if record.inputs and images is not None:
                asked = replace(asked, inputs=_written(dataset.sample(index), images / str(index)))
            yield degrader.degrade(asked, index)


def _written(sample: Sample, start: Path) -> tuple[str, ...]:
    """The files that a sample's input images were written to, `<start>-<number>.png`."""
    start.parent.mkdir(parents=True, exist_ok=True)
    files = [f"{start}-{number}.png" for number in range(len(sample.inputs))]
    for pixels, file in zip(sample.inputs, files, strict=True):
        save_image(Image.fromarray(pixels), file)
    return tuple(files)


def annotation(record: Record) -> Annotation:
    """What is to be taken apart of a record: its caption of kind `rich`, or else its longest one.

    Raises:
        RejectedError: if it has no caption.
    """
    captions = [c.text for c in record.captions if c.kind == "rich"] or [c.text for c in record.captions]
    if not captions:
        raise RejectedError("it has no caption")
    width, height = record.size
    kind: Kind = "edit" if record.inputs else "generate"
    return Annotation(text=max(captions, key=len), kind=kind, width=width, height=height, meta=record.meta)
