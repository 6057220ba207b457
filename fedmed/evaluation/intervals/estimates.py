"""Estimates of a comparison: a mean over seeds with test sampling, training noise and both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtr

from fedmed.evaluation.intervals import terms
from fedmed.evaluation.intervals.gaps import Gap, limits, without_gap
from fedmed.evaluation.intervals.intervals import (
    LEVEL,
    MINIMUM,
    both_sources,
    freedom,
    interval,
    over_seeds,
    standard_error,
)
from fedmed.evaluation.intervals.quantity import Quantity
from fedmed.evaluation.measuring.rows import number

COUNTED: Final = 10  # resamples beyond zero from which their count gives the p-value
Json = dict[str, Any]
Floats = npt.NDArray[np.float64]


def estimate(quantity: Quantity) -> Json:
    """The mean over columns (seeds) of a quantity, with what moves it, ready for JSON.

    `low` and `high`: the test patients' luck for these very models. `training_*`: Student t over
    seeds. `both_*`: the two together. The last two are None for one seed.
    """
    found = interval(quantity.mean())
    return _told(quantity, found.low, found.high)


def estimate_unsure(quantity: Quantity) -> Json:
    """:func:`estimate` of what is biased by the number of images: without limits."""
    return _told(quantity, None, None)


def estimate_share(quantity: Quantity) -> Json:
    """:func:`estimate` of what lies between 0 and 1, as every metric here does.

    Student's t over few seeds knows no bounds, and its limits are cut to them.
    """
    return _cut(estimate(quantity), 0.0)


def cut_difference(told: Json, most: float = 1.0) -> Json:
    """A difference of numbers that differ by at most ``most``, with its limits cut to that.

    Only for telling: p-values are those of the limits as they were.
    """
    return _cut(told, -most, most)


def _cut(told: Json, least: float, most: float = 1.0) -> Json:
    keys = ("low", "high", "training_low", "training_high", "both_low", "both_high")
    held = {k: min(most, max(least, told[k])) for k in keys if told[k] is not None}
    return {**told, **held}


def estimate_gap(gap: Gap) -> Json:
    """:func:`estimate` of a gap: its interval is that of the differences it is the largest of."""
    if not gap.contrasts:
        return estimate(gap.quantity) if gap.sure else estimate_unsure(gap.quantity)
    return _told(gap.quantity, *(limits(gap) or (None, None)))


def estimate_change(quantity: Quantity, null: Floats) -> Json:
    """:func:`estimate` of a difference of two gaps; `null` [resamples] is that of equal groups.

    Resamples of a largest difference are biased, by how much depends on the gap, and so differs
    between the two. So the interval is a normal one, with the influence of the groups which are
    extreme, and reaches at least as far as `null` does: the differences of the two gaps that luck
    makes where neither arm has a gap (:func:`gaps.without_gap`). These are not
    around zero: of the arm that ranks worse, and so varies more, luck makes the larger gap.
    """
    return _told(quantity, *(_change_limits(quantity, null) or (None, None)))


def _change_limits(quantity: Quantity, null: Floats) -> tuple[float, float] | None:
    mean = quantity.mean()
    value, error = number(mean), standard_error(mean)
    defined = null[~np.isnan(null)]
    few = defined.size < MINIMUM or 2 * defined.size <= null.size
    if value is None or error is None or few:
        return None
    half = float(ndtri(0.5 + LEVEL / 2.0)) * error
    least, most = (float(q) for q in np.quantile(defined, (0.5 - LEVEL / 2.0, 0.5 + LEVEL / 2.0)))
    return value - max(half, most), value + max(half, -least)


def _told(quantity: Quantity, low: float | None, high: float | None) -> Json:
    value = number(quantity.mean())
    spread = over_seeds(quantity.values) if value is not None else None
    both = None
    if low is not None and high is not None:
        both = both_sources(quantity, low, high)
    return {
        "value": value,
        "low": low,
        "high": high,
        "training_sd": None if spread is None else spread.sd,
        "training_low": None if spread is None else spread.low,
        "training_high": None if spread is None else spread.high,
        "both_low": None if both is None else both[0],
        "both_high": None if both is None else both[1],
        "seeds": len(quantity.columns),
    }


def difference(
    quantity: Quantity, arm: Mapping[int, str], baseline: Mapping[int, str]
) -> tuple[Quantity, list[float | None]]:
    """An arm minus the baseline, per common seed, and the mean values of both sides.

    Seeds that both have are paired. Without a common seed the means are subtracted, and what
    training moves is not known.
    """
    ours, theirs = (quantity.select(names) for names in _sides(arm, baseline))
    if not any(seed in baseline for seed in arm):
        ours, theirs = ours.mean(), theirs.mean()
    return ours - theirs, [number(side.mean()) for side in (ours, theirs)]


def null_difference(gap: Gap, arm: Mapping[int, str], baseline: Mapping[int, str]) -> Floats:
    """Resamples of :func:`difference` of a gap that has contrasts, were all groups alike."""
    ours, theirs = (without_gap(gap.select(names)) for names in _sides(arm, baseline))
    return ours - theirs


def _sides(arm: Mapping[int, str], baseline: Mapping[int, str]) -> tuple[list[str], list[str]]:
    """Columns of both sides: those of the seeds that both have, or all of them."""
    seeds = [seed for seed in arm if seed in baseline]
    if seeds:
        return [arm[seed] for seed in seeds], [baseline[seed] for seed in seeds]
    return list(arm.values()), list(baseline.values())


def mean_value(quantity: Quantity, names: list[str]) -> float:
    """The mean of some columns, NaN where one is not defined."""
    return float(np.mean(quantity.select(names).values))


def p_change(quantity: Quantity, null: Floats) -> float | None:
    """Two-sided p-value of "the two gaps are the same size", of :func:`estimate_change`.

    The larger of that of the normal interval and that of `null`, whose tail is taken to fall like
    that of a normal around zero through its 97.5 % point: a count could not tell 0.001 from 0.0001.
    """
    limits = _change_limits(quantity, null)
    if limits is None:
        return None
    value = float(quantity.values.mean())
    distance = value - limits[0] if value > 0.0 else limits[1] - value
    if distance <= 0.0:
        return None
    return 2.0 * float(ndtr(-abs(value) / distance * float(ndtri(0.5 + LEVEL / 2.0))))


def p_value(quantity: Quantity) -> float | None:
    """Two-sided p-value of "the quantity is zero", the level at which the BCa interval reaches it.

    The share of resamples below zero, moved by Efron's bias and acceleration (1987), in the tails
    of Student's t, so that p and interval agree. A count cannot tell 0.001 from 0.0001, which
    Holm's adjustment needs: with fewer than COUNTED resamples on the far side of zero that share is
    a normal's with their mean and spread. None where :func:`interval` gives no interval or nothing
    varies.
    """
    mean = quantity.mean()
    limits = interval(mean)
    if limits.method == "few events":
        if limits.low == limits.high:  # one and the same model
            return None
        return 2.0 * float(ndtr(-terms.level_of_zero(mean.terms, 0)))
    samples = mean.samples[~np.isnan(mean.samples)]
    if limits.low is None or float(samples.std()) == 0.0:
        return None
    below = float(np.sum(samples < 0.0) + 0.5 * np.sum(samples == 0.0))
    if min(below, samples.size - below) < COUNTED:
        reached = float(-samples.mean() / samples.std(ddof=1))
        least = float(ndtri(1.0 - COUNTED / samples.size))
        z = math.copysign(max(abs(reached), least), reached)
    else:
        z = float(ndtri(below / samples.size))
    if limits.method == "bca":
        value, influence = float(mean.values[0]), mean.influence[:, 0]
        share = float(np.mean(samples < value) + 0.5 * np.mean(samples == value))
        bias = float(ndtri(share))
        acceleration = float(np.sum(influence**3) / (6.0 * np.sum(influence**2) ** 1.5))
        stretched = 1.0 + acceleration * (z - bias)
        # A far z runs off the end of the BCa's curve; the plain one is then far enough.
        z = (z - bias) / stretched - bias if stretched > 0.0 else z
        return min(1.0, 2.0 * float(stdtr(freedom(influence), -abs(z))))
    return min(1.0, 2.0 * float(ndtr(-abs(z))))
