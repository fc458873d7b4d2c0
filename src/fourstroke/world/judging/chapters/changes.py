"""Chapters of edits and of stickers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np

from fourstroke.data.sample import DatasetConfig
from fourstroke.evaluate.report.chapter import ALL, Contrast, LeftOutError, Question, Rows, Scores, Unit
from fourstroke.folder import ModelInfo
from fourstroke.world.edits import KINDS, Edits
from fourstroke.world.find import edits_of
from fourstroke.world.judging.chapters.asking import find_config
from fourstroke.world.judging.composition import Prompt, held_out_prompts
from fourstroke.world.judging.edits import KEPT_PSNR, EditPrompt, held_out_edits, judge_edit, reword
from fourstroke.world.judging.judge import Judge
from fourstroke.world.judging.stickers import judge_sticker
from fourstroke.world.render import render_scene
from fourstroke.world.world import World

REWORDED = "held-out wordings"


@dataclass(frozen=True, kw_only=True)
class EditsChapter:
    """Held-out edits."""

    kind: ClassVar[str] = "edits"
    title: ClassVar[str] = "Edits"
    about: ClassVar[str] = (
        "Whether what is asked is there (changed), and the PSNR against the picture before where the edit may change "
        f"nothing, 60 dB at most. Either alone is easily had, by drawing anew or by copying; right is changed and at "
        f"least {KEPT_PSNR:g} dB. Held-out wordings are the same edits in sentences that training never has."
    )
    units: ClassVar[Mapping[str, Unit]] = {"outside_psnr": "dB"}
    contrasts: ClassVar[Sequence[Contrast]] = (Contrast(ours=REWORDED, theirs=ALL),)
    bars: ClassVar[Mapping[str, float]] = {}

    def rows(self, data: DatasetConfig, n: int, info: ModelInfo) -> Rows:
        """All, the same in held-out wordings, and by kind."""
        try:
            config = edits_of(data)
        except ValueError:
            raise LeftOutError("the data has no edits") from None
        judge, edits = Judge(config.world), Edits(config)
        prompts = held_out_edits(edits, n)
        questions = [_edit_question(judge, prompt) for prompt in prompts]
        found = {ALL: questions}
        found[REWORDED] = [_edit_question(judge, prompt) for prompt in reword(edits, prompts, "heldout")]
        for kind in KINDS:
            found[kind] = [q for p, q in zip(prompts, questions, strict=True) if p.edit.kind == kind]
        return {name: chosen for name, chosen in found.items() if chosen}


@dataclass(frozen=True, kw_only=True)
class StickersChapter:
    """Pictures with a transparent background."""

    kind: ClassVar[str] = "stickers"
    title: ClassVar[str] = "Stickers"
    about: ClassVar[str] = (
        "The alpha against that of the true picture, whose things are first fitted to where they are seen: "
        "intersection over union, and how many reach .9 (outline)."
    )
    units: ClassVar[Mapping[str, Unit]] = {"alpha_iou": ""}

    def rows(self, data: DatasetConfig, n: int, info: ModelInfo) -> Rows:
        """All, and by edge."""
        config = find_config(data)
        if not config.transparent:
            raise LeftOutError("the world has no stickers")
        judge, config = Judge(config), replace(config, transparent=1.0, words=0.0)
        prompts = held_out_prompts(World(config), n)
        pairs = [(prompt.scene.background.edge, _sticker_question(judge, prompt)) for prompt in prompts]
        found = {ALL: [question for _, question in pairs]}
        for edge in ("clean", "soft"):
            found[f"{edge} edges"] = [question for own, question in pairs if own == edge]
        return {name: questions for name, questions in found.items() if questions}


def _edit_question(judge: Judge, prompt: EditPrompt) -> Question:
    def read(pictures: Sequence[np.ndarray]) -> Scores:
        verdict = judge_edit(judge, prompt, pictures[0])
        found: dict[str, tuple[float, float]] = {}
        if verdict.changed is not None:
            found["changed"] = float(verdict.changed), 1
            found["right"] = float(bool(verdict.right)), 1
        return found | {"outside_psnr": (verdict.outside_psnr, 1)}

    scene = prompt.edit.after
    return Question(
        prompt=prompt.instruction,
        judge=read,
        judged="edit",
        size=(scene.width, scene.height),
        seeds=(prompt.seed,),
        transparent=scene.background.kind == "transparent",
        images=prompt.before,
        truth=lambda: prompt.after,
    )


def _sticker_question(judge: Judge, prompt: Prompt) -> Question:
    def read(pictures: Sequence[np.ndarray]) -> Scores:
        verdict = judge_sticker(judge, pictures[0], prompt.scene)
        facts = verdict.facts
        return {
            "alpha_iou": (verdict.iou, 1),
            "outline": (float(verdict.good), 1),
            "objects": (sum(facts.objects), len(facts.objects)),
            "transparent": (sum(facts.backgrounds), len(facts.backgrounds)),
        }

    return Question(
        prompt=prompt.caption, judge=read, judged="sticker", size=prompt.size, seeds=(prompt.seed,), transparent=True,
        truth=partial(render_scene, prompt.scene),
    )  # fmt: skip
