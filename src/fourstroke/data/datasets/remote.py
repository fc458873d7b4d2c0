"""Shards that lie elsewhere: fetched whole, once, into a folder of bounded size that processes share."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourstroke.files import atomic_file, write_text
from fourstroke.image_io import ImageError

ATTEMPTS = 3
TIMEOUT = 60.0
"""Seconds without a byte after which an attempt ends."""
EDITION = 1
"""Raised whenever notes are read otherwise."""


def is_remote(shard: str) -> bool:
    """Whether a shard is to be fetched."""
    return shard.startswith(("http://", "https://", "pipe:"))


@dataclass(frozen=True)
class ShardStore:
    """Fetched shards in a folder, `limit` bytes at most (or one shard, if that is larger)."""

    folder: Path
    limit: int

    def fetch(self, shard: str) -> Path:
        """The file of a shard, fetched if it is not there; raises ImageError if it cannot be had."""
        path = self._path(shard, ".tar")
        with contextlib.suppress(OSError):
            os.utime(path)  # read last
        if not path.exists():
            with self.held(shard):
                pass
        return path

    @contextlib.contextmanager
    def held(self, shard: str) -> Iterator[Path]:
        """As `fetch`; within the block nobody makes room of it."""
        path = self._path(shard, ".tar")
        self.folder.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                try:
                    with atomic_file(path) as partial:
                        _download(shard, partial)
                except OSError as error:
                    raise ImageError(f"cannot be fetched: {' '.join(str(error).split())}") from None
                self._make_room(path)
            yield path

    def notes(self, shard: str, keys: Sequence[str]) -> Any:
        """What was noted of a shard; None if nothing was."""
        try:
            found = json.loads(self._path(shard, ".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found["rows"] if found.get("for") == [EDITION, shard, list(keys)] else None

    def note(self, shard: str, keys: Sequence[str], rows: Any) -> None:
        """Keep what a shard holds, also when it is gone."""
        write_text(self._path(shard, ".json"), json.dumps({"for": [EDITION, shard, list(keys)], "rows": rows}))

    def _path(self, shard: str, suffix: str) -> Path:
        return self.folder / f"{hashlib.blake2b(shard.encode(), digest_size=12).hexdigest()}{suffix}"

    def _make_room(self, kept: Path) -> None:
        """Remove what was not read for longest, but for shards that somebody holds."""
        with (self.folder / "room.lock").open("w") as one:
            fcntl.flock(one, fcntl.LOCK_EX)  # a single process removes at a time, so that what is listed stays
            found = [(file.stat(), file) for file in self.folder.glob("[0-9a-f]*.tar")]
            whole = sum(stat.st_size for stat, _ in found)
            for stat, file in sorted(found, key=lambda pair: pair[0].st_mtime):
                if whole <= self.limit:
                    return
                with file.with_suffix(".lock").open("w") as lock, contextlib.suppress(BlockingIOError):
                    if file != kept:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        file.unlink()
                        whole -= stat.st_size


def _download(shard: str, path: Path) -> None:
    """Write a shard to a file; raises OSError."""
    if shard.startswith("pipe:"):
        with path.open("wb") as file:
            run = subprocess.run(shard.removeprefix("pipe:"), shell=True, stdout=file, stderr=subprocess.PIPE)
        if run.returncode:
            lines = run.stderr.decode(errors="replace").strip().splitlines()
            raise OSError(f"the command ended with {run.returncode}{f': {lines[-1]}' if lines else ''}")
        return
    for attempt in range(ATTEMPTS):
        try:
            with urllib.request.urlopen(shard, timeout=TIMEOUT) as answer, path.open("wb") as file:
                shutil.copyfileobj(answer, file, 1 << 20)
                length = answer.headers.get("Content-Length")
                if length is not None and int(length) != file.tell():
                    raise OSError(f"{file.tell()} of {length} bytes came")
            return
        except OSError:
            if attempt + 1 == ATTEMPTS:
                raise
            time.sleep(2**attempt)
