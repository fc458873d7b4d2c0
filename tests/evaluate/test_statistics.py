"""Intervals hold their value, narrow with more pictures and stay honest at the ends."""

import numpy as np
import pytest

from fourstroke.evaluate.statistics import share, wilson


def test_intervals_hold_the_value_and_narrow_with_more_pictures() -> None:
    rng = np.random.default_rng(1)
    widths = []
    for n in (50, 800):
        row = share(list(rng.binomial(2, 0.7, n)), [2] * n)
        assert row is not None
        assert 0 <= row.low < row.value < row.high <= 1
        assert row.count == 2 * n
        widths.append(row.high - row.low)
    assert widths[1] < widths[0] / 2


def test_objects_of_one_picture_are_not_independent() -> None:
    together, apart = share([3, 0] * 20, [3] * 40), share([1, 0] * 60, [1] * 120)
    assert together is not None
    assert apart is not None
    assert together.high - together.low > 1.4 * (apart.high - apart.low)


def test_the_same_numbers_give_the_same_interval() -> None:
    assert share([1, 0, 1, 1], [1, 1, 2, 1]) == share([1, 0, 1, 1], [1, 1, 2, 1])


def test_all_right_is_no_certainty() -> None:
    row = share([2] * 10, [2] * 10)
    assert row is not None
    assert row.value == row.high == 1.0
    assert row.low == pytest.approx(wilson(10, 10)[0])
    assert 0.6 < row.low < 0.8


def test_nothing_asked_is_no_share() -> None:
    assert share([0, 0], [0, 0]) is None
    with pytest.raises(ValueError, match="totals"):
        share([1], [])


def test_wilson_agrees_with_a_known_value() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-3)
    with pytest.raises(ValueError, match="no share"):
        wilson(3, 2)
