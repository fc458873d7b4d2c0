"""The end of a measurement that has bars: its figures, then what passed and what failed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fourstroke.files import write_text

Bars = dict[str, tuple[bool, str]]
"""By name, whether it is passed, and what was found."""


def report(figures: dict[str, Any], bars: Bars, out: Path | None) -> int:
    """Print both, write them to `out` if it is given, and return the exit code: 1 if a bar is failed."""
    figures |= {"bars": {name: {"pass": good, "value": value} for name, (good, value) in bars.items()}}
    print(json.dumps(figures, indent=2))
    for name, (good, value) in bars.items():
        print(f"{'pass' if good else 'FAIL'}  {name}: {value}")
    if out:
        write_text(out, json.dumps(figures, indent=2) + "\n")
    return 0 if all(good for good, _ in bars.values()) else 1
