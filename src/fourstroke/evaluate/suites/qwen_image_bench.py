"""Qwen-Image-Bench: quality, aesthetics, alignment, fidelity and creativity, judged by Q-Judger.

Format: huggingface.co/datasets/Qwen/Qwen-Image-Bench (JSON lines with ID, prompt_en, prompt_cn, dims_en, dims_cn) and
github.com/QwenLM/Qwen-Image-Bench, README.md: judge.py reads a table with ID, prompt and image_path.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fourstroke.evaluate.drawn import DrawnPicture
from fourstroke.evaluate.suites.suite import SuitePrompt, Wanted, apart, json_rows, locate, text_of
from fourstroke.files import write_text


@dataclass(frozen=True)
class QwenImageBench:
    """Qwen-Image-Bench: 1,000 prompts in English or Chinese, one picture of each."""

    kind: ClassVar[str] = "qwen_image_bench"
    repeats: ClassVar[int] = 1
    scorer: ClassVar[str] = "python judge.py --input {folder}/data.jsonl --model Qwen/Qwen-Image-Bench"

    def read(self, wanted: Wanted) -> Iterator[SuitePrompt]:
        """Rows of the dataset's file, whatever its date; answers of models to the same prompt are one."""
        place = locate(wanted.source, "Qwen-Image-Bench", *_files(wanted.source))
        own = "prompt_en" if wanted.language == "en" else "prompt_cn"
        for row in json_rows(place):
            number = text_of(row, "ID")
            meta: dict[str, Any] = {key: row[key] for key in ("ID", "dims_en", "dims_cn") if key in row}
            yield SuitePrompt(id=number if number.isdigit() else "", text=text_of(row, own), meta=meta)

    def place(self, prompt: SuitePrompt, repeat: int, repeats: int) -> str:
        """By ID."""
        return apart(repeat, f"images/{int(prompt.id):06d}.png")

    def finish(self, folder: Path, pictures: Sequence[DrawnPicture]) -> None:
        """The judge's table, of the first seed."""
        rows = [
            {"ID": int(picture.id), "prompt": picture.wanted, "image_path": str(picture.path.resolve())}
            for picture in pictures
            if picture.file.startswith("images/")
        ]
        write_text(folder / "data.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _files(source: Path | None) -> list[str]:
    """Names of files in a download that may be it."""
    found = sorted(source.glob("*.jsonl")) + sorted(source.glob("data/*.jsonl")) if source and source.is_dir() else []
    return [str(file.relative_to(source)) for file in found if source] or ["qwen_image_bench_hf.jsonl"]
