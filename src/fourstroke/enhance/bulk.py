"""`fourstroke data degrade`: captions from a JSONL file to triplets, streaming, resumable, with rejects reported.

A row is `{"caption": …}` with, optionally, `kind` (`generate` or `edit`), `inputs` (files of the images that an edit
starts from, relative to the file of rows), `width`, `height`, `id`, and what else the rules want, as a scene graph.
Triplets go to `<out>`, one a line, with the `id` of their row (its line number if it has none, and `id#2` for the
second of an id); rows that cannot be used go to `<out>.rejects.jsonl` with the reason. Rows that stand in either file
are not done again, so an interrupted run goes on where it stopped. Each row's seed depends on its id alone. A file that
no earlier run wrote is never appended to.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fourstroke.chance import stable_fraction
from fourstroke.enhance.triplet import Annotation, Degrader, RejectedError, Triplet
from fourstroke.progress import Progress
from fourstroke.textfile import TextError, check_text, parse_json, read_lines

LONGEST_ROW = 1_000_000
"""Bytes of one line."""
ROW_KEYS = frozenset(("caption", "kind", "width", "height", "id", "inputs"))
"""Keys of a row that are not for the rules alone."""
TRIPLET_KEYS, REJECT_KEYS = ("id", "short", "reasoning", "rich", "category"), ("id", "reason")
"""Keys by which rows of ours are known, in their order."""


@dataclass(frozen=True)
class Tally:
    """How many rows there were, and what became of them."""

    done: int
    rejected: int
    skipped: int
    """Rows that an earlier run had done."""


def degrade_file(source: Path, out: Path, degrader: Degrader, *, seed: int = 0, workers: int = 1) -> Tally:
    """Take every caption of `source` apart into `out`; `workers` rows at a time, written in the order of the rows.

    Raises:
        ValueError: if `source` cannot be read, or a file to be appended to is not one of ours; nothing is written then.
        EndpointError: if the degrader's endpoint fails; what was done is kept, and the next run goes on from there.
    """
    if not source.is_file():
        raise ValueError(f"no captions at {source}; give a JSONL file of rows with a caption")
    rejects = out.with_name(f"{out.name}.rejects.jsonl")
    earlier = {out: _earlier(out, source, TRIPLET_KEYS), rejects: _earlier(rejects, source, REJECT_KEYS)}
    known = set().union(*(ids for ids, _ in earlier.values()))
    out.parent.mkdir(parents=True, exist_ok=True)
    for path, (_, size) in earlier.items():
        _cut(path, size)
    done = rejected = skipped = 0
    size = source.stat().st_size
    progress = Progress("degrading", size, "")
    with out.open("a", encoding="utf-8") as good, rejects.open("a", encoding="utf-8") as bad:

        def fresh() -> Iterator[tuple[str, bytes]]:
            nonlocal skipped
            seen: Counter[str] = Counter()
            for name, line in rows(source):
                seen[name] += 1
                name = f"{name}#{seen[name]}" if seen[name] > 1 else name  # several captions of one picture
                if name in known:
                    skipped += 1
                else:
                    yield name, line

        folder = Path(os.path.relpath(source.parent.resolve(), out.parent.resolve()))
        for name, result, read in _results(fresh(), degrader, folder, seed, workers):
            if isinstance(result, Triplet):
                good.write(json.dumps({"id": name} | result.to_dict(), ensure_ascii=False) + "\n")
                good.flush()
                done += 1
            else:
                bad.write(json.dumps({"id": name, "reason": result}, ensure_ascii=False) + "\n")
                bad.flush()
                rejected += 1
            progress.to(min(read, size), f"{done} triplets, {rejected} rejects")
    if not rejected and not rejects.stat().st_size:
        rejects.unlink()
    return Tally(done, rejected, skipped)


def rows(source: Path) -> Iterator[tuple[str, bytes]]:
    """The lines of a JSONL file that are not blank, each with its id, or its number if it has none that can be used."""
    for number, line in read_lines(source, "captions"):
        name = str(number)
        if len(line) <= LONGEST_ROW:
            with contextlib.suppress(ValueError, AttributeError, RecursionError):  # read_annotation says what is wrong
                name = check_text(str(json.loads(line.decode()).get("id", number)))
        yield name, line


def read_annotation(line: bytes, folder: Path = Path()) -> Annotation:
    """A row as an annotation; its input images are files in `folder`, and keys that are not ours go to `meta`.

    Raises:
        RejectedError: if it is no JSON object with a caption.
    """
    if len(line) > LONGEST_ROW:
        raise RejectedError(f"the line is longer than {LONGEST_ROW} bytes")
    try:
        row = parse_json(line)
    except TextError as error:
        raise RejectedError(f"it {error}") from None
    text = row.get("caption") if isinstance(row, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise RejectedError("it has no caption")
    if row.get("kind", "generate") not in ("generate", "edit"):
        raise RejectedError(f"its kind is {row['kind']!r}; choose generate or edit")
    inputs = row.get("inputs", [])
    if not isinstance(inputs, list) or not all(isinstance(name, str) for name in inputs):
        raise RejectedError("its inputs are no list of files")
    sides = [value if isinstance(value := row.get(key), int) and value > 0 else None for key in ("width", "height")]
    return Annotation(
        text=text.strip(),
        kind=row.get("kind", "generate"),
        width=sides[0],
        height=sides[1],
        inputs=tuple(str(folder / name) for name in inputs),
        meta={key: value for key, value in row.items() if key not in ROW_KEYS},
    )


def read_triplets(source: Path) -> Iterator[Triplet]:
    """The triplets that `degrade_file` wrote; names of input images are relative to the file's folder.

    Raises:
        TextError: for a line that is none; the message names it.
    """
    for number, line in read_lines(source, "triplets"):
        try:
            row = parse_json(line)
            triplet = Triplet.from_dict({key: value for key, value in row.items() if key != "id"})
            yield replace(triplet, inputs=tuple(str(source.parent / name) for name in triplet.inputs))
        except (TextError, AttributeError, KeyError, TypeError) as error:
            reason = error if isinstance(error, TextError) else "is no triplet of `fourstroke data degrade`"
            raise TextError(f"{source}, line {number} {reason}") from None


def _results(
    source: Iterable[tuple[str, bytes]], degrader: Degrader, folder: Path, seed: int, workers: int
) -> Iterator[tuple[str, Triplet | str, int]]:
    """(id, triplet or reason, bytes read) for each row, in order, at most a few rows ahead."""
    read = 0
    waiting: list[tuple[str, int, Future[Triplet | str]]] = []
    with ThreadPoolExecutor(workers) as pool:
        for name, line in source:
            read += len(line)
            own = int(stable_fraction(name, str(seed)) * 2**40)
            waiting.append((name, read, pool.submit(_one, degrader, folder, line, own)))
            if len(waiting) >= 2 * workers:
                first, position, future = waiting.pop(0)
                yield first, future.result(), position
        for first, position, future in waiting:
            yield first, future.result(), position


def _one(degrader: Degrader, folder: Path, line: bytes, seed: int) -> Triplet | str:
    try:
        return degrader.degrade(read_annotation(line, folder), seed)
    except RejectedError as error:
        return str(error)


def _earlier(path: Path, source: Path, keys: tuple[str, ...]) -> tuple[set[str], int]:
    """The ids of the rows that an earlier run wrote to `path`, and how many bytes they take; the rest may be cut off.

    Raises:
        ValueError: if it holds anything that no run wrote: a row without `keys`, a last line that is no start of one.
    """
    ids: set[str] = set()
    size = 0
    if not path.exists():
        return ids, size
    refusal = ValueError(f"{path} is not a file that `data degrade` wrote, and is left as it is; name another --out")
    if not path.is_file() or path.samefile(source):
        raise refusal
    with path.open("rb") as file:
        for line in file:
            row = _json(line)
            if isinstance(row, dict) and row.keys() >= set(keys):
                ids.add(str(row["id"]))
                size += len(line)
            elif row is not None or not _unfinished(line, keys):
                raise refusal
    return ids, size


def _json(line: bytes) -> Any:
    """The JSON value of a line, None if it is not valid."""
    try:
        return parse_json(line)
    except TextError:
        return None


def _unfinished(line: bytes, keys: tuple[str, ...]) -> bool:
    """Whether a line is the beginning of a row of ours, as a crash leaves it: the id and then the next of `keys`."""
    start = re.match(rb'\{"id": "(?:[^"\\]|\\.)*"', line)
    rest, due = (line[start.end() :], f', "{keys[1]}": '.encode()) if start else (line, b'{"id": "')
    return not line.endswith(b"\n") and (rest.startswith(due) or due.startswith(rest))


def _cut(path: Path, size: int) -> None:
    """Drop what a crash left behind the first `size` bytes of a file, and end its last line."""
    if not path.exists():
        return
    os.truncate(path, size)
    with path.open("rb+") as file:
        if size and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
            file.write(b"\n")
