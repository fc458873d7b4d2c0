"""The bundled model draws what it is asked for; judged by pixels that need no fonts."""

from __future__ import annotations

import numpy as np
import pytest

from fourstroke import Pipeline
from fourstroke.checkpoint import CheckpointError
from fourstroke.folder import find_model
from fourstroke.world.palette import SHAPE_COLOURS


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


def _centre(picture: np.ndarray, colour: str) -> tuple[float, float]:
    """Mean column and row of the pixels that are nearer to this colour than to any other shape's, and close to it."""
    distance = {name: np.abs(picture - value).sum(axis=2) for name, value in SHAPE_COLOURS.items()}
    near = np.minimum.reduce(list(distance.values()))
    rows, columns = np.nonzero((distance[colour] == near) & (near < 120))
    return (float(columns.mean()), float(rows.mean())) if len(rows) else (np.nan, np.nan)


def test_shapes_stand_where_they_were_asked_to_stand(pipe):
    side = {"to the left of": (0, -1), "to the right of": (0, 1), "above": (1, -1), "below": (1, 1)}
    right = 0
    for phrase, (axis, sign) in side.items():
        for seed in range(3):
            prompt = f"a red circle {phrase} a blue square on a white background"
            picture = np.asarray(pipe(prompt, seed=seed).images[0]).astype(int)[..., :3]
            red, blue = _centre(picture, "red")[axis], _centre(picture, "blue")[axis]
            right += sign * (red - blue) > 10
    assert right >= 9


def test_seeds_differ_and_repeat(pipe):
    first, again, other = (pipe("a cat", seed=seed).images[0] for seed in (1, 1, 2))
    assert np.array_equal(np.asarray(first), np.asarray(again))
    assert not np.array_equal(np.asarray(first), np.asarray(other))
