"""What is freed goes back to the system."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from fourstroke.device import trim_heap


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_holes_of_the_heap_go_back_to_the_system() -> None:
    blocks = [b"x" * 60_000 for _ in range(4000)]  # small enough to stand in the heap, one after the other
    full, last = _resident(), blocks[-1]
    blocks.clear()
    trim_heap()
    assert last
    assert full - _resident() > 100 * 2**20
