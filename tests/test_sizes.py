"""The shape of an input image or of a chosen ratio is kept, as far as whole latents allow, or refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from fourstroke.folder import ModelInfo
from fourstroke.sizes import fit, fit_size, shaped

OPEN = ModelInfo()
MICRO = ModelInfo(name="micro", width=96, height=96, max_side=128)
TINY = ModelInfo(name="tiny", width=64, height=32, max_side=96)


RATIOS = np.exp(np.linspace(-math.log(200), math.log(200), 401)).tolist()


@pytest.mark.parametrize(("info", "most"), [(OPEN, 86), (MICRO, 4), (TINY, 3)])
def test_shapes_are_kept_as_well_as_whole_latents_can(info, most):
    for ratio in (r for r in RATIOS if max(r, 1 / r) <= most):
        width, height = shaped(ratio, info)
        assert width % 32 == height % 32 == 0
        assert 32 <= min(width, height) <= max(width, height) <= info.max_side
        step = 1 + 32 / min(width, height)  # to the next size, as a factor of the shorter side
        assert abs(math.log(width / height / ratio)) <= math.log(step) / 2 + 0.08
        if info is OPEN and max(ratio, 1 / ratio) <= 4:
            assert width / height == pytest.approx(ratio, rel=0.05)


@pytest.mark.parametrize(("info", "most"), [(OPEN, 86), (MICRO, 4), (TINY, 3)])
def test_shapes_that_cannot_be_drawn_are_refused(info, most):
    for ratio in (r for r in RATIOS if max(r, 1 / r) > 1.25 * most):
        with pytest.raises(ValueError, match=f"{info.name} draws at most {most} times: name a width and a height"):
            shaped(ratio, info)


@pytest.mark.parametrize(
    ("size", "ratio"), [((4000, 1000), 4), ((1000, 4000), 1 / 4), ((6000, 1000), 6), ((3000, 2000), 1.5)]
)
def test_a_wide_picture_is_not_squeezed(size, ratio):
    width, height = fit(Image.new("L", size), OPEN).size
    assert width / height == pytest.approx(ratio, rel=0.025)
    assert max(width, height) <= OPEN.max_side


def test_sizes_of_a_small_model_are_the_nearest_in_shape():
    assert fit(Image.new("L", (300, 200)), MICRO).size == (96, 64)
    assert fit(Image.new("L", (400, 300)), MICRO).size == (128, 96)
    assert fit(Image.new("L", (400, 100)), MICRO).size == (128, 32)
    assert fit(Image.new("L", (100, 100)), MICRO).size == (96, 96)


def test_what_is_too_long_is_refused_at_every_door(tiny, tmp_path):
    long = Image.new("RGB", (600, 100))
    with pytest.raises(
        ValueError, match=r"600x100 pixels is 6\.0 times as wide as it is high, and tiny draws at most 3"
    ):
        tiny("a cat", images=[long])
    with pytest.raises(ValueError, match=r"100x600 pixels is 6\.0 times as high as it is wide.*crop it first"):
        tiny("a cat", images=[long.transpose(Image.Transpose.ROTATE_90)], width=64, height=32)
    with pytest.raises(ValueError, match="an input image of 600x100 pixels"):
        fit_size(600, 100, tiny.info)
