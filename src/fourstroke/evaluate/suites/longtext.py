"""LongText-Bench: long texts on signs, posters and pages, read by a vision-language model.

Format: github.com/X-Omni-Team/X-Omni, README.md, textbench/text_prompts.jsonl and text_prompts_zh.jsonl, and the
scorer in textbench/: pictures in one folder, `{prompt_id}_{repeat_id}.png`, four digits and numbers from 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from fourstroke.evaluate.suites.suite import Plain, SuitePrompt, Wanted, json_rows, locate, text_of


@dataclass(frozen=True)
class LongText(Plain):
    """LongText-Bench: 160 prompts in English or Chinese, 4 pictures of each."""

    kind: ClassVar[str] = "longtext"
    repeats: ClassVar[int] = 4
    scorer: ClassVar[str] = "textbench/eval.sh with SAMPLE_FOLDER={folder} and MODE of the language"

    def read(self, wanted: Wanted) -> Iterator[SuitePrompt]:
        """Lines of the language's file; `meta["text"]` has what is to be read."""
        name = "text_prompts.jsonl" if wanted.language == "en" else "text_prompts_zh.jsonl"
        for row in json_rows(locate(wanted.source, "LongText-Bench", name, f"textbench/{name}")):
            number = text_of(row, "prompt_id")
            yield SuitePrompt(id=number if number.isdigit() else "", text=text_of(row, "prompt"), meta=row)

    def place(self, prompt: SuitePrompt, repeat: int, repeats: int) -> str:
        """All in one folder."""
        return f"{int(prompt.id):04d}_{repeat + 1}.png"
