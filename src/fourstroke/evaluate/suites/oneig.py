"""OneIG-Bench: alignment, text, reasoning, style and diversity, in English and Chinese.

Format: github.com/OneIG-Bench/OneIG-Benchmark, README.md, text2image.py (columns of the tables, folders of the
categories), scripts/alignment/alignment_score.py (questions), scripts/text/text_score.py (words to be read),
scripts/utils/utils.py (grids are cut apart, row by row).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fourstroke.evaluate.suites.suite import Plain, SuitePrompt, Wanted, csv_rows, json_file, locate, text_of

FOLDERS = {
    "Anime_Stylization": "anime",
    "Portrait": "human",
    "General_Object": "object",
    "Text_Rendering": "text",
    "Knowledge_Reasoning": "reasoning",
    "Multilingualism": "multilingualism",
}


@dataclass(frozen=True)
class OneIG(Plain):
    """OneIG-Bench: 1,120 prompts in English or 1,320 in Chinese, 4 pictures of each in a grid."""

    kind: ClassVar[str] = "oneig"
    repeats: ClassVar[int] = 4
    scorer: ClassVar[str] = (
        "the run_*.sh scripts with image_dir={folder}/grids and image_grid=2 (run_text.sh: {folder}/grids/text)"
    )

    def read(self, wanted: Wanted) -> Iterator[SuitePrompt]:
        """Rows of the table, with questions and words where the repository is there too."""
        english = wanted.language == "en"
        file = locate(wanted.source, "OneIG-Bench", "OneIG-Bench.csv" if english else "OneIG-Bench-ZH.csv")
        scripts, ending = file.parent / "scripts", "" if english else "_zh"
        words = _words(scripts / "text" / f"text_content{ending}.csv")
        asked: dict[str, Any] = {}
        for row in csv_rows(file, "category", "id", "prompt_en" if english else "prompt_cn"):
            folder, number = FOLDERS.get(text_of(row, "category"), ""), text_of(row, "id")
            if folder and folder not in asked:
                known = scripts / "alignment" / "Q_D" / f"{folder}{ending}.json"
                asked[folder] = json_file(known) if known.is_file() else {}
            meta: dict[str, Any] = dict(row)
            if questions := _questions(asked.get(folder, {}).get(number)):
                meta["questions"] = questions
            if folder == "text" and number in words:
                meta["text"] = words[number]
            yield SuitePrompt(
                id=f"{folder}/{number}" if folder and number else "",
                text=text_of(row, "prompt_en" if english else "prompt_cn"),
                meta=meta,
                grid=f"grids/{folder}/{{model}}/{number}.webp",
            )

    def place(self, prompt: SuitePrompt, repeat: int, repeats: int) -> str:
        """Apart from the grids."""
        return f"pictures/{prompt.id}_{repeat}.png"


def _words(table: Path) -> dict[str, str]:
    rows = csv_rows(table, "id", "text_content") if table.is_file() else []
    return {text_of(row, "id"): text_of(row, "text_content") for row in rows}


def _questions(entry: Any) -> list[dict[str, Any]]:
    """As DPG-Bench's: the texts and dependencies are objects by number, or such objects as JSON in a string."""
    if not isinstance(entry, dict):
        return []
    texts, before = (
        json.loads(part) if isinstance(part, str) else part for part in (entry.get("question"), entry.get("dependency"))
    )
    before = before or {}
    return [
        {"id": int(number), "question": text, "dependency": [int(one) for one in before.get(number, ()) if int(one)]}
        for number, text in (texts or {}).items()
    ]
