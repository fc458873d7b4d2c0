"""The judge of pixels behind the protocols of everyone's judges, validators and evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np

from fourstroke.evaluate.evaluations import Option
from fourstroke.options import seed_option
from fourstroke.ranges import Count, Natural, NonNegative, check_ranges
from fourstroke.world.captions import Language, Wordings
from fourstroke.world.edits.world import EditConfig
from fourstroke.world.graph import Scene, Split
from fourstroke.world.world import WorldConfig

if TYPE_CHECKING:
    from fourstroke.data.sample import Record
    from fourstroke.pipeline import Pipeline

Captions = Literal["mixed", "short", "rich"]
CHOOSING = 1 << 20
"""Held-out seeds by which checkpoints are chosen start here, so that none is chosen by what it is tested on."""
COMPOSITION = "objects", "colours", "relations", "style", "counts", "words_ned"
"""What is asked of a scene."""


@dataclass(frozen=True, kw_only=True)
class WorldJudge:
    """Judges pictures by the scene graphs of their records (`meta["scene"]`), from the pixels alone."""

    kind: ClassVar[str] = "world_facts"
    world: WorldConfig = field(default_factory=WorldConfig)

    def open(self, folder: Path | None = None) -> SceneJudge:
        """The judge; it learns nothing, so that `folder` stays as it is."""
        return SceneJudge(self.world)


class SceneJudge:
    """Shares of what is asked that is right, for each picture."""

    def __init__(self, world: WorldConfig) -> None:
        from fourstroke.world.judging.judge import Judge

        self.judge = Judge(world)

    def score(self, pictures: Sequence[np.ndarray], records: Sequence[Record]) -> dict[str, list[float]]:
        """By fact, a share in [0, 1] for each picture, (H, W, 3 or 4) uint8; nan where nothing of the kind is asked.

        Raises:
            ValueError: for a record without a scene.
        """
        verdicts = [
            self.judge.verdict(picture, scene_of(record.meta))
            for picture, record in zip(pictures, records, strict=True)
        ]
        found: dict[str, list[float]] = {}
        for name in ("objects", "colours", "relations", "backgrounds", "styles", "counts", "sizes", "likeness"):
            found[name] = [_mean(getattr(verdict, name)) for verdict in verdicts]
        found["words_exact"] = [math.nan if v.word is None else float(v.word.exact) for v in verdicts]
        found["words_ned"] = [math.nan if v.word is None else v.word.ned for v in verdicts]
        found["right"] = [float(verdict.right) for verdict in verdicts]
        return found


@dataclass(frozen=True, kw_only=True)
class WorldValidator:
    """Draws held-out prompts of a world while a model trains, and judges the pictures.

    None is the model's own steps and guidance.
    """

    kind: ClassVar[str] = "world"
    world: WorldConfig = field(default_factory=WorldConfig)
    prompts: Count = 64
    captions: Captions = "mixed"
    first: Natural = CHOOSING
    """Seed of the first held-out prompt."""
    steps: Count | None = None
    guidance: NonNegative | None = None
    batch: Count = 16
    name: str = ""
    """Goes before the metrics' names, where a run has several such validators."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def open(self) -> PromptJudge:
        """The validator."""
        return PromptJudge(self)


class PromptJudge:
    """The same prompts and noise at every look, so that looks of one run can be compared."""

    def __init__(self, config: WorldValidator) -> None:
        from fourstroke.world.judging.composition import held_out_prompts
        from fourstroke.world.judging.judge import Judge
        from fourstroke.world.world import World

        self.config, self.judge = config, Judge(config.world)
        self.prompts = held_out_prompts(World(config.world), config.prompts, config.captions, first=config.first)

    def run(self, pipe: Pipeline, folder: Path, step: int) -> dict[str, float]:
        """Shares of what was asked that is right, what was never asked left out, and a sheet of the first pictures.

        `composition` is the share of all that was asked, objects, colours, relations, styles, counts and, by their
        likeness, words; `likeness` says how well things' own pictures explain what was drawn for them.
        """
        from fourstroke import progress
        from fourstroke.files import save_image
        from fourstroke.world.judging.composition import draw, judge_pictures, summarise, verdict_sheet

        config = self.config
        pictures = draw(
            pipe,
            self.prompts,
            steps=config.steps,
            guidance=config.guidance,
            batch=config.batch,
            on_picture=progress.pictures(f"{config.name or 'world'}: drawing"),
        )
        verdicts = judge_pictures(self.judge, self.prompts, pictures)
        name = "-".join(part for part in (config.name or "judged", f"step-{step:06d}") if part)
        save_image(verdict_sheet(self.prompts, pictures, verdicts), folder / f"{name}.png")
        shares = {key: share for key, share in summarise(self.prompts, verdicts).items() if share is not None}
        found = {key: share.value for key, share in shares.items()}
        if parts := [shares[key] for key in COMPOSITION if key in shares]:
            found["composition"] = sum(s.value * s.count for s in parts) / sum(s.count for s in parts)
        found["likeness"] = _mean([score for verdict in verdicts for score in verdict.likeness])
        prefix = f"{config.name}/" if config.name else ""
        return {prefix + key: value for key, value in found.items() if not math.isnan(value)}


@dataclass(frozen=True, kw_only=True)
class EditsValidator:
    """Makes held-out edits of a world while a model trains, and judges the pictures.

    None is the model's own steps and guidance.
    """

    kind: ClassVar[str] = "world_edits"
    edits: EditConfig
    n: Count = 48
    captions: Captions = "mixed"
    first: Natural = CHOOSING
    """Seed of the first held-out edit."""
    steps: Count | None = None
    guidance: NonNegative | None = None

    def __post_init__(self) -> None:
        check_ranges(self)

    def open(self) -> EditsJudge:
        """The validator; raises ValueError if the world has too few scenes to edit."""
        return EditsJudge(self)


class EditsJudge:
    """The same edits and noise at every look."""

    def __init__(self, config: EditsValidator) -> None:
        from fourstroke.world.edits import Edits
        from fourstroke.world.judging.edits import held_out_edits
        from fourstroke.world.judging.judge import Judge

        self.config, self.judge = config, Judge(config.edits.world)
        self.edits = held_out_edits(Edits(config.edits), config.n, config.captions, config.first)

    def run(self, pipe: Pipeline, folder: Path, step: int) -> dict[str, float]:
        """Of edits the shares made, `edits/changed`, and made with the rest kept, `edits/right`, and
        `edits/outside_psnr` in dB; a sheet of the first.
        """
        from fourstroke import progress
        from fourstroke.files import save_image
        from fourstroke.world.judging.edits import draw_edits, edit_sheet, judge_edits

        config = self.config
        told = progress.pictures("edits: drawing")
        pictures = draw_edits(pipe, self.edits, steps=config.steps, guidance=config.guidance, on_picture=told)
        verdicts = judge_edits(self.judge, self.edits, pictures)
        save_image(edit_sheet(self.edits, pictures, verdicts), folder / f"edits-step-{step:06d}.png")
        found = {
            "edits/changed": _mean([verdict.changed for verdict in verdicts if verdict.changed is not None]),
            "edits/right": _mean([verdict.right for verdict in verdicts if verdict.right is not None]),
            "edits/outside_psnr": _mean([verdict.outside_psnr for verdict in verdicts]),
        }
        return {name: value for name, value in found.items() if not math.isnan(value)}


@dataclass(frozen=True, kw_only=True)
class Composition:
    """Objects, colours, relations and words of held-out prompts of a drawn world."""

    kind: ClassVar[str] = "composition"
    n: Annotated[Count, Option("prompts")] = 200
    data: Annotated[Path, Option("a dataset's YAML (default: the model's own)")] | None = None
    captions: Annotated[Captions, Option("kind of prompts")] = "mixed"
    split: Annotated[Split, Option("combinations that training never shows, or does")] = "heldout"
    first: Annotated[int, Option("seed of the first prompt", read=seed_option)] = 0
    wordings: Annotated[Wordings, Option("sentences that training uses, or never does")] = "trained"
    language: Annotated[Language, Option("short prompts in one language (default: the data's own)")] | None = None
    steps: Annotated[Count, Option("denoising steps (default: the model's own)")] | None = None
    guidance: Annotated[NonNegative, Option("guidance scale (default: the model's own)")] | None = None
    batch: Annotated[Count, Option("pictures drawn together; does not change them")] = 8
    sheet: Annotated[Path, Option("write a sheet of the first 32 pictures with the verdicts")] | None = None

    def __post_init__(self) -> None:
        check_ranges(self)

    def run(self, model: str | None, device: str | None) -> dict[str, Any]:
        """Draw and judge."""
        from fourstroke.world.judging.composition import evaluate_composition

        return evaluate_composition(model, device=device, **{f.name: getattr(self, f.name) for f in fields(self)})

    def report(self, result: dict[str, Any]) -> str:
        """A line for each fact."""
        from fourstroke.world.judging.composition import table

        return table(result)


@dataclass(frozen=True, kw_only=True)
class PageReading:
    """Words of held-out posters, slides, menus and the like, read by RapidOCR."""

    kind: ClassVar[str] = "pages"
    n: Annotated[Count, Option("pages")] = 100
    data: Annotated[Path, Option("a dataset's YAML of kind world_posters (default: the model's own)")] | None = None
    captions: Annotated[Captions, Option("kind of prompts")] = "mixed"
    steps: Annotated[Count, Option("denoising steps (default: the model's own)")] | None = None
    guidance: Annotated[NonNegative, Option("guidance scale (default: the model's own)")] | None = None
    batch: Annotated[Count, Option("pictures drawn together; does not change them")] = 8
    sheet: Annotated[Path, Option("write a sheet of the first 32 pages with what was read")] | None = None

    def __post_init__(self) -> None:
        check_ranges(self)

    def run(self, model: str | None, device: str | None) -> dict[str, Any]:
        """Draw and read."""
        from fourstroke.world.judging.pages import evaluate_pages

        return evaluate_pages(model, device=device, **{f.name: getattr(self, f.name) for f in fields(self)})

    def report(self, result: dict[str, Any]) -> str:
        """All pages, each script, and by the number of words."""
        from fourstroke.world.judging.pages import table

        return table(result)


@dataclass(frozen=True, kw_only=True)
class Editing:
    """Held-out edits of a drawn world: whether what is asked is there, and what changed beside it."""

    kind: ClassVar[str] = "edits"
    n: Annotated[Count, Option("edits")] = 100
    data: Annotated[Path, Option("a dataset's YAML of kind world_edits (default: the model's own)")] | None = None
    captions: Annotated[Captions, Option("kind of instructions")] = "mixed"
    first: Annotated[int, Option("seed of the first edit", read=seed_option)] = 0
    wordings: Annotated[Wordings, Option("sentences that training uses, or never does")] = "trained"
    steps: Annotated[Count, Option("denoising steps (default: the model's own)")] | None = None
    guidance: Annotated[NonNegative, Option("guidance scale (default: the model's own)")] | None = None
    sheet: Annotated[Path, Option("write a sheet of the first 16: before, asked, drawn")] | None = None

    def __post_init__(self) -> None:
        check_ranges(self)

    def run(self, model: str | None, device: str | None) -> dict[str, Any]:
        """Draw and judge."""
        from fourstroke.world.judging.edits import evaluate_edits

        return evaluate_edits(model, device=device, **{f.name: getattr(self, f.name) for f in fields(self)})

    def report(self, result: dict[str, Any]) -> str:
        """All edits, and each kind."""
        from fourstroke.world.judging.edits import table

        return table(result)


def scene_of(meta: Mapping[str, Any]) -> Scene:
    """The scene of a record, as a graph or as plain data; raises ValueError if there is none."""
    scene = meta.get("scene")
    if isinstance(scene, Mapping):
        return Scene.from_dict(scene)
    if not isinstance(scene, Scene):
        raise ValueError("there is no scene to judge by: records need one in their meta")
    return scene


def _mean(values: Sequence[float | bool]) -> float:
    return sum(values) / len(values) if values else math.nan
