"""CVTG-2K: several texts in one picture, read by OCR.

Format: github.com/NJU-PCALab/TextCrafter, README.md (folders and files of the download) and TextCrafter_Flux/eval.py
(`data_list`, `index`, `prompt`); scores are computed with TextCrafter_Eval's unified_metrics_eval.py, which reads
`CVTG/2/0.png` and `CVTG-Style/5/0.png`, where the download's README calls the second folder CVTG-style.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from fourstroke.evaluate.suites.suite import Plain, SuitePrompt, Wanted, apart, json_file, locate, text_of

FOLDERS = {"CVTG": ("CVTG",), "CVTG-Style": ("CVTG-style", "CVTG-Style")}
"""Names in the scorer's layout, and in downloads."""


@dataclass(frozen=True)
class Cvtg(Plain):
    """CVTG-2K: 2,000 prompts with 2 to 5 texts, one picture of each."""

    kind: ClassVar[str] = "cvtg"
    repeats: ClassVar[int] = 1
    scorer: ClassVar[str] = (
        "python unified_metrics_eval.py --benchmark_dir DOWNLOAD --result_dir {folder} --output_file results.json"
    )

    def read(self, wanted: Wanted) -> Iterator[SuitePrompt]:
        """All files of both folders."""
        root = locate(wanted.source, "CVTG-2K", "CVTG-2K", "CVTG", "CVTG-style", "CVTG-Style")
        root = root if root.name == "CVTG-2K" else root.parent
        for place, names in FOLDERS.items():
            for count in (2, 3, 4, 5):
                options = [root / name / f"{count}{end}.json" for name in names for end in ("", "_combined")]
                file = next((option for option in options if option.is_file()), None)
                if file is None:
                    continue
                found = json_file(file)
                rows = found.get("data_list") if isinstance(found, dict) else None
                if not isinstance(rows, list):
                    raise ValueError(f"{file} has no data_list: is it CVTG-2K, of this version?")
                for row in rows:
                    row = row if isinstance(row, dict) else {}
                    number = text_of(row, "index")
                    yield SuitePrompt(
                        id=f"{place}/{count}/{number}" if number else "",
                        text=text_of(row, "prompt"),
                        meta=row | {"texts": count},
                    )

    def place(self, prompt: SuitePrompt, repeat: int, repeats: int) -> str:
        """By folder and number of texts."""
        return apart(repeat, f"{prompt.id}.png")
