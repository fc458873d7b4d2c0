"""The studies are scripts beside each other: their folder is where they find one another."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "studies"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little to measure, so that a study ends in seconds."""
    pytest.importorskip("matplotlib")
    import arms

    for name, value in {"HELD_OUT_SCENES": 2, "HELD_OUT_PAGES": 2, "WATCHED": 2, "BATCH": 2}.items():
        monkeypatch.setattr(arms, name, value)
