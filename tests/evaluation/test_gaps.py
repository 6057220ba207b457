"""Intervals of gaps cover the truth where the groups differ and where they do not."""

from itertools import combinations

import numpy as np
import pytest
from support import goes_red

from fedmed.evaluation.intervals.estimates import estimate, estimate_change, estimate_gap, p_change
from fedmed.evaluation.intervals.gaps import Gap, limits, limits_of_one, without_gap
from fedmed.evaluation.intervals.intervals import interval
from fedmed.evaluation.intervals.quantity import Quantity, spread

ERRORS = np.array([0.03, 0.03, 0.05, 0.05, 0.04])


def drawn(truth: np.ndarray, generator: np.random.Generator, errors: np.ndarray) -> list[Quantity]:
    """Group rates with normal errors, their resamples, and one influence value per group."""
    values = truth + errors * generator.normal(size=len(truth))
    samples = values + errors * generator.normal(size=(200, len(truth)))
    return [
        Quantity(
            ("run",),
            values[[g]],
            samples[:, [g]],
            lambda g=g: np.eye(len(truth))[:, [g]] * errors[g],  # type: ignore[misc]  # bound by default; mypy infers no type
        )
        for g in range(len(truth))
    ]


def gap_of(groups: list[Quantity]) -> Gap:
    return Gap(spread(groups), (tuple(one - two for one, two in combinations(groups, 2)),))


@pytest.mark.parametrize(
    "truth",
    [[0.8, 0.8], [0.8, 0.75], [0.85, 0.7], [0.8] * 5, [0.8, 0.8, 0.78, 0.75, 0.7], [0.9, 0.6]],
)
def test_a_gap_is_covered_whatever_its_size(truth: list[float]) -> None:
    """False-alarm rate: 400 trials at 95 % stay above 92 % but for 4 in 1,000 tests."""
    generator = np.random.default_rng(0)
    rates = np.array(truth)
    inside = 0
    for _ in range(400):
        low, high = limits(gap_of(drawn(rates, generator, ERRORS[: len(truth)]))) or (1, 0)
        inside += low <= np.ptp(rates) <= high
    assert inside / 400 > 0.92


def test_a_bootstrap_of_the_range_itself_would_never_reach_zero() -> None:
    generator = np.random.default_rng(0)
    gaps = [gap_of(drawn(np.full(5, 0.8), generator, ERRORS)) for _ in range(40)]

    def reaches_zero(lows: list[float]) -> None:
        assert np.mean(np.array(lows) <= 0.0) > 0.8

    reaches_zero([(limits(gap) or (1.0, 1.0))[0] for gap in gaps])
    goes_red(reaches_zero, [interval(gap.quantity, method="percentile").low for gap in gaps])


@pytest.mark.parametrize(
    ("before", "after"),
    [([0.8, 0.8], [0.75, 0.75]), ([0.82, 0.78], [0.8, 0.7]), ([0.8] * 5, [0.75] * 5)],
)
def test_a_change_of_gaps_is_covered(before: list[float], after: list[float]) -> None:
    """False-alarm rate: below 1 in 1,000 (the interval covers at least 95 % in these cases)."""
    generator = np.random.default_rng(1)
    truth = np.ptp(after) - np.ptp(before)
    errors = ERRORS[: len(before)]
    inside = wrong = 0
    for _ in range(300):
        one, two = (gap_of(drawn(np.array(t), generator, errors)) for t in (before, after))
        first, second, null = one.quantity, two.quantity, without_gap(two) - without_gap(one)
        # Independent arms: the patients of one do not move the other.
        change = Quantity(
            ("run",),
            second.values - first.values,
            second.samples - first.samples,
            lambda a=first, b=second: np.concatenate([b.influence, a.influence]),  # type: ignore[misc]  # bound by default; mypy infers no type
        )
        told = estimate_change(change, null)
        inside += told["low"] <= truth <= told["high"]
        p = p_change(change, null)
        assert p is not None
        wrong += p < 0.05
        assert (p < 0.05) == (told["low"] > 0 or told["high"] < 0)
    assert inside / 300 > 0.9
    if truth == 0:
        assert wrong / 300 < 0.09


def test_a_noisier_arm_opens_no_gap() -> None:
    """Equal groups under both arms, rates known worse under one: its gap looks larger.

    False-alarm rate: 300 trials at 5 % stay below 9 % but for 2 in 1,000 tests.
    """
    generator = np.random.default_rng(6)
    wrong, plain = 0, 0
    for _ in range(300):
        first = gap_of(drawn(np.full(5, 0.8), generator, ERRORS / 5))
        second = gap_of(drawn(np.full(5, 0.7), generator, ERRORS))
        a, b = first.quantity, second.quantity
        change = Quantity(
            ("run",),
            b.values - a.values,
            b.samples - a.samples,
            lambda a=a, b=b: np.concatenate([b.influence, a.influence]),  # type: ignore[misc]  # bound by default; mypy infers no type
        )
        null = without_gap(second) - without_gap(first)
        p = p_change(change, null)
        told = estimate_change(change, null)
        assert p is not None
        assert (p < 0.05) == (told["low"] > 0 or told["high"] < 0)
        wrong += p < 0.05
        low = estimate_change(change, np.zeros(200))["low"]  # the normal interval alone
        plain += low > 0

    def rarely(count: int) -> None:
        assert count / 300 < 0.09

    rarely(wrong)
    goes_red(rarely, plain)


def test_the_largest_of_several_differences_has_a_wider_interval_than_one_alone() -> None:
    groups = drawn(np.array([0.9, 0.8, 0.8, 0.8, 0.6]), np.random.default_rng(2), ERRORS)
    contrasts = gap_of(groups).contrasts[0]
    low, high = limits_of_one(contrasts, 3) or (0.0, 0.0)
    alone = interval(contrasts[3], method="percentile")
    assert alone.low is not None
    assert alone.high is not None
    assert (high - low) > 1.2 * (alone.high - alone.low)
    assert low < contrasts[3].values[0] < high


def test_a_gap_between_two_groups_has_the_interval_of_their_difference() -> None:
    groups = drawn(np.array([0.9, 0.6]), np.random.default_rng(3), ERRORS[:2])
    low, high = limits(gap_of(groups)) or (0.0, 0.0)
    value = float(groups[0].values[0] - groups[1].values[0])
    half = 1.96 * float(np.hypot(*ERRORS[:2]))
    assert (low, high) == pytest.approx((value - half, value + half), rel=0.15)


def test_the_mean_over_seeds_of_a_gap_lies_in_its_interval_and_training_widens_it() -> None:
    generator = np.random.default_rng(4)
    each = [drawn(np.array([0.9, 0.7]), generator, ERRORS[:2]) for _ in range(3)]
    groups = [
        Quantity(
            ("a", "b", "c"),
            np.concatenate([run[g].values for run in each]),
            np.concatenate([run[g].samples for run in each], axis=1),
            lambda g=g: np.concatenate([run[g].influence for run in each], axis=1),  # type: ignore[misc]  # bound by default; mypy infers no type
        )
        for g in range(2)
    ]
    gap = gap_of(groups)
    told = estimate_gap(gap)
    assert told["value"] == pytest.approx(float(gap.quantity.values.mean()))
    assert told["low"] < told["value"] < told["high"]
    assert told["both_low"] < told["low"]
    assert told["both_high"] > told["high"]
    assert told["training_sd"] == pytest.approx(float(gap.quantity.values.std(ddof=1)))
    alone = estimate_gap(gap.select(["b"]))
    assert alone["value"] == pytest.approx(float(gap.quantity.values[1]))
    assert alone["both_low"] is None


def test_a_signed_gap_is_an_ordinary_difference() -> None:
    one, two = drawn(np.array([0.8, 0.8]), np.random.default_rng(5), ERRORS[:2])
    assert estimate_gap(Gap(one - two)) == estimate(one - two)


def test_a_gap_that_is_not_defined_has_no_interval() -> None:
    groups = drawn(np.array([0.8, np.nan]), np.random.default_rng(6), ERRORS[:2])
    assert limits(gap_of(groups)) is None
    few = [Quantity(q.columns, q.values, q.samples[:5], q.derivative) for q in groups[:1] * 2]
    assert limits(gap_of(few)) is None
    assert estimate_gap(gap_of(few))["low"] is None
