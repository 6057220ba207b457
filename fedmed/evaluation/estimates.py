"""Estimates of a comparison: a mean over seeds with test sampling, training noise and both."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from scipy.special import ndtr, ndtri

from fedmed.evaluation.intervals import combined, interval, over_seeds
from fedmed.evaluation.quantity import Quantity
from fedmed.evaluation.rows import number

COUNTED: Final = 10  # resamples beyond zero from which their count gives the p-value
Json = dict[str, Any]


def estimate(quantity: Quantity) -> Json:
    """The mean over columns (seeds) of a quantity, with what moves it, ready for JSON.

    `low` and `high`: the test patients' luck for these very models. `training_*`: Student t over
    seeds. `both_*`: the two together. The last two are None for one seed.
    """
    mean = quantity.mean()
    value = number(mean)
    drawn = interval(mean)
    seeds = len(quantity.columns)
    spread = over_seeds(quantity.values) if seeds > 1 and value is not None else None
    both = combined(quantity) if spread is not None else None
    return {
        "value": value,
        "low": drawn.low,
        "high": drawn.high,
        "training_sd": None if spread is None else spread.sd,
        "training_low": None if spread is None else spread.low,
        "training_high": None if spread is None else spread.high,
        "both_low": None if both is None else both.low,
        "both_high": None if both is None else both.high,
        "seeds": seeds,
    }


def difference(
    quantity: Quantity, arm: dict[int, str], baseline: dict[int, str]
) -> tuple[Quantity, Json, list[float | None]]:
    """An arm minus the baseline: the mean difference, its estimate, and both sides' values.

    Seeds that both have are paired. Without a common seed the means are subtracted, and what
    training moves is not known.
    """
    seeds = [seed for seed in arm if seed in baseline]
    if seeds:
        ours = quantity.select([arm[seed] for seed in seeds])
        theirs = quantity.select([baseline[seed] for seed in seeds])
    else:
        ours = quantity.select(list(arm.values())).mean()
        theirs = quantity.select(list(baseline.values())).mean()
    change = ours - theirs
    sides = [number(side.mean()) for side in (ours, theirs)]
    return change.mean(), estimate(change), sides


def mean_value(quantity: Quantity, names: list[str]) -> float:
    """The mean of some columns, NaN where one is not defined."""
    return float(np.mean(quantity.select(names).values))


def p_value(quantity: Quantity) -> float | None:
    """Two-sided p-value of "the quantity is zero", the level at which the BCa interval reaches it.

    The share of resamples below zero, moved by the bias and acceleration of Efron 1987, so that p
    and interval agree. A count cannot tell 0.001 from 0.0001, which Holm's adjustment needs: with
    fewer than COUNTED resamples on the far side of zero that share is a normal's with their mean
    and spread. None where :func:`interval` gives no interval or nothing varies.
    """
    mean = quantity.mean()
    limits = interval(mean)
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
    return min(1.0, 2.0 * float(ndtr(-abs(z))))
