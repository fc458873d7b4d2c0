"""DPG-Bench: dense prompts, judged by answers to questions.

Format: github.com/TencentQQGYLab/ELLA, README.md, dpg_bench/compute_dpg_bench.py and dist_eval.sh: a prompt in each
file of `dpg_bench/prompts/`; `dpg_bench.csv` has a row for each question; the four pictures of a prompt stand in one,
two by two, under the prompt's name, and are cut apart by the `resolution` that is given: they must be square.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fourstroke.evaluate.suites.suite import Plain, SuitePrompt, Wanted, csv_rows, locate, plain_text, text_of

COLUMNS = "item_id", "text", "proposition_id", "dependency", "question_natural_language"


@dataclass(frozen=True)
class DpgBench(Plain):
    """DPG-Bench: 1,065 dense prompts, 4 pictures of each in a grid."""

    kind: ClassVar[str] = "dpg"
    repeats: ClassVar[int] = 4
    scorer: ClassVar[str] = "bash dpg_bench/dist_eval.sh {folder}/grids SIDE"

    def read(self, wanted: Wanted) -> Iterator[SuitePrompt]:
        """Files of the prompts' folder with the table's questions, or the table's own texts."""
        place = locate(
            wanted.source, "DPG-Bench", "dpg_bench/prompts", "prompts", "dpg_bench/dpg_bench.csv", "dpg_bench.csv"
        )
        table = place if place.is_file() else place.parent / "dpg_bench.csv"
        questions, texts = _questions(table)
        if place.is_dir():
            texts = {file.stem: plain_text(file).strip() for file in sorted(place.glob("*.txt"))}
        for name, text in texts.items():
            yield SuitePrompt(
                id=name,
                text=text,
                meta={"questions": questions[name]} if name in questions else {},
                grid=f"grids/{name}.png",
            )

    def place(self, prompt: SuitePrompt, repeat: int, repeats: int) -> str:
        """Apart from the grids, since the scorer takes every file beside them for one."""
        return f"pictures/{prompt.id}_{repeat}.png"


def _questions(table: Path) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """By prompt, its questions with the numbers of those that must be answered yes before; and its text."""
    questions: dict[str, list[dict[str, Any]]] = defaultdict(list)
    texts: dict[str, str] = {}
    for row in csv_rows(table, *COLUMNS) if table.is_file() else ():
        name = text_of(row, "item_id")
        texts.setdefault(name, text_of(row, "text"))
        before = [int(part) for part in text_of(row, "dependency").split(",") if part.strip().isdigit()]
        questions[name].append(
            {
                "id": int(number) if (number := text_of(row, "proposition_id")).isdigit() else len(questions[name]) + 1,
                "question": text_of(row, "question_natural_language"),
                "dependency": [number for number in before if number],
                "category": text_of(row, "category_broad"),
            }
        )
    return dict(questions), texts
