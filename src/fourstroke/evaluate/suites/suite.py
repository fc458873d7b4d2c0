"""What a suite of prompts is, and how one is read: what cannot be drawn is counted, not drawn."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from fourstroke.evaluate.drawn import DrawnPicture
from fourstroke.registry import find
from fourstroke.textfile import TextError, decode, parse_json, read_lines

Language = Literal["en", "zh"]


@dataclass(frozen=True, kw_only=True)
class SuitePrompt:
    """What is to be drawn, as many times as there are seeds."""

    id: str
    """Unique in its suite."""
    text: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    """The suite's own row, for judges."""
    inputs: tuple[str, ...] = ()
    """Pictures to edit: files relative to the suite's download, or to the drawn folder if they are `beside`."""
    beside: Mapping[str, Callable[[], bytes]] = field(default_factory=dict)
    """Files that a scorer wants near the picture, by path in the drawn folder, and what is in them."""
    grid: str = ""
    """Where the pictures of all seeds stand as one, row by row, if the scorer wants that; `{model}` is its name."""
    size: tuple[int, int] | None = None
    """Width and height in pixels, where the suite asks for one."""
    transparent: bool = False


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked of a suite."""

    source: Path | None = None
    """The suite's download, a folder or a file of it."""
    model: str | None = None
    language: Language = "en"
    n: int | None = None
    """Prompts, evenly over the suite; None is all."""


class Suite(Protocol):
    """A suite of prompts: a dataclass without options, whose first line is its name."""

    kind: ClassVar[str]
    repeats: ClassVar[int]
    """Pictures of each prompt that the official protocol asks for."""
    scorer: ClassVar[str]
    """How the official scorer is started on the drawn `{folder}`."""

    def read(self, wanted: Wanted) -> Iterable[SuitePrompt]:
        """All prompts of a language, in the suite's order; "" as text or id where a row has none.

        Raises:
            ValueError: in one line, if the download is missing, or not as the suite's is.
        """

    def place(self, prompt: SuitePrompt, repeat: int, repeats: int) -> str:
        """Where a prompt's picture number `repeat` of `repeats` lies, a PNG, relative to the drawn folder."""

    def finish(self, folder: Path, pictures: Sequence[DrawnPicture]) -> None:
        """Write what the scorer wants beside all pictures; called again whenever more are there."""


class Plain:
    """The parts of a suite that most do not have."""

    def finish(self, folder: Path, pictures: Sequence[DrawnPicture]) -> None:
        """Nothing more."""


@dataclass(frozen=True)
class SuiteRead:
    """Prompts that can be drawn, each with its number in the whole suite, and how many cannot be, by reason."""

    prompts: list[tuple[int, SuitePrompt]]
    skipped: dict[str, int]


def find_suite(name: str) -> tuple[Suite, Path | None]:
    """The suite of a name, or that of a plain file of prompts and the file.

    Raises:
        ValueError: if it is neither; the message names the known suites.
    """
    if Path(name).is_file():
        return find("suites", "lines")(), Path(name)
    if Path(name).suffix or "/" in name.partition(":")[0]:
        raise ValueError(f"there is no file of prompts {name}")
    return find("suites", name)(), None


def read_suite(suite: Suite, wanted: Wanted) -> SuiteRead:
    """Read a suite; raises ValueError as `Suite.read`, and if nothing in it can be drawn."""
    prompts, seen = [], set()
    skipped: Counter[str] = Counter()
    for number, prompt in enumerate(suite.read(wanted)):
        why = "no prompt" if not prompt.text.strip() else "no id" if not prompt.id else ""
        if why or prompt.id in seen:
            skipped[why or "there twice"] += 1
            continue
        seen.add(prompt.id)
        prompts.append((number, prompt))
    if not prompts:
        reasons = ", ".join(f"{count} rows: {why}" for why, count in skipped.items()) or "it is empty"
        raise ValueError(f"nothing to draw in {wanted.source or suite.kind} as {suite.kind} ({reasons})")
    if wanted.n is not None and wanted.n < len(prompts):
        prompts = [prompts[place * len(prompts) // wanted.n] for place in range(wanted.n)]
    return SuiteRead(prompts, dict(skipped))


def locate(source: Path | None, kind: str, *names: str) -> Path:
    """The first of some files or folders of a download, or the download itself if it is a file.

    Raises:
        ValueError: if there is none of them.
    """
    if source is None:
        raise ValueError(f"{kind} is read from its download: name that with --source (it has {names[0]})")
    if source.is_file():
        return source
    for name in names:
        if (source / name).exists():
            return source / name
    why = f"has no {' and no '.join(names)}: is it {kind}, of this version?" if source.is_dir() else "is not there"
    raise ValueError(f"{source} {why}")


def text_of(row: Mapping[str, Any], *keys: str) -> str:
    """The first text, or number as text, under some keys; "" if there is none."""
    for key in keys:
        value = row.get(key)
        if isinstance(value, str) and value.strip():
            return value.strip()
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    return ""


def json_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines; raises ValueError that names the line."""
    for number, line in read_lines(file, "prompts"):
        try:
            row = parse_json(line)
        except TextError as error:
            raise ValueError(f"{file}, line {number} {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{file}, line {number} is no JSON object")
        yield row


def json_file(file: Path) -> Any:
    """What a JSON file holds; raises ValueError."""
    try:
        return parse_json(_read(file))
    except TextError as error:
        raise ValueError(f"{file} {error}") from None


def csv_rows(file: Path, *columns: str) -> list[dict[str, Any]]:
    """The rows of a table with a head line, commas or, in a .tsv, tabs; raises ValueError if a column is missing."""
    tabs = file.suffix.lower() == ".tsv"
    reader = csv.DictReader(io.StringIO(plain_text(file), newline=""), delimiter="\t" if tabs else ",")
    try:
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(
                f"{file} has no column {missing[0]}; it has {', '.join(reader.fieldnames or ()) or 'none'}"
            )
        return [{key: value for key, value in row.items() if key and value} for row in reader]
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num} is no row of a table: {error}") from None


def plain_text(file: Path) -> str:
    """A UTF-8 file without its byte order mark; raises ValueError."""
    try:
        return decode(_read(file))
    except TextError as error:
        raise ValueError(f"{file} {error}: save it as UTF-8") from None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from None


def apart(repeat: int, path: str) -> str:
    """Where layouts have one picture a prompt, those of further seeds are layouts of their own."""
    return path if repeat == 0 else f"repeat-{repeat}/{path}"
