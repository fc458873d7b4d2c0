"""Pages of small text: the same for a seed, apart between splits, letters of the asked size inside the picture."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import ImageDraw

from fourstroke.world import page
from fourstroke.world.page import render_page
from fourstroke.world.words import choose_words


class Pen:
    """Writes down what is drawn, then draws it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[tuple[tuple[float, float], str, int]] = []
        self.boxes: list[tuple[int, int, int, int]] = []
        draw = ImageDraw.ImageDraw.text

        def text(pen: ImageDraw.ImageDraw, xy: tuple[float, float], line: str, font: object, fill: int) -> None:
            self.lines.append((xy, line, font.size))  # type: ignore[attr-defined]
            if line:
                self.boxes.append(pen.textbbox(xy, line, font=font))  # type: ignore[arg-type]
            draw(pen, xy, line, font=font, fill=fill)

        monkeypatch.setattr(page.ImageDraw.ImageDraw, "text", text)

    @property
    def words(self) -> set[str]:
        return {word for _, line, _ in self.lines for word in line.split()}


def test_a_seed_gives_the_same_page_in_another_process() -> None:
    code = (
        "import hashlib; from fourstroke.world.page import render_page;"
        "print(hashlib.sha256(render_page(7, 96, 64, (8, 16)).tobytes()).hexdigest())"
    )
    digests = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout for _ in range(2)}
    assert len(digests) == 1
    assert len(digests.pop()) == 65
    assert (render_page(7, 96, 64, (8, 16)) == render_page(7, 96, 64, (8, 16))).all()
    assert (render_page(7, 96, 64, (8, 16)) != render_page(8, 96, 64, (8, 16))).any()


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_words_are_those_of_the_split(monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    pen = Pen(monkeypatch)
    for seed in range(20):
        render_page(seed, 96, 96, 10, split)  # type: ignore[arg-type]
    assert len(pen.words) > 20
    assert pen.words <= set(choose_words("latin", split, 8))  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "height", "size"), [(96, 96, 12), (256, 256, 12), (48, 96, 20), (96, 96, 5)])
def test_letters_stay_inside_at_the_asked_size(
    monkeypatch: pytest.MonkeyPatch, width: int, height: int, size: int
) -> None:
    pen = Pen(monkeypatch)
    for seed in range(20):
        picture = render_page(seed, width, height, size)
        assert (picture.shape, picture.dtype) == ((height, width, 4), np.uint8)
        assert (picture[..., 3] == 255).all()
    assert {found for _, _, found in pen.lines} == {size}
    assert pen.boxes
    for left, top, right, bottom in pen.boxes:
        assert left >= 0
        assert top >= 0
        assert right <= width
        assert bottom <= height


def test_sizes_fill_their_range(monkeypatch: pytest.MonkeyPatch) -> None:
    pen = Pen(monkeypatch)
    for seed in range(60):
        render_page(seed, 64, 64, (5, 8))
    assert {size for _, _, size in pen.lines} == {5, 6, 7, 8}


def test_letters_can_be_told_from_the_ground(monkeypatch: pytest.MonkeyPatch) -> None:
    written = [render_page(seed, 96, 96, 12).astype(int) for seed in range(10)]
    monkeypatch.setattr(page.ImageDraw.ImageDraw, "text", lambda *_, **__: None)
    empty = [render_page(seed, 96, 96, 12).astype(int) for seed in range(10)]
    for with_text, without in zip(written, empty, strict=True):
        changed = np.abs(with_text - without)[..., :3].sum(-1)
        assert changed.max() > 150
        assert 0.02 < (changed > 60).mean() < 0.5


@pytest.mark.parametrize("size", [3, 97, (12, 8), (2, 8), (8, 200)])
def test_sizes_that_no_page_holds_are_refused(size: int | tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="choose from 4 to 96"):
        render_page(0, 96, 96, size)
