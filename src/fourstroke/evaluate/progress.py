"""How far an evaluation is, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

OnPicture = Callable[[int, int], None]
"""Called with the pictures done and their number."""


def progress(label: str) -> OnPicture:
    """Prints pictures done and the time left on standard error."""
    start = time.perf_counter()

    def on_picture(done: int, total: int) -> None:
        left = (time.perf_counter() - start) / done * (total - done)
        end = "\n" if done == total else ""
        if end or sys.stderr.isatty():
            print(f"\r{label} {done}/{total}, {left:.0f} s left  ", end=end, file=sys.stderr, flush=True)

    return on_picture
