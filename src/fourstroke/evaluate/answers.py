"""What models and readers said of pictures, kept by content: the same picture and question are asked about once.

One SQLite file, which several processes may use at the same time; each answer is on the disk before the next is asked
for, so that a run that was killed goes on where it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fourstroke.enhance.endpoint import data_url

BUSY = 60.0
"""Seconds to wait while another process writes."""


class Shown:
    """A picture, (height, width, 3 or 4) uint8, as it is shown to others, encoded and digested once."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    @cached_property
    def digest(self) -> str:
        """Of its pixels and its shape."""
        content = hashlib.blake2b(np.ascontiguousarray(self.pixels).data, digest_size=16)
        content.update(repr(self.pixels.shape).encode())
        return content.hexdigest()

    @cached_property
    def url(self) -> str:
        """As a `data:` URL."""
        return data_url(Image.fromarray(self.pixels))


class Answers:
    """Answers by key, plain JSON; without a file for as long as this lives."""

    def __init__(self, file: Path | None = None) -> None:
        self.file, self._lock = file, threading.Lock()
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        with self._said():
            self._store = sqlite3.connect(
                ":memory:" if file is None else file, timeout=BUSY, isolation_level=None, check_same_thread=False
            )
            self._store.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")

    def get(self, key: str) -> Any | None:
        """What was put under a key; None if nothing was."""
        with self._lock, self._said():
            found = self._store.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return None if found is None else json.loads(found[0])

    def put(self, key: str, answer: Any) -> None:
        """Keep an answer, in place of what was there."""
        with self._lock, self._said():
            self._store.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, json.dumps(answer)))

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        """Errors of the file as a line that names it."""
        try:
            yield
        except sqlite3.Error as error:
            raise ValueError(f"answers cannot be kept in {self.file}: {error}; name another file") from None


def key(*parts: Any) -> str:
    """The key of an answer, of all that it depends on: plain data."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
