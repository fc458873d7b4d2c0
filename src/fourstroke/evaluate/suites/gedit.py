"""GEdit-Bench: edits that people asked for, in English and Chinese, judged by VIEScore.

Format: huggingface.co/datasets/stepfun-ai/GEdit-Bench (parquet) and github.com/stepfun-ai/Step1X-Edit,
GEdit-Bench/generate_image_example.py: pictures in `fullset/TASK/LANGUAGE/KEY.png`, the picture before beside each as
`KEY_SRCIMG.png`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fourstroke.evaluate.suites.suite import Plain, SuitePrompt, Wanted, apart, locate, text_of

COLUMNS = "task_type", "key", "instruction", "instruction_language"
PICTURE = "input_image"


@dataclass(frozen=True)
class GEdit(Plain):
    """GEdit-Bench: 606 edits in English or Chinese, one picture of each."""

    kind: ClassVar[str] = "gedit"
    repeats: ClassVar[int] = 1
    scorer: ClassVar[str] = "GEdit-Bench/run_gedit_score.py, with {folder} as the model's folder of pictures"

    def read(self, wanted: Wanted) -> Iterator[SuitePrompt]:
        """Rows of the parquet files in the language; pictures are read only when they are edited."""
        try:
            import pyarrow.parquet as parquet
        except ImportError:
            raise ValueError("GEdit-Bench is parquet: pip install 'fourstroke[data]'") from None
        place = locate(wanted.source, "GEdit-Bench", "data", "train-00000-of-00001.parquet")
        files = sorted(place.glob("*.parquet")) if place.is_dir() else [place]
        if not files:
            raise ValueError(f"{place} has no parquet file: is it GEdit-Bench, of this version?")
        for file in files:
            try:
                table = parquet.ParquetFile(file)
                names = table.schema_arrow.names
                missing = [name for name in (*COLUMNS, PICTURE) if name not in names]
                rows = [] if missing else table.read(list(COLUMNS)).to_pylist()
            except (OSError, ValueError) as error:
                raise ValueError(f"{file} is no parquet file that can be read: {str(error).splitlines()[0]}") from None
            if missing:
                raise ValueError(f"{file} has no column {missing[0]}: is it GEdit-Bench, of this version?")
            for number, row in enumerate(rows):
                language = text_of(row, "instruction_language")
                if language == ("en" if wanted.language == "en" else "cn"):
                    yield _prompt(file, number, row, language)

    def place(self, prompt: SuitePrompt, repeat: int, repeats: int) -> str:
        """By task and language."""
        return apart(repeat, f"fullset/{prompt.id}.png")


def _prompt(file: Path, number: int, row: dict[str, Any], language: str) -> SuitePrompt:
    task, key = text_of(row, "task_type"), text_of(row, "key")
    name = f"{task}/{language}/{key}"
    before = f"fullset/{name}_SRCIMG.png"
    return SuitePrompt(
        id=name if task and key else "",
        text=text_of(row, "instruction"),
        meta=row,
        inputs=(before,),
        beside={before: _picture(file, number)},
    )


def _picture(file: Path, number: int) -> Callable[[], bytes]:
    def read() -> bytes:
        """The picture of a row as PNG; raises ImageError."""
        import pyarrow.parquet as parquet

        from fourstroke.image_io import decode_image

        table, start = parquet.ParquetFile(file), 0
        for group in range(table.num_row_groups):
            count = table.metadata.row_group(group).num_rows
            if number < start + count:
                cell = table.read_row_group(group, columns=[PICTURE]).column(PICTURE)[number - start].as_py()
                data = (cell or {}).get("bytes") or b""
                stream = io.BytesIO()
                decode_image(data).save(stream, "PNG")
                return stream.getvalue()
            start += count
        raise AssertionError(f"{file} has lost row {number}")

    return read
