"""The bundled model draws what it is asked for; judged by pixels that need no fonts."""

from __future__ import annotations

import numpy as np
import pytest

from fourstroke import Pipeline
from fourstroke.checkpoint import CheckpointError
from fourstroke.data.world.palette import SHAPE_COLOURS
from fourstroke.pipeline import find_model


@pytest.fixture(scope="module")
def pipe():
    try:
        return Pipeline.from_pretrained(find_model("micro"))
    except CheckpointError:
        pytest.fail("models/micro is missing or damaged; it is part of the repository")


def _nearest(pixels: np.ndarray) -> str:
    mean = pixels.reshape(-1, 3).mean(axis=0)
    return min(SHAPE_COLOURS, key=lambda name: np.abs(mean - SHAPE_COLOURS[name]).sum())


def test_shapes_have_the_colour_that_was_asked_for(pipe):
    asked = [(colour, shape) for colour in ("red", "blue", "green", "yellow") for shape in ("circle", "square")]
    right = 0
    for colour, shape in asked:
        picture = np.asarray(pipe(f"a {colour} {shape} on a white background", seed=1).images[0])
        height, width = picture.shape[:2]
        middle = picture[height * 2 // 5 : height * 3 // 5, width * 2 // 5 : width * 3 // 5]
        right += _nearest(middle) == colour
    assert right >= len(asked) - 1


def _spread(pipe, prompt: str, seed: int) -> tuple[float, float]:
    """Deviation of the coloured pixels over rows and over columns."""
    picture = np.asarray(pipe(prompt, seed=seed).images[0]).astype(int)
    rows, columns = np.nonzero(picture.max(axis=2) - picture.min(axis=2) > 100)
    return float(rows.std()), float(columns.std())


def test_rows_and_columns_are_told_apart(pipe):
    """Which of the two comes first is what this model still gets wrong; its card says so."""
    right = 0
    for seed in range(3):
        rows, columns = _spread(pipe, "a mushroom to the left of a fish", seed)
        right += columns > rows
        rows, columns = _spread(pipe, "a mushroom above a fish", seed)
        right += rows > columns
    assert right >= 5


def test_seeds_differ_and_repeat(pipe):
    first, again, other = (pipe("a cat", seed=seed).images[0] for seed in (1, 1, 2))
    assert np.array_equal(np.asarray(first), np.asarray(again))
    assert not np.array_equal(np.asarray(first), np.asarray(other))
