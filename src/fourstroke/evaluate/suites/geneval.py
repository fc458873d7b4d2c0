"""GenEval: objects, counts, colours and places, judged by an object detector.

Format: github.com/djghosh13/geneval, README.md, prompts/create_prompts.py (writes the file of prompts) and
evaluation/evaluate_images.py (reads folders named by digits, `metadata.jsonl` and `samples/*.png` in each).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from fourstroke.evaluate.suites.suite import Plain, SuitePrompt, Wanted, json_rows, locate, text_of


@dataclass(frozen=True)
class GenEval(Plain):
    """GenEval: 553 short prompts, 4 pictures of each."""

    kind: ClassVar[str] = "geneval"
    repeats: ClassVar[int] = 4
    scorer: ClassVar[str] = (
        "python evaluation/evaluate_images.py {folder} --outfile results.jsonl --model-path DETECTOR"
    )

    def read(self, wanted: Wanted) -> Iterator[SuitePrompt]:
        """Lines of evaluation_metadata.jsonl."""
        file = locate(
            wanted.source, "GenEval", "prompts/evaluation_metadata.jsonl", "evaluation_metadata.jsonl"
        )  # fmt: skip
        for number, row in enumerate(json_rows(file)):
            metadata = json.dumps(row).encode()
            yield SuitePrompt(
                id=f"{number:05d}",
                text=text_of(row, "prompt"),
                meta=row,
                beside={f"{number:05d}/metadata.jsonl": lambda metadata=metadata: metadata},  # type: ignore[misc]
            )

    def place(self, prompt: SuitePrompt, repeat: int, repeats: int) -> str:
        """In a folder for each prompt."""
        return f"{prompt.id}/samples/{repeat:04d}.png"
