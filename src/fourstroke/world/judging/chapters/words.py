"""Chapters of what pictures say: words on signs, and pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np

from fourstroke.data.sample import DatasetConfig
from fourstroke.evaluate.reading import NO_READER, can_read, compare, read_line, readable
from fourstroke.evaluate.report.chapter import ALL, Contrast, LeftOutError, Question, Rows, Scores, Unit
from fourstroke.folder import ModelInfo
from fourstroke.world.find import pages_of
from fourstroke.world.judging.chapters.asking import find_config
from fourstroke.world.judging.composition import Prompt, held_out_prompts
from fourstroke.world.judging.judge import opaque
from fourstroke.world.judging.pages import TWO_LINES, PagePrompt, group_pages, judge_page, page_prompts
from fourstroke.world.pages.graph import KINDS
from fourstroke.world.pages.render import render_page
from fourstroke.world.render import render_scene
from fourstroke.world.words import SIGN_FONTS
from fourstroke.world.world import World

LENGTHS = ((1, 2), (3, 4), (5, 6), (7, 8), (9, 99))
"""Fewest and most letters of the rows."""


@dataclass(frozen=True, kw_only=True)
class WordsChapter:
    """One held-out word on a sign."""

    kind: ClassVar[str] = "words"
    title: ClassVar[str] = "Words on signs"
    about: ClassVar[str] = "One held-out word, read by RapidOCR: exactly as asked, and NED, the similarity, 0 to 1."
    units: ClassVar[Mapping[str, Unit]] = {"words_ned": ""}
    contrasts: ClassVar[Sequence[Contrast]] = ()
    bars: ClassVar[Mapping[str, float]] = {"words_exact": 0.9}

    def rows(self, data: DatasetConfig, n: int, info: ModelInfo) -> Rows:
        """All, by script, each of n words, and by the number of letters."""
        if not can_read():
            raise LeftOutError(NO_READER)
        config = find_config(data)
        if not config.words:
            raise LeftOutError("the world has no words")
        found: dict[str, list[Question]] = {ALL: []}
        scripts = [script for script in dict.fromkeys(config.scripts) if readable(script)]
        for script in scripts:
            kept = tuple(font for font in config.sign_fonts if font in SIGN_FONTS[script])
            prompts = held_out_prompts(World(replace(config, words=1.0, scripts=(script,), sign_fonts=kept)), n)
            pairs = [(_length(prompt), _word_question(prompt)) for prompt in prompts]
            found[script] = [question for _, question in pairs]
            for least, most in LENGTHS:
                told = f"{least} to {most}" if most < LENGTHS[-1][1] else f"{least} and more"
                found[f"{script}, {told} letters"] = [q for length, q in pairs if least <= length <= most]
        found[ALL] = [
            question for turn in zip(*(found[script] for script in scripts), strict=True) for question in turn
        ]
        return {name: questions for name, questions in found.items() if questions}


@dataclass(frozen=True, kw_only=True)
class PagesChapter:
    """Posters, slides, infographics, menus, tickets and signs."""

    kind: ClassVar[str] = "pages"
    title: ClassVar[str] = "Pages"
    about: ClassVar[str] = (
        "Held-out pages, read by RapidOCR: asked words and numbers that are there exactly, NED of lines, and pages "
        "without a fault."
    )
    units: ClassVar[Mapping[str, Unit]] = {"words_ned": ""}

    def rows(self, data: DatasetConfig, n: int, info: ModelInfo) -> Rows:
        """All, by script, number of words and kind; and as many posters of two lines, all and by script."""
        if not can_read():
            raise LeftOutError(NO_READER)
        try:
            config = pages_of(data)
        except ValueError:
            raise LeftOutError("the data has no pages") from None
        weights = config.script_weights or [1.0] * len(config.scripts)
        read = [(script, weight) for script, weight in zip(config.scripts, weights, strict=True) if readable(script)]
        if not any(weight for _, weight in read):
            raise LeftOutError("nothing here reads the scripts of its pages")
        scripts, kept = zip(*read, strict=True)
        config = replace(config, scripts=scripts, script_weights=kept)
        prompts = page_prompts(config, n)
        questions = [_page_question(prompt) for prompt in prompts]
        found = {name: [questions[index] for index in group] for name, group in group_pages(prompts).items()}
        if config.kinds[KINDS.index("poster")]:
            posters = replace(config, kinds=tuple(float(kind == "poster") for kind in KINDS))
            drawn = [prompt for prompt in page_prompts(posters, 3 * n) if len(prompt.page.lines) == 2][:n]
            found[TWO_LINES] = [_page_question(prompt) for prompt in drawn]
            for script in sorted({prompt.page.script for prompt in drawn}):
                own = [q for p, q in zip(drawn, found[TWO_LINES], strict=True) if p.page.script == script]
                found[f"{TWO_LINES}, {script}"] = own
        return {name: chosen for name, chosen in found.items() if chosen}


def _length(prompt: Prompt) -> int:
    assert prompt.scene.sign is not None
    return len(prompt.scene.sign.word.replace(" ", ""))


def _word_question(prompt: Prompt) -> Question:
    def read(pictures: Sequence[np.ndarray]) -> Scores:
        assert prompt.scene.sign is not None
        sign = prompt.scene.sign
        reading = compare(read_line(opaque(pictures[0]), sign.script), sign.word)
        return {"words_exact": (float(reading.exact), 1), "words_ned": (reading.ned, 1)}

    return Question(
        prompt=prompt.caption, judge=read, judged="word", size=prompt.size, seeds=(prompt.seed,),
        transparent=prompt.transparent, truth=partial(render_scene, prompt.scene),
    )  # fmt: skip


def _page_question(prompt: PagePrompt) -> Question:
    def read(pictures: Sequence[np.ndarray]) -> Scores:
        verdict = judge_page(pictures[0], prompt.asked)
        return {
            "words_exact": (sum(verdict.words), len(verdict.words)),
            "words_ned": (verdict.ned, 1),
            "all_right": (float(verdict.right), 1),
        }

    return Question(
        prompt=prompt.caption, judge=read, judged="page", size=prompt.size, seeds=(prompt.seed,),
        truth=partial(render_page, prompt.page),
    )  # fmt: skip
