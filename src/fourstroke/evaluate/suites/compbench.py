"""T2I-CompBench++: colours, shapes, textures, places, numbers, judged by several models.

Format: github.com/Karine-Huang/T2I-CompBench, examples/dataset/*_val.txt (a prompt a line, before a tab),
GORS_finetune/inference_eval.py (names of pictures: the prompt, an underscore, a running number of six digits) and
BLIPvqa_eval/BLIP_vqa.py (reads the prompt out of the name, and a category's folder at a time).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from fourstroke.evaluate.suites.suite import Plain, SuitePrompt, Wanted, locate, plain_text

CATEGORIES = "color", "shape", "texture", "spatial", "3d_spatial", "numeracy", "non_spatial", "complex"
LONGEST = 240
"""Bytes of a prompt in a name; file systems take 255 in all."""


@dataclass(frozen=True)
class CompBench(Plain):
    """T2I-CompBench++: 300 prompts in each of 8 categories, 10 pictures of each."""

    kind: ClassVar[str] = "compbench"
    repeats: ClassVar[int] = 10
    scorer: ClassVar[str] = "python BLIPvqa_eval/BLIP_vqa.py --out_dir {folder}/color (and so for each category)"

    def read(self, wanted: Wanted) -> Iterator[SuitePrompt]:
        """Lines of the validation files, category by category; or those of one file."""
        place = locate(wanted.source, "T2I-CompBench", "examples/dataset", "dataset", "color_val.txt")
        folder = place if place.is_dir() else place.parent
        whole = wanted.source is not None and wanted.source.is_dir()
        files = [folder / f"{name}_val.txt" for name in CATEGORIES] if whole else [place]
        files = [file for file in files if file.is_file()]
        if not files:
            raise ValueError(f"{folder} has no color_val.txt: is it T2I-CompBench's dataset?")
        for file in files:
            category = file.stem.removesuffix("_val")
            for number, line in enumerate(plain_text(file).splitlines()):
                text = line.partition("\t")[0].strip()
                yield SuitePrompt(
                    id=f"{category}/{number}", text=text, meta={"category": category, "number": number}
                )  # fmt: skip

    def place(self, prompt: SuitePrompt, repeat: int, repeats: int) -> str:
        """Named by the prompt; a slash cannot be in a name, and what is too long is cut."""
        words = prompt.text.replace("/", " ").encode()[:LONGEST].decode(errors="ignore").strip()
        number = prompt.meta["number"] * repeats + repeat
        return f"{prompt.meta['category']}/samples/{words}_{number:06d}.png"
