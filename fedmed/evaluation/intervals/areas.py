"""Intervals of AUROCs where few pairs of an ill and a healthy image are ranked wrongly.

A model that ranks twelve ill patients above all healthy ones does so in every resample: the
bootstrap is certain that it always will. Here the interval holds every area that the seen one is
not z standard errors away from, with the standard error that the area itself would have
(Newcombe 2006, method 5, after Hanley and McNeil 1982): a larger one where more is seen to vary
than that formula, of patients with one image each, has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

FEW: Final = 10.0
"""Patients of the rarer class, times the share of pairs ranked wrongly (or, if fewer, rightly)."""


@dataclass(frozen=True, eq=False)
class Area:
    """An AUROC under every column.

    ``values`` [columns]; ``people()`` are the numbers of patients with a positive and with a
    negative image. ``influence()`` are the derivatives [patients, columns]; of the mean of several
    models ``single()`` [columns] is the mean of their variances. ``place`` and ``models`` are those
    of :class:`terms.Term`.
    """

    place: Hashable
    models: tuple[Hashable, ...]
    values: Floats
    people: Callable[[], tuple[int, int]]
    influence: Callable[[], Floats]
    single: Callable[[], Floats] | None = None

    @cached_property
    def effective(self) -> Floats:
        """Positives and negatives [2, columns] that would tell as much, were the formula right.

        Fewer than patients by as much as the variance that is seen, of clusters and of any two
        distributions of scores, is above the formula's; more where the mean of several models
        varies less than one. As many as patients where nothing varies.
        """
        positives, negatives = self.people()
        variances = np.square(self.influence()).sum(axis=0)
        single = variances if self.single is None else self.single()
        shares = []
        for value, seen, alone in zip(self.values, variances, single, strict=True):
            told = share(float(value), positives, negatives, float(alone))
            shares.append(told * (alone / seen if seen > 0.0 else 1.0))
        return np.outer(np.array([positives, negatives], dtype=np.float64), shares)

    def few(self, column: int) -> bool:
        """Whether so few pairs are ranked wrongly, or so few patients are there at all."""
        value = float(self.values[column])
        return min(self.people()) * min(value, 1.0 - value) < FEW

    def reach(self, column: int, z: float) -> tuple[float, float]:
        """How far the interval goes down and up from the value (Newcombe 2006, method 5)."""
        value = float(self.values[column])
        positives, negatives = (float(number) for number in self.effective[:, column])
        return newcombe(value, positives, negatives, z)

    def select(self, chosen: Sequence[int]) -> Area:
        """Only these columns."""
        index, single = list(chosen), self.single
        return Area(
            self.place,
            tuple(self.models[one] for one in index),
            self.values[index],
            self.people,
            lambda: self.influence()[:, index],
            None if single is None else lambda: single()[index],
        )

    def mean(self) -> Area:
        """The mean over columns: what several models tell of the same images."""
        if len(self.values) == 1:
            return self
        return Area(
            self.place,
            (self.models,),
            self.values.mean(keepdims=True),
            self.people,
            lambda: self.influence().mean(axis=1, keepdims=True),
            lambda: np.square(self.influence()).sum(axis=0).mean(keepdims=True),
        )


def share(area: float, positives: float, negatives: float, seen: float) -> float:
    """The formula's variance of an AUROC over the one that is ``seen``, where that is larger."""
    if seen <= 0.0:
        return 1.0
    return min(1.0, variance(area, positives, negatives) / seen)


def variance(area: float, positives: float, negatives: float) -> float:
    """Variance of the AUROC of so many images whose true AUROC is ``area``, 0 to 1.

    Newcombe 2006, method 5: Hanley and McNeil's (1982), with the mean of both numbers in the two
    terms that tell them apart.
    """
    others = (positives + negatives) / 2.0 - 1.0
    more = others * ((1.0 - area) / (2.0 - area) + area / (1.0 + area))
    return area * (1.0 - area) * (1.0 + max(0.0, more)) / (positives * negatives)


def newcombe(value: float, positives: float, negatives: float, z: float) -> tuple[float, float]:
    """How far the interval goes down and up from an AUROC (Newcombe 2006, method 5)."""
    low, high = (_limit(value, end, z, positives, negatives) for end in (0.0, 1.0))
    return value - low, high - value


def _limit(value: float, end: float, z: float, positives: float, negatives: float) -> float:
    """The area between ``value`` and ``end`` (0 or 1) that is z of its own errors away."""
    if min(positives, negatives) <= 0.0:
        return end
    near, far = value, end
    for _ in range(60):
        middle = (near + far) / 2.0
        if abs(middle - value) < z * math.sqrt(variance(middle, positives, negatives)):
            near = middle
        else:
            far = middle
    return (near + far) / 2.0
