"""`fourstroke data degrade`: captions from a JSONL file to triplets, streaming, resumable, with rejects reported.

A row is `{"caption": …}` with, optionally, `scene` (the graph of a drawn world's scene), `kind` (`generate` or
`edit`), `width`, `height` and `id`. Triplets go to `<out>`, one a line, with the `id` of their row (its line number if
it has none, and `id#2` for the second of an id); rows that cannot be used go to `<out>.rejects.jsonl` with the reason.
Rows that stand in either file are not done again, so an interrupted run goes on where it stopped. Each row's seed
depends on its id alone.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourstroke.enhance.triplet import Caption, Engine, RejectedError, Triplet
from fourstroke.world.chance import stable_fraction
from fourstroke.world.graph import Scene

LONGEST_ROW = 1_000_000
"""Characters of one line."""
PROGRESS_SECONDS = 1.0


@dataclass(frozen=True)
class Tally:
    """How many rows there were, and what became of them."""

    done: int
    rejected: int
    skipped: int
    """Rows that an earlier run had done."""


def degrade_file(source: Path, out: Path, engine: Engine, *, seed: int = 0, workers: int = 1) -> Tally:
    """Take every caption of `source` apart into `out`; `workers` rows at a time, written in the order of the rows.

    Raises:
        ValueError: if `source` cannot be read; nothing is written then.
        EndpointError: if the engine's endpoint fails; what was done is kept, and the next run goes on from there.
    """
    if not source.is_file():
        raise ValueError(f"no captions at {source}; give a JSONL file of rows with a caption")
    rejects = out.with_name(f"{out.name}.rejects.jsonl")
    known = _ids(out) | _ids(rejects)
    out.parent.mkdir(parents=True, exist_ok=True)
    done = rejected = skipped = 0
    size, start, told = source.stat().st_size, time.perf_counter(), 0.0
    with out.open("a", encoding="utf-8") as good, rejects.open("a", encoding="utf-8") as bad:

        def fresh() -> Iterator[tuple[str, str]]:
            nonlocal skipped
            seen: Counter[str] = Counter()
            for name, line in rows(source):
                seen[name] += 1
                name = f"{name}#{seen[name]}" if seen[name] > 1 else name  # several captions of one picture
                if name in known:
                    skipped += 1
                else:
                    yield name, line

        for name, result, read in _results(fresh(), engine, seed, workers):
            if isinstance(result, Triplet):
                good.write(json.dumps({"id": name} | result.to_dict(), ensure_ascii=False) + "\n")
                good.flush()
                done += 1
            else:
                bad.write(json.dumps({"id": name, "reason": result}, ensure_ascii=False) + "\n")
                bad.flush()
                rejected += 1
            if (now := time.perf_counter()) - told > PROGRESS_SECONDS and sys.stderr.isatty():
                left = (now - start) * max(0.0, size / max(1, read) - 1)
                print(
                    f"\r{done} triplets, {rejected} rejects, {left:.0f} s left  ", end="", file=sys.stderr, flush=True
                )
                told = now
    if not rejected and not rejects.stat().st_size:
        rejects.unlink()
    return Tally(done, rejected, skipped)


def rows(source: Path) -> Iterator[tuple[str, str]]:
    """The lines of a JSONL file that are not blank, each with its id; bytes that are no UTF-8 become U+FFFD."""
    with source.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                name = json.loads(line[:LONGEST_ROW]).get("id", number)
            except (ValueError, AttributeError, RecursionError):
                name = number
            yield str(name), line


def read_caption(line: str) -> Caption:
    """A row as a caption.

    Raises:
        RejectedError: if it is no JSON object with a caption.
    """
    if len(line) > LONGEST_ROW:
        raise RejectedError(f"the line is longer than {LONGEST_ROW} characters")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise RejectedError("it is not valid JSON") from None
    text = row.get("caption") if isinstance(row, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise RejectedError("it has no caption")
    if row.get("kind", "generate") not in ("generate", "edit"):
        raise RejectedError(f"its kind is {row['kind']!r}; choose generate or edit")
    try:
        scene = Scene.from_dict(row["scene"]) if row.get("scene") else None
    except (KeyError, TypeError):
        raise RejectedError("its scene is no scene graph of the world") from None
    sides = [value if isinstance(value := row.get(key), int) and value > 0 else None for key in ("width", "height")]
    return Caption(text=text.strip(), kind=row.get("kind", "generate"), scene=scene, width=sides[0], height=sides[1])


def read_triplets(source: Path) -> Iterator[Triplet]:
    """The triplets that `degrade_file` wrote."""
    for _, line in rows(source):
        row: dict[str, Any] = json.loads(line)
        row.pop("id", None)
        yield Triplet.from_dict(row)


def _results(
    source: Iterable[tuple[str, str]], engine: Engine, seed: int, workers: int
) -> Iterator[tuple[str, Triplet | str, int]]:
    """(id, triplet or reason, bytes read) for each row, in order, at most a few rows ahead."""
    read = 0
    waiting: list[tuple[str, int, Future[Triplet | str]]] = []
    with ThreadPoolExecutor(workers) as pool:
        for name, line in source:
            read += len(line.encode())
            waiting.append((name, read, pool.submit(_one, engine, line, int(stable_fraction(name, str(seed)) * 2**40))))
            if len(waiting) >= 2 * workers:
                first, position, future = waiting.pop(0)
                yield first, future.result(), position
        for first, position, future in waiting:
            yield first, future.result(), position


def _one(engine: Engine, line: str, seed: int) -> Triplet | str:
    try:
        return engine.degrade(read_caption(line), seed)
    except RejectedError as error:
        return str(error)


def _ids(path: Path) -> set[str]:
    """The ids of the rows that a file holds; a line that a crash left unfinished is cut off."""
    if not path.exists():
        return set()
    whole = path.read_bytes()
    if not whole.endswith(b"\n"):
        path.write_bytes(whole[: whole.rfind(b"\n") + 1])
    with path.open(encoding="utf-8") as file:
        return {str(json.loads(line)["id"]) for line in file}
