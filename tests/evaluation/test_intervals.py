"""Intervals, p-values and the two sources of variance, against formulas written out here."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from fedmed.evaluation.intervals.intervals import (
    both_sources,
    detectable,
    freedom,
    holm,
    interval,
    over_seeds,
    p_value,
    standard_error,
    training_variance,
)
from fedmed.evaluation.intervals.quantity import Quantity
from fedmed.evaluation.measuring.measures import Column, measure


def quantity(
    value: float | list[float], samples: np.ndarray, influence: np.ndarray | None = None
) -> Quantity:
    values = np.atleast_1d(np.array(value, dtype=float))
    columns = tuple(str(index) for index in range(values.size))
    given = np.zeros((3, values.size)) if influence is None else influence
    table = samples if samples.ndim == 2 else samples[:, None]
    return Quantity(columns, values, table, lambda: given)


def test_percentile_interval_is_the_samples_percentiles() -> None:
    samples = np.random.default_rng(0).normal(size=2001)
    found = interval(quantity(0.0, samples), method="percentile", level=0.9)
    assert (found.low, found.high) == pytest.approx(np.quantile(samples, [0.05, 0.95]))
    assert found.method == "percentile"
    assert found.note is None


def test_bca_of_a_mean_is_that_of_the_textbook() -> None:
    """There the acceleration is from the jackknife, which for a mean is the influence exactly."""
    generator = np.random.default_rng(3)
    labels = np.ones(40, dtype=int)
    scores = generator.beta(0.5, 2.0, 40)  # skewed
    squared = (1.0 - scores) ** 2
    brier = measure([Column(name="a", scores=scores)], labels, np.arange(40), resamples=1999)
    found = interval(brier.quantity("brier"))
    wanted = bca(squared, brier.quantity("brier").samples[:, 0])
    assert found.method == "bca"
    assert (found.low, found.high) == pytest.approx(wanted, abs=1e-12)


def bca(images: np.ndarray, samples: np.ndarray) -> tuple[float, float]:
    """Efron and Tibshirani (1993), equations 14.10, 14.14 and 14.15, for a mean.

    In place of 1.96 Student's t, with the degrees of freedom of the variance of the images.
    """
    z0 = stats.norm.ppf(np.mean(samples < images.mean()))
    jackknife = np.array([np.delete(images, i).mean() for i in range(images.size)])
    d = jackknife.mean() - jackknife
    a = np.sum(d**3) / (6 * np.sum(d**2) ** 1.5)
    ends = []
    fourth = stats.moment(images, 4) / images.var() ** 2
    t = stats.t.ppf(0.975, min(2.0 * images.size / (fourth - 1.0), images.size))
    for z in (-t, t):
        share = stats.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))
        ends.append(float(np.quantile(samples, share)))
    return ends[0], ends[1]


def test_pitfall_the_spread_of_few_patients_is_taken_as_known() -> None:
    """Of normal influences there are as many degrees of freedom as patients, of one alone one."""
    draws = np.random.default_rng(5).normal(size=20000)
    assert freedom(draws) == pytest.approx(20000, rel=0.1)
    assert freedom(np.r_[1.0, np.zeros(49)]) == pytest.approx(2.0 * 50 / 49)
    assert freedom(np.r_[np.ones(25), -np.ones(25)]) == 50
    assert freedom(np.full(50, np.nan)) == 50
    few, many = (interval(quantity(0.0, draws[:2000], draws[:n, None])) for n in (10, 2000))
    assert few.low is not None
    assert many.low is not None
    assert few.low < 1.08 * many.low < 0.0


def test_ties_with_the_value_count_one_half() -> None:
    """A symmetric distribution with many ties has no bias: BCa is then the percentile interval."""
    samples = np.repeat([-1.0, 0.0, 1.0], [100, 800, 100])
    symmetric = np.array([[1.0], [-1.0]])
    both = [interval(quantity(0.0, samples, symmetric), method=m) for m in ("bca", "percentile")]
    assert both[0].method == "bca"
    assert (both[0].low, both[0].high) == (both[1].low, both[1].high) == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("value", "samples", "influence", "words"),
    [
        (2.0, np.linspace(0, 1, 100), [[1.0], [-1.0]], "one side"),
        (0.5, np.linspace(0, 1, 100), [[0.0], [0.0]], "no patient"),
        (0.5, np.linspace(0, 1, 100), [[math.nan], [1.0]], "no patient"),
        (0.002, np.linspace(0, 1, 1000), [[9.0], [0.0]], None),
    ],
)
def test_degenerate_bca_falls_back_and_says_why(
    value: float, samples: np.ndarray, influence: list[list[float]], words: str | None
) -> None:
    found = interval(quantity(value, samples, np.array(influence)))
    assert found.low is not None
    if words is not None:
        assert found.method == "percentile"
        assert words in (found.note or "")
        assert (found.low, found.high) == pytest.approx(np.quantile(samples, [0.025, 0.975]))


def test_a_value_that_never_changes_has_an_interval_of_no_width() -> None:
    found = interval(quantity(0.4, np.full(100, 0.4)))
    assert (found.low, found.high, found.method) == (0.4, 0.4, "percentile")


def test_no_interval_where_most_resamples_are_undefined() -> None:
    samples = np.linspace(0, 1, 100)
    samples[:50] = np.nan
    for q in (quantity(0.5, samples), quantity(math.nan, np.linspace(0, 1, 100))):
        found = interval(q)
        assert found.low is None
        assert found.high is None
        assert found.note
        assert p_value(q) is None
    samples[49] = 0.4
    assert interval(quantity(0.5, samples)).low is not None
    assert interval(quantity(0.5, samples[:0])).low is None


def test_p_value_counts_the_smaller_side_twice() -> None:
    samples = np.arange(-9.5, 90)  # 10 of 100 below 0
    assert p_value(quantity(40.0, samples)) == pytest.approx(2 * 11 / 101)
    assert p_value(quantity(40.0, -samples)) == pytest.approx(2 * 11 / 101)
    assert p_value(quantity(40.0, samples), null=-50.0) == pytest.approx(2 / 101)
    assert p_value(quantity(0.0, np.zeros(100))) == 1.0


def test_p_value_agrees_with_the_percentile_interval() -> None:
    """At the 5 % level the two say the same, whatever the shift."""
    generator = np.random.default_rng(0)
    disagreements = 0
    for shift in np.linspace(0.0, 4.0, 60):
        q = quantity(shift, shift + generator.normal(size=1999))
        found = interval(q, method="percentile")
        p = p_value(q)
        assert found.low is not None
        assert p is not None
        disagreements += (found.low > 0) != (p < 0.05)
    assert disagreements <= 1


def test_holm_is_the_step_down_of_bonferroni() -> None:
    assert holm([0.01, 0.04, None, 0.03]) == [pytest.approx(0.03), 0.06, None, 0.06]
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


def test_seeds_have_a_student_interval() -> None:
    values = [0.80, 0.83, 0.79, 0.84, 0.82]
    found = over_seeds(values)
    assert found is not None
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.sd == pytest.approx(np.std(values, ddof=1))
    assert over_seeds([0.8]) is None
    assert over_seeds([0.8, math.nan]) is None


def normal_samples(sd: float, seeds: int) -> np.ndarray:
    """Samples that all seeds share, with exact normal quantiles."""
    ranks = (np.arange(4000) + 0.5) / 4000
    return np.repeat(sd * stats.norm.ppf(ranks)[:, None], seeds, axis=1)


def with_training(q: Quantity) -> tuple[float, float]:
    """Limits with the luck of the test patients and of training."""
    sampling = interval(q.mean(), method="percentile")
    assert sampling.low is not None
    assert sampling.high is not None
    found = both_sources(q, sampling.low, sampling.high)
    assert found is not None
    return found


def test_combined_interval_has_the_variance_of_both_sources() -> None:
    values = np.array([0.78, 0.80, 0.82])
    q = quantity(list(values), 0.8 + normal_samples(0.01, 3))
    low, high = with_training(q)
    training = stats.t.ppf(0.975, 2) * values.std(ddof=1) / math.sqrt(3)
    half = math.hypot(stats.norm.ppf(0.975) * 0.01, training)
    assert low == pytest.approx(0.8 - half, rel=1e-3)
    assert high == pytest.approx(0.8 + half, rel=1e-3)


@pytest.mark.parametrize(
    ("values", "sd", "expected"),
    [
        ([0.8, 0.8, 0.8], 0.01, lambda v: stats.norm.ppf(0.975) * 0.01),
        ([0.78, 0.80, 0.82], 1e-9, lambda v: stats.t.ppf(0.975, 2) * 0.02 / math.sqrt(3)),
    ],
)
def test_combined_interval_is_that_of_the_only_source(
    values: list[float], sd: float, expected: Callable[[list[float]], float]
) -> None:
    low, high = with_training(quantity(values, 0.8 + normal_samples(sd, 3)))
    assert high == pytest.approx(0.8 + expected(values), abs=1e-4)
    assert low == pytest.approx(0.8 - expected(values), abs=1e-4)


def test_what_test_images_add_to_the_spread_of_seeds_is_not_training() -> None:
    """Models that differ by chance on each image have next to no training variance.

    Their spread s^2 is all test sampling, which the interval of the mean holds already. Without the
    correction all of it would be left. Twenty models, thirty cohorts, fixed seeds.
    """
    left, spread = [], []
    for seed in range(30):
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, 2, 300)
        models = [
            Column(name=str(k), scores=stats.norm.cdf(labels + generator.normal(size=300)))
            for k in range(20)
        ]
        area = measure(models, labels, np.arange(300), resamples=0, metrics=["auroc"])
        left.append(training_variance(area.quantity("auroc")))
        spread.append(float(area.quantity("auroc").values.var(ddof=1)))
    assert min(left) == 0.0
    assert np.mean(left) < 0.25 * np.mean(spread)
    moved = np.array([[0.01, -0.01], [0.02, 0.02], [0.0, 0.0]])
    two = quantity([0.7, 0.8], 0.75 + normal_samples(0.01, 2), moved)
    assert training_variance(two) == pytest.approx(0.005 - 2 * 0.01**2)
    assert training_variance(quantity(0.7, normal_samples(0.01, 1))) is None


def test_one_seed_has_no_combined_interval() -> None:
    assert both_sources(quantity(0.8, 0.8 + normal_samples(0.01, 1)), 0.78, 0.82) is None


def test_standard_error_is_that_of_the_resamples() -> None:
    """Of AUROC and of a paired gap change, by patient; 2,000 resamples give it to 1.6 %."""
    generator = np.random.default_rng(0)
    patient = np.arange(600) // 3
    labels = (np.arange(200) % 3 == 0).astype(int)[patient]
    shared = generator.normal(size=200)[patient]
    scores = [stats.norm.cdf(labels + shared + generator.normal(size=600) - 1) for _ in range(2)]
    models = [Column(name=n, scores=s, threshold=0.5) for n, s in zip("ab", scores, strict=True)]
    sex = np.where(np.arange(200) % 2 == 0, "F", "M")[patient]
    measured = measure(models, labels, patient, {"sex": sex})
    gap = measured.quantity("fnr", "sex", "F") - measured.quantity("fnr", "sex", "M")
    change = gap.select(["a"]) - gap.select(["b"])
    for q in (measured.quantity("auroc"), measured.quantity("auprc"), change):
        assert standard_error(q) == pytest.approx(q.samples[:, 0].std(), rel=0.08)
    assert standard_error(quantity(0.5, np.zeros(3), np.full((3, 1), math.nan))) is None


def test_detectable_difference_has_the_power_it_says() -> None:
    found = detectable(0.02)
    assert found == pytest.approx(2.8016 * 0.02, rel=1e-4)
    power = stats.norm.sf(1.959964 - found / 0.02)
    assert power == pytest.approx(0.8, abs=1e-6)
    assert detectable(None) is None
