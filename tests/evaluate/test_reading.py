"""What was read is put in order and cleaned before it is compared."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fourstroke.evaluate import reading


def test_texts_come_row_by_row_from_left_to_right(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = {"C": (60, 90, 0, 30), "A": (12, 40, 0, 30), "D": (58, 88, 50, 80), "B": (10, 38, 50, 80)}
    monkeypatch.setattr(reading, "_read", lambda pixels, script: list(boxes.items()))
    assert reading.read_lines(np.zeros((96, 96, 3), np.uint8)) == ["A", "B", "C", "D"]


@pytest.mark.parametrize(
    ("seen", "kept"),
    [
        ("13.07.2029\n", "13.07.2029"),
        ("«Сб, 20:30» — вход!", "Сб 20:30 вход"),
        ("от 1,5 км.", "от 1,5 км"),
        ("_.:", ""),
    ],
)
def test_points_and_colons_stay_within_numbers(seen: str, kept: str) -> None:
    assert reading._letters(seen) == kept


def test_what_is_no_line_may_be_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []

    class Told:
        def __init__(self, mode: str) -> None:
            self.stdout = "куб\n".encode() if mode == "8" else b" \n"

    def run(command: list[str], **options: object) -> Told:
        modes.append(command[-1])
        return Told(command[-1])

    monkeypatch.setattr(reading, "can_read", lambda script: True)
    monkeypatch.setattr(reading.subprocess, "run", run)
    assert reading._tesseract(Image.new("RGB", (40, 20)), (0, 20, 0, 40), "cyrillic") == "куб"
    assert modes == ["7", "8"]
