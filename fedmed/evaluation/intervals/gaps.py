"""Intervals of gaps: a largest difference is biased, and its resamples are biased twice.

The range of groups that are equally well served is above zero by the luck of the sample alone, and
no bootstrap interval of the range itself ever reaches zero. So a gap's interval comes from the
differences that it is the largest of, which are unbiased.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from fedmed.evaluation.intervals import terms
from fedmed.evaluation.intervals.intervals import LEVEL, MINIMUM
from fedmed.evaluation.intervals.quantity import Quantity

Floats = npt.NDArray[np.float64]
_NORMAL: Final = 1.959964


@dataclass(frozen=True)
class Gap:
    """A gap under every column, and the signed differences that it is made of.

    `contrasts` holds one tuple per target; the gap is the mean over targets of the largest size of
    a contrast. Empty: the gap is itself one difference, with its sign. `most` is the largest that
    it can be. Without `sure` it has no interval.
    """

    quantity: Quantity
    contrasts: tuple[tuple[Quantity, ...], ...] = ()
    most: float = 1.0
    sure: bool = True

    def select(self, names: Sequence[str]) -> Gap:
        """Only these columns, in this order."""
        chosen = tuple(tuple(c.select(names) for c in each) for each in self.contrasts)
        return replace(self, quantity=self.quantity.select(names), contrasts=chosen)


def limits(gap: Gap, *, level: float = LEVEL) -> tuple[float, float] | None:
    """Interval of the mean over columns of a gap that has contrasts; None where there is none.

    While the simultaneous intervals of all contrasts hold, the gap lies between the largest lower
    and the largest upper limit of their sizes: it covers at least as often as `level`, and reaches
    zero where no group differs for certain.
    """
    if not gap.sure:
        return None
    columns = range(len(gap.quantity.columns))
    sets = _simultaneous([(each, column) for each in gap.contrasts for column in columns], level)
    if sets is None:
        return None
    lows = [max(0.0, float(np.max(np.maximum(one.low, -one.high)))) for one in sets]
    highs = [min(gap.most, float(np.max(np.maximum(one.high, -one.low)))) for one in sets]
    return float(np.mean(lows)), float(np.mean(highs))


def limits_of_one(
    contrasts: Sequence[Quantity], which: int, *, level: float = LEVEL
) -> tuple[float, float] | None:
    """Interval of a contrast's first column that was picked because it is the largest."""
    sets = _simultaneous([(contrasts, 0)], level)
    if sets is None:
        return None
    return float(sets[0].low[which]), float(sets[0].high[which])


def without_gap(gap: Gap) -> Floats:
    """Resamples [resamples] of the mean over columns of a gap, were all groups alike.

    Each contrast's resamples less its value: what the luck of the sample alone makes of groups
    that are equally well served. Where events are few, and resamples vary less than what they stand
    for, they are stretched to it. NaN where a contrast is not defined.
    """
    draws = np.random.default_rng(0)  # for contrasts that no resample moves
    sizes = [
        np.max([np.abs(_luck(contrast, draws)) for contrast in each], axis=0)
        for each in gap.contrasts
    ]
    result: Floats = np.mean(sizes, axis=(0, 2))
    return result


def _luck(contrast: Quantity, draws: np.random.Generator) -> Floats:
    """Resamples of a contrast less its value [resamples, columns]."""
    moved = contrast.samples - contrast.values
    for column in range(len(contrast.columns)):
        if np.isnan(moved[:, column]).all() or not terms.few(contrast.terms, column):
            continue
        wanted = sum(terms.reach(contrast.terms, column, _NORMAL)) / (2.0 * _NORMAL)
        there = float(np.nanstd(moved[:, column]))
        if there > 0.0:
            moved[:, column] *= max(1.0, wanted / there)
        else:
            moved[:, column] = wanted * draws.standard_normal(len(moved))
    return moved


@dataclass(frozen=True)
class Limits:
    """Simultaneous limits [contrasts] of the contrasts of one set."""

    low: Floats
    high: Floats


def simultaneous(
    values: Sequence[Floats],
    moved: Sequence[Floats],
    own: Sequence[Floats],
    *,
    level: float = LEVEL,
) -> list[Limits] | None:
    """Limits of all contrasts of all sets together; None where one is not defined.

    By set, `values` holds the contrasts, `moved` [resamples, contrasts] their resamples, and `own`
    [contrasts, 2] the standard deviations down and up that those of few events have, else 0: none
    is taken to vary less, and these keep their asymmetry.
    """
    widths = half_widths(values, moved, level=level, least=[side.mean(axis=1) for side in own])
    if widths is None:
        return None
    result = []
    for value, width, side in zip(values, widths, own, strict=True):
        mean = side.mean(axis=1)
        shape = np.divide(side, mean[:, None], out=np.ones_like(side), where=mean[:, None] > 0.0)
        result.append(Limits(value - width * shape[:, 0], value + width * shape[:, 1]))
    return result


def _simultaneous(
    sets: Sequence[tuple[Sequence[Quantity], int]], level: float
) -> list[Limits] | None:
    """Limits of contrasts, per set and its column; None where there are none."""
    return simultaneous(
        [np.array([c.values[column] for c in each]) for each, column in sets],
        [np.stack([c.samples[:, column] for c in each], axis=1) for each, column in sets],
        [np.array([_own(contrast, column) for contrast in each]) for each, column in sets],
        level=level,
    )


def _own(contrast: Quantity, column: int) -> tuple[float, float]:
    """Standard deviations down and up that a contrast of few events has; else 0 and 0."""
    if not terms.few(contrast.terms, column):
        return 0.0, 0.0
    down, up = terms.reach(contrast.terms, column, _NORMAL)
    return down / _NORMAL, up / _NORMAL


def half_widths(
    values: Sequence[Floats],
    moved: Sequence[Floats],
    *,
    level: float = LEVEL,
    least: Sequence[Floats] | None = None,
) -> list[Floats] | None:
    """Half widths of simultaneous intervals of all contrasts of all sets.

    By set, `values` holds the contrasts and `moved` [resamples, contrasts] their resamples. A half
    width is c standard deviations of the resamples, with c such that `level` of the resamples keep
    all contrasts inside (Davison and Hinkley 1997, section 4.2.4). `least` are standard deviations
    below which none is taken to be. None where one is not defined.
    """
    if any(np.isnan(value).any() for value in values):
        return None
    defined = ~np.any([np.isnan(samples).any(axis=1) for samples in moved], axis=0)
    if defined.sum() < MINIMUM or 2 * defined.sum() <= defined.size:
        return None
    farthest = np.zeros(int(defined.sum()))
    deviations = []
    for value, samples in zip(values, moved, strict=True):
        distance = np.abs(samples[defined] - value)
        deviation = samples[defined].std(axis=0, ddof=1)
        deviations.append(deviation)
        scale = np.where(deviation > 0.0, deviation, math.inf)
        farthest = np.maximum(farthest, np.max(distance / scale, axis=1))
    reach = float(np.quantile(farthest, level))
    if least is None or not any(floor.any() for floor in least):
        return [reach * deviation for deviation in deviations]
    reach = max(reach, float(ndtri(0.5 + level / 2.0)))  # one alone has a normal's
    return [reach * np.maximum(*both) for both in zip(deviations, least, strict=True)]
