"""Intervals and p-values from resamples, over seeds, and of both sources together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtrit

from fedmed.evaluation.intervals import terms
from fedmed.evaluation.intervals.quantity import Quantity

Floats = npt.NDArray[np.float64]
Method = Literal["bca", "percentile", "few events"]
LEVEL: Final = 0.95
MINIMUM: Final = 20  # defined resamples below which there is no interval
TRAINING: Final = 0.2  # least share of the variance over seeds that counts as training's


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Interval of one number, low to high; both None where there is none, and `note` says why.

    `method` is the one that was used, `note` also why it is not the one that was asked for.
    """

    low: float | None
    high: float | None
    method: Method
    note: str | None = None


def interval(
    quantity: Quantity, *, column: int = 0, method: Method = "bca", level: float = LEVEL
) -> Interval:
    """Bootstrap interval of one column of a quantity.

    BCa (Efron 1987): percentiles shifted for median bias, z0 from the share of samples below the
    value (ties count one half), and for a standard error that changes with the value, the
    acceleration being a sixth of the influence values' skewness. The tails are those of Student's t
    with :func:`freedom` (as Hesterberg 2015 does for a mean): of few patients, or where few of them
    move the value, the spread itself is hardly known. It falls back to plain percentiles, and says
    why, where all samples lie on one side of the value or the shift runs off the distribution.
    Resamples in which the quantity is not defined are left out; no interval where the value is NaN,
    where half of the resamples or more are, or where there are too few. A rate or AUROC of few
    events, or a sum of such, has the interval of :mod:`terms` instead. What is not smooth has plain
    percentiles: BCa's acceleration would leave the choice of the threshold out, and covered less in
    simulations.
    """
    value, samples = float(quantity.values[column]), quantity.samples[:, column]
    if math.isnan(value):
        return Interval(low=None, high=None, method=method, note="not defined")
    defined = np.sort(samples[~np.isnan(samples)])
    if defined.size < MINIMUM or 2 * defined.size <= samples.size:
        few = f"defined in {defined.size} of {samples.size} resamples"
        return Interval(low=None, high=None, method=method, note=few)
    tail = (1.0 - level) / 2.0
    if method == "bca" and terms.few(quantity.terms, column):
        down, up = terms.reach(quantity.terms, column, float(ndtri(1.0 - tail)))
        return Interval(low=value - down, high=value + up, method="few events")
    tails = (tail, 1.0 - tail)
    note: str | None = None
    if method == "bca" and not quantity.smooth:
        method, note = "percentile", "percentile: the threshold is chosen anew in every resample"
    elif method == "bca":
        influence = quantity.influence[:, column]
        wider = float(ndtr(stdtrit(freedom(influence), tail)))
        shifted = _bca_tails(value, defined, influence, wider)
        if isinstance(shifted, str):
            method, note = "percentile", shifted
        else:
            tails = shifted
    low, high = np.quantile(defined, tails)
    return Interval(low=float(low), high=float(high), method=method, note=note)


def p_value(quantity: Quantity, *, column: int = 0, null: float = 0.0) -> float | None:
    """Two-sided p-value of quantity = null, from the bootstrap distribution by inversion.

    2 min(1 + #{samples <= null}, 1 + #{samples >= null}) / (R + 1), at most 1: the level at which
    the percentile interval just reaches null. It is never below 2 / (R + 1), 0.001 for 2,000
    resamples. None where :func:`interval` gives no interval.
    """
    samples = quantity.samples[:, column]
    defined = samples[~np.isnan(samples)]
    few = defined.size < MINIMUM or 2 * defined.size <= samples.size
    if math.isnan(float(quantity.values[column])) or few:
        return None
    side = min(int(np.sum(defined <= null)), int(np.sum(defined >= null)))
    return min(1.0, 2.0 * (1 + side) / (defined.size + 1))


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values in the given order (Holm 1979); None stays None and does not count."""
    order = sorted((value, place) for place, value in enumerate(p) if value is not None)
    adjusted: list[float | None] = [None] * len(p)
    running = 0.0
    for rank, (value, place) in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * value))
        adjusted[place] = running
    return adjusted


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """Spread over training seeds: standard deviation, and a Student-t interval of the mean."""

    sd: float
    low: float
    high: float


def over_seeds(values: npt.ArrayLike, *, level: float = LEVEL) -> Seeds | None:
    """Student-t interval of the mean of values [seeds]; None below two seeds or with a NaN.

    The spread on these very test images, which are the same under every seed.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.size < 2 or np.isnan(numbers).any():
        return None
    sd, mean = float(numbers.std(ddof=1)), float(numbers.mean())
    half = float(stdtrit(numbers.size - 1.0, 0.5 + level / 2.0)) * sd / math.sqrt(numbers.size)
    return Seeds(sd=sd, low=mean - half, high=mean + half)


def both_sources(
    quantity: Quantity, low: float, high: float, *, level: float = LEVEL
) -> tuple[float, float] | None:
    """Limits `low` and `high` of the mean over columns (seeds), with the luck of training added.

    The limits given are those of test sampling; each keeps its own distance from the mean, so that
    the asymmetry stays. To its square is added that of Student's t with k - 1 degrees of freedom
    times :func:`training_error`: of few seeds the spread of training is hardly known, and it is
    often the larger. None below two seeds.
    """
    training = training_error(quantity)
    if training is None:
        return None
    mean = float(quantity.values.mean())
    added = float(stdtrit(quantity.values.size - 1.0, 0.5 + level / 2.0)) * training
    down, up = (math.hypot(max(0.0, reach), added) for reach in (mean - low, high - mean))
    return mean - down, mean + up


def p_both(quantity: Quantity, low: float, high: float) -> float | None:
    """Two-sided p-value of "the mean over columns is zero", of :func:`both_sources`.

    The level at which that interval reaches zero, the limits' distances growing as a normal's: it
    is below 0.05 exactly where the interval at 95 % leaves zero out. None below two seeds and where
    neither test images nor training move the mean.
    """
    training = training_error(quantity)
    mean = float(quantity.values.mean())
    distance = mean - low if mean > 0.0 else high - mean
    error = max(0.0, distance) / float(ndtri(0.5 + LEVEL / 2.0))
    if training is None or math.hypot(error, training) == 0.0:
        return None
    freedom = quantity.values.size - 1.0
    small, large = 0.0, 1.0  # of p: the interval at 1 - p shrinks as p grows
    for _ in range(80):
        p = (small + large) / 2.0
        reach = math.hypot(ndtri(p / 2.0) * error, stdtrit(freedom, p / 2.0) * training)
        small, large = (p, large) if reach > abs(mean) else (small, p)
    return (small + large) / 2.0


def training_error(quantity: Quantity) -> float | None:
    """Standard error of the mean over columns (seeds) from training alone; None below two.

    The root of :func:`training_variance` / k, with at least TRAINING of the variance over seeds: of
    two or three seeds what is left after test sampling is too often nothing.
    """
    seeds, training = over_seeds(quantity.values), training_variance(quantity)
    if seeds is None or training is None:
        return None
    return math.sqrt(max(training, TRAINING * seeds.sd**2) / quantity.values.size)


def training_variance(quantity: Quantity) -> float | None:
    """Variance between trainings, from the variance over columns (seeds); None below two.

    Models of different seeds err on different test images, so part of what tells them apart is test
    sampling, which the interval of the mean holds already. That part, from the influence values,
    is taken away (the mean squares of a two-way layout without replication); at least 0.
    """
    seeds = over_seeds(quantity.values)
    if seeds is None:
        return None
    influence = quantity.influence
    apart = influence - influence.mean(axis=1, keepdims=True)
    of_images = float(np.sum(apart**2)) / (quantity.values.size - 1)
    return max(0.0, seeds.sd**2 - of_images) if math.isfinite(of_images) else seeds.sd**2


def standard_error(quantity: Quantity, *, column: int = 0) -> float | None:
    """Clustered, stratified standard error from the influence values; None where it is NaN.

    Of what is not smooth, the standard deviation of its resamples.
    """
    if not quantity.smooth:
        samples = quantity.samples[:, column]
        defined = samples[~np.isnan(samples)]
        return float(defined.std(ddof=1)) if defined.size >= MINIMUM else None
    error = math.sqrt(float(np.sum(quantity.influence[:, column] ** 2)))
    return error if math.isfinite(error) else None


def detectable(
    error: float | None,
    *,
    training: float | None = None,
    seeds: int = 1,
    level: float = LEVEL,
    power: float = 0.8,
) -> float | None:
    """Smallest true value that a two-sided test finds with this power: (z.975 + z.8) x `error`.

    `error` is the standard error, by the normal approximation (Armitage et al. 2002). With
    `training` (:func:`training_error` over `seeds`) it is of the test of :func:`p_both`. `level` is
    1 less the size of the test: of m tests that Holm adjusts the first has 0.05 / m. None where
    nothing varies: a test that nothing can move finds nothing.
    """
    if error is None or math.hypot(error, training or 0.0) <= 1e-12:  # rounding of a constant
        return None
    tails = 0.5 + level / 2.0, power
    if training is None:
        return sum(float(ndtri(tail)) for tail in tails) * error
    return sum(
        math.hypot(ndtri(tail) * error, stdtrit(seeds - 1.0, tail) * training) for tail in tails
    )


def freedom(influence: Floats) -> float:
    """Degrees of freedom of the variance that influence values [patients] give; at least 1.

    Twice its square over its own variance (Satterthwaite 1946), the influence values being a sample
    of patients: as many as patients where they are normal, fewer where a few have most of it.
    """
    squares = np.square(influence)
    total = float(squares.sum())
    spread = float(np.square(squares).sum()) - total**2 / squares.size
    if not (total > 0.0 and spread > 0.0):  # all move it alike, or NaN
        return float(squares.size)
    return float(np.clip(2.0 * total**2 / spread, 1.0, squares.size))


def _bca_tails(
    value: float, samples: Floats, influence: Floats, tail: float
) -> tuple[float, float] | str:
    """The two percentiles of BCa as shares, or why there are none."""
    below = (float(np.sum(samples < value)) + 0.5 * float(np.sum(samples == value))) / samples.size
    if not 0.0 < below < 1.0:
        return "percentile: all resamples lie on one side of the value"
    spread = float(np.sum(influence**2))
    if not spread > 0.0:  # also NaN
        return "percentile: no patient moves the value"
    acceleration = float(np.sum(influence**3)) / (6.0 * spread**1.5)
    bias = float(ndtri(below))
    shares = []
    for share in (tail, 1.0 - tail):
        shifted = bias + float(ndtri(share))
        if acceleration * shifted >= 1.0:
            return "percentile: the acceleration is too large"
        shares.append(float(ndtr(bias + shifted / (1.0 - acceleration * shifted))))
    return shares[0], shares[1]
