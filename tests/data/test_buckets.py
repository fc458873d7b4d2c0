"""Buckets: sizes near an area and a ratio, crops that keep the shape, and windows at their own scale."""

from __future__ import annotations

import numpy as np
import pytest

from fourstroke.data.buckets import BucketConfig, Buckets, crop_of, show, visible, window_of
from fourstroke.data.frames import Bucketed, Windows
from fourstroke.data.sample import SampleError


@pytest.mark.parametrize(("area", "multiple", "error"), [(256, 16, 0.1), (512, 32, 0.1), (1024, 32, 0.03)])
def test_sizes_are_multiples_near_their_area_and_ratio(area: int, multiple: int, error: float) -> None:
    (sizes,) = Buckets(BucketConfig(areas=(area,)), multiple).sizes
    assert len(sizes) == 7
    assert (area, area) in sizes
    assert {(h, w) for w, h in sizes} == set(sizes)
    for width, height in sizes:
        assert width % multiple == height % multiple == 0
        assert abs(np.log(width * height / area**2)) < 0.15
        near = min(
            abs(np.log(width / height * b / a)) for a, b in ((1, 1), (4, 3), (3, 4), (3, 2), (2, 3), (16, 9), (9, 16))
        )
        assert near < error


def test_a_picture_goes_to_the_nearest_ratio_of_areas_it_is_large_enough_for() -> None:
    frames = Bucketed(Buckets(BucketConfig(areas=(256, 512), enlarge=1.0), 32))
    assert frames.place(((1000, 1000), ())) == {0: ((256, 256), ()), 1: ((512, 512), ())}
    assert list(frames.place(((300, 300), ()))) == [0]
    assert frames.place(((1920, 1080), ((600, 900),)))[0] == ((352, 192), ((192, 288),))
    with pytest.raises(SampleError, match="100 x 100 pixels are too few for 256 x 256"):
        frames.place(((100, 100), ()))
    with pytest.raises(SampleError, match="only 18% of it fits") as caught:
        frames.place(((10_000, 1_000), ()))
    assert caught.value.stage == "ratio"


def test_nothing_is_squeezed_and_the_crop_is_what_is_seen() -> None:
    rows, columns = np.mgrid[:90, :160].astype(np.uint8)
    picture = np.stack([columns, rows, rows * 0, np.full_like(rows, 255)], -1)
    crop = crop_of((160, 90), (64, 64))
    assert crop == pytest.approx((35 / 160, 0, 125 / 160, 1))
    seen = show(picture, (64, 64), crop).astype(float)
    across, down = np.diff(seen[32, 4:-4, 0]).mean(), np.diff(seen[4:-4, 32, 1]).mean()
    assert across == pytest.approx(90 / 64, rel=0.02)
    assert down == pytest.approx(90 / 64, rel=0.02)
    assert seen[32, 0, 0] == pytest.approx(35, abs=1)
    assert seen[32, -1, 0] == pytest.approx(124, abs=1)
    left = show(picture, (64, 64), crop_of((160, 90), (64, 64), (0.0, 0.0)))
    assert left[32, 0, 0] <= 1
    assert visible((160, 90), (64, 64)) == pytest.approx(90 / 160)


def test_a_picture_of_the_size_itself_keeps_its_pixels() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 4), dtype=np.uint8)
    assert np.array_equal(show(picture, (64, 48), crop_of((64, 48), (64, 48))), picture)
    crop = window_of((64, 48), (16, 32), np.random.default_rng(1), rescale=False)
    top, left = round(crop[1] * 48), round(crop[0] * 64)
    assert np.array_equal(show(picture, (16, 32), crop), picture[top : top + 32, left : left + 16])


def test_transparent_colours_do_not_bleed() -> None:
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[:, :32] = (255, 255, 255, 255)  # the rest is black and unseen
    seen = show(picture, (16, 16), (0, 0, 1, 1))
    assert (seen[seen[..., 3] > 0][:, :3] > 250).all()


def test_windows_keep_the_scale_of_drawn_pictures_and_vary_that_of_others() -> None:
    windows = Windows([(16, 16), (32, 16)])
    assert windows.place(((100, 100), ())) == {0: ((16, 16), ()), 1: ((32, 16), ())}
    scales: dict[bool, set[float]] = {True: set(), False: set()}
    for seed in range(20):
        for drawn in (True, False):
            ((left, top, right, bottom),) = windows.crops(
                ((128, 64), ()), ((32, 16), ()), drawn, np.random.default_rng(seed)
            )
            assert 0 <= left < right <= 1
            assert 0 <= top < bottom <= 1
            assert (right - left) * 128 / ((bottom - top) * 64) == pytest.approx(2)
            scales[drawn].add(round(32 / ((right - left) * 128), 3))
    assert scales[True] == {1.0}
    assert len(scales[False]) > 10
    assert min(scales[False]) >= 0.25
    assert max(scales[False]) <= 1


def test_wrong_buckets_are_one_line() -> None:
    with pytest.raises(ValueError, match="give one for each of the 2 areas"):
        BucketConfig(areas=(256, 512), weights=(1.0,))
    with pytest.raises(ValueError, match="areas=8: the smallest picture of this model has 32 pixels"):
        Buckets(BucketConfig(areas=(8,)), 32)
