"""Intervals of gaps: a largest difference is biased, and its resamples are biased twice.

The range of groups that are equally well served is above zero by the luck of the sample alone, and
no bootstrap interval of the range itself ever reaches zero. So a gap's interval comes from the
differences that it is the largest of, which are unbiased.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedmed.evaluation.intervals.intervals import LEVEL, MINIMUM
from fedmed.evaluation.intervals.quantity import Quantity

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Gap:
    """A gap under every column, and the signed differences that it is made of.

    `contrasts` holds one tuple per target; the gap is the mean over targets of the largest size of
    a contrast. Empty: the gap is itself one difference, with its sign.
    """

    quantity: Quantity
    contrasts: tuple[tuple[Quantity, ...], ...] = ()

    def select(self, names: Sequence[str]) -> Gap:
        """Only these columns, in this order."""
        chosen = tuple(tuple(c.select(names) for c in each) for each in self.contrasts)
        return Gap(self.quantity.select(names), chosen)


def limits(gap: Gap, *, level: float = LEVEL) -> tuple[float, float] | None:
    """Interval of the mean over columns of a gap that has contrasts; None where there is none.

    While the simultaneous intervals of all contrasts hold, the gap lies between the largest lower
    and the largest upper limit of their sizes: it covers at least as often as `level`, and reaches
    zero where no group differs for certain.
    """
    columns = range(len(gap.quantity.columns))
    found = _simultaneous([(each, column) for each in gap.contrasts for column in columns], level)
    if found is None:
        return None
    lows = [max(0.0, float(np.max(np.abs(values) - reach))) for values, reach in found]
    highs = [min(1.0, float(np.max(np.abs(values) + reach))) for values, reach in found]
    return float(np.mean(lows)), float(np.mean(highs))


def limits_of_one(
    contrasts: Sequence[Quantity], which: int, *, level: float = LEVEL
) -> tuple[float, float] | None:
    """Interval of a contrast's first column that was picked because it is the largest."""
    found = _simultaneous([(contrasts, 0)], level)
    if found is None:
        return None
    values, reach = found[0]
    return float(values[which] - reach[which]), float(values[which] + reach[which])


def without_gap(gap: Gap) -> Floats:
    """Resamples [resamples] of the mean over columns of a gap, were all groups alike.

    Each contrast's resamples less its value: what the luck of the sample alone makes of groups
    that are equally well served. NaN where a contrast is not defined.
    """
    sizes = [np.max([np.abs(c.samples - c.values) for c in each], axis=0) for each in gap.contrasts]
    result: Floats = np.mean(sizes, axis=(0, 2))
    return result


def _simultaneous(
    sets: Sequence[tuple[Sequence[Quantity], int]], level: float
) -> list[tuple[Floats, Floats]] | None:
    """Values and half widths of contrasts, per set and its column; None where there are none."""
    values = [np.array([c.values[column] for c in each]) for each, column in sets]
    moved = [np.stack([c.samples[:, column] for c in each], axis=1) for each, column in sets]
    found = half_widths(values, moved, level=level)
    return None if found is None else list(zip(values, found, strict=True))


def half_widths(
    values: Sequence[Floats], moved: Sequence[Floats], *, level: float = LEVEL
) -> list[Floats] | None:
    """Half widths of simultaneous intervals of all contrasts of all sets.

    By set, `values` holds the contrasts and `moved` [resamples, contrasts] their resamples. A half
    width is c standard deviations of the resamples, with c such that `level` of the resamples keep
    all contrasts inside (Davison and Hinkley 1997, section 4.2.4). None where one is not defined.
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
    return [reach * deviation for deviation in deviations]
