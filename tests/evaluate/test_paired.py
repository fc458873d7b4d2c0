"""Intervals cover the truth as often as they say; differences are of the same prompts."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from fourstroke.evaluate.paired import (
    compare_shares,
    difference_apart,
    difference_of,
    intervals,
    mean_of,
    prompt_means,
    wins_of,
)

TRIALS = 2500


def _normal(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.normal(0.3, 1, (TRIALS, n))


def _shares(rng: np.random.Generator, n: int) -> np.ndarray:
    """Means of four pictures that are right or wrong, of prompts that differ in how hard they are; .6 in all."""
    return rng.binomial(4, rng.beta(3, 2, (TRIALS, n))) / 4


def _gaps(rng: np.random.Generator, n: int) -> np.ndarray:
    """Differences of two models that are right or wrong on the same prompts; .1 in the mean."""
    hard = rng.uniform(0, 0.8, (TRIALS, n))
    ours, theirs = rng.random((TRIALS, n)) < hard + 0.1, rng.random((TRIALS, n)) < hard
    return ours.astype(float) - theirs


@pytest.mark.parametrize(("draw", "truth"), [(_normal, 0.3), (_shares, 0.6), (_gaps, 0.1)])
@pytest.mark.parametrize("n", [15, 40, 200])
def test_intervals_cover_the_truth(draw, truth: float, n: int) -> None:
    _, low, high = intervals(draw(np.random.default_rng(n), n))
    assert 0.93 <= np.mean((low <= truth) & (truth <= high)) <= 0.97


def test_a_difference_of_pairs_is_surer_than_that_of_means() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(size=60)
    ours = {str(number): float(value) for number, value in enumerate(hard + 0.2 + 0.05 * rng.normal(size=60))}
    theirs = {str(number): float(value) for number, value in enumerate(hard)}
    gap, alone = difference_of(ours, theirs), mean_of(ours)
    assert gap.high - gap.low < 0.1 * (alone.high - alone.low)
    assert 0 < gap.low < 0.2 < gap.high
    assert wins_of(ours, theirs).value > 0.95
    assert wins_of(ours, theirs, higher=False).value < 0.05


def test_pairs_are_prompts_that_both_have() -> None:
    ours, theirs = {"a": 1.0, "b": 0.0, "c": 9.0}, {"b": 0.0, "a": 0.5, "d": 5.0}
    assert difference_of(ours, theirs).value == 0.25
    assert wins_of(ours, theirs).value == 0.75
    assert difference_of(ours, {"d": 1.0}) is None
    same = difference_of(ours, ours)
    assert (same.low, same.value, same.high) == (0.0, 0.0, 0.0)
    assert wins_of({}, ours) is None


def test_seeds_of_a_prompt_are_one_value() -> None:
    means = prompt_means({"a0": 1.0, "a1": 0.0, "b0": 1.0}, {"a0": "a", "a1": "a", "b0": "b"})
    assert means == {"a": 0.5, "b": 1.0}


def test_all_right_is_not_certain_and_one_prompt_has_no_width() -> None:
    assert mean_of(dict.fromkeys("abcdefghij", 1.0)).low == pytest.approx(0.722, abs=0.01)
    one = mean_of({"a": 0.5})
    assert (one.low, one.value, one.high, one.count) == (0.5, 0.5, 0.5, 1)
    same = mean_of(dict.fromkeys("abc", 0.5))
    assert (same.low, same.high) == (0.5, 0.5)


def test_shares_are_compared_as_tables_tell_them() -> None:
    ours, theirs = [(1.0, 1.0), (2.0, 4.0), (0.0, 0.0)], [(1.0, 1.0), (1.0, 4.0), (1.0, 1.0)]
    assert compare_shares(ours, theirs).value == pytest.approx(3 / 5 - 3 / 6)
    assert compare_shares(ours, theirs, ratio=True).value == pytest.approx(3 / 5 / (3 / 6))
    assert compare_shares(ours, theirs).count == 2
    same = compare_shares(theirs, theirs, ratio=True)
    assert (same.low, same.value, same.high) == (1.0, 1.0, 1.0)
    assert difference_apart(ours, theirs).value == compare_shares(ours, theirs).value
    apart = difference_apart(theirs, theirs)
    assert apart.low < apart.value == 0 < apart.high
    right = difference_apart([(1.0, 1.0)] * 30, [(2.0, 2.0)] * 30)  # is not certain
    assert -0.15 < right.low < right.value == 0 < right.high < 0.15
    assert difference_apart(ours, [(0.0, 0.0)]) is None
    assert compare_shares(ours, [(0.0, 0.0)] * 3) is None
    assert compare_shares(ours, [(0.0, 1.0)] * 3, ratio=True) is None
    one = compare_shares([(1.0, 1.0)], [(0.0, 1.0)])
    assert (one.low, one.value, one.high) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="mismatch"):
        compare_shares(ours, theirs[:2])
    assert difference_apart(ours, theirs[:2]).count == 2


@pytest.mark.parametrize(
    ("compare", "truth"),
    [(compare_shares, -0.1), (partial(compare_shares, ratio=True), 0.8), (difference_apart, -0.1)],
)
def test_intervals_of_shares_cover_the_truth(compare, truth: float) -> None:
    rng, n, covered = np.random.default_rng(1), 50, []
    for _ in range(400):
        counts = rng.integers(1, 4, n)
        hard = rng.uniform(0, 0.2, n)
        sides = []
        for middle in (0.4, 0.5):
            hard = rng.uniform(0, 0.2, n) if compare is difference_apart else hard
            sides.append(list(zip(rng.binomial(counts, middle - 0.1 + hard), counts, strict=True)))
        found = compare(*sides)
        covered.append(found.low <= truth <= found.high)
    assert 0.91 <= np.mean(covered) <= 0.98
