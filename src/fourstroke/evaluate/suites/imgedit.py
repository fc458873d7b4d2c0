"""ImgEdit-Bench: single edits of nine types, judged by a vision-language model.

Format: github.com/PKU-YuanGroup/ImgEdit, Benchmark/Basic/basic_bench.py and basic_bench_readme.md: an object by key
with `id` (the picture, relative to the originals' folder), `prompt` and `edit_type`; results are `KEY.png` in one
folder. Its UGE file, of harder edits, is laid out in the same way and is named as --source.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fourstroke.evaluate.suites.suite import Plain, SuitePrompt, Wanted, apart, json_file, locate, text_of

ORIGINALS = "original_images", "singleturn", "Benchmark/singleturn", "Benchmark/Basic/original_images", "."
"""Where the pictures may lie in a download."""


@dataclass(frozen=True)
class ImgEdit(Plain):
    """ImgEdit-Bench: 737 edits of nine types, one picture of each."""

    kind: ClassVar[str] = "imgedit"
    repeats: ClassVar[int] = 1
    scorer: ClassVar[str] = (
        "python basic_bench.py --result_img_folder {folder} --edit_json basic_edit.json --origin_img_root ORIGINALS "
        "--prompts_json prompts.json"
    )

    def read(self, wanted: Wanted) -> Iterator[SuitePrompt]:
        """Entries of the file; pictures are those of the folder beside it."""
        file = locate(wanted.source, "ImgEdit-Bench", "basic_edit.json", "Benchmark/Basic/basic_edit.json")
        rows = json_file(file)
        if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
            raise ValueError(f"{file} is no object of edits by key: is it ImgEdit-Bench's basic_edit.json?")
        names = [text_of(row, "id") for row in rows.values()]
        root = _originals(wanted.source or file, file, names)
        for key, row in rows.items():
            picture = text_of(row, "id")
            yield SuitePrompt(
                id=key, text=text_of(row, "prompt"), meta=row, inputs=(str(root / picture),) if picture else ()
            )

    def place(self, prompt: SuitePrompt, repeat: int, repeats: int) -> str:
        """All in one folder."""
        return apart(repeat, f"{prompt.id}.png")


def _originals(source: Path, file: Path, names: list[str]) -> Path:
    """The folder that holds most of some pictures; raises ValueError if none holds any."""
    roots = [root / place for root in dict.fromkeys((source, file.parent)) for place in ORIGINALS if root.is_dir()]
    most = max(roots, key=lambda root: sum((root / name).is_file() for name in names if name))
    if not any((most / name).is_file() for name in names if name):
        raise ValueError(f"none of the pictures of {file} is in {', '.join(ORIGINALS[:-1])} beside it")
    return most.resolve()
