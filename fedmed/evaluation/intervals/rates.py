"""Intervals of rates, and of their sums and differences, where few events are seen.

A resample of twelve patients of whom nobody was missed misses nobody: the bootstrap is certain of
what it has not seen. Here a rate's interval is that of Agresti and Coull (1998), with the number of
images that patients' clusters leave, and a difference's is put together from those of its rates
(MOVER: Zou and Donner 2008, equations 3 and 7; of two rates it is Newcombe's 1998, method 10, with
these limits). Where events are many the bootstrap, which knows everything else, is kept.
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

FEW: Final = 30
"""Events, or images without one, below which the bootstrap's interval of a rate is not used."""


@dataclass(frozen=True, eq=False)
class Rate:
    """A share of images under every column.

    ``values`` [columns]; ``images`` [columns] are in the denominator, of ``people()`` [columns]
    patients, of whom none has more than ``most``. ``influence()`` are the derivatives [patients,
    columns]. ``place`` names the images that it is of: rates of one place are of the same patients,
    of two of other patients. ``models`` [columns] tells models apart: of one place and model a rate
    is the same number. ``known`` gives :attr:`effective` where another rate has it already.
    """

    place: Hashable
    models: tuple[Hashable, ...]
    values: Floats
    images: Floats
    most: int
    people: Callable[[], Floats]
    influence: Callable[[], Floats]
    known: Callable[[], Floats] | None = None

    @cached_property
    def effective(self) -> Floats:
        """Images [columns] of patients of their own that would tell as much.

        By the variance of the clusters (Korn and Graubard 1998); where none is seen, as many as
        there are patients.
        """
        if self.known is not None:
            return self.known()
        variance = np.square(self.influence()).sum(axis=0)
        spread = self.values * (1.0 - self.values)
        seen = (spread > 0.0) & (variance > 0.0)
        by_variance = np.divide(spread, variance, out=np.zeros_like(spread), where=seen)
        held = np.clip(by_variance, 1.0, self.images)
        return held if seen.all() else np.where(seen, held, self.people())

    def few(self, column: int) -> bool:
        """Whether so few events, or so few images without one, are behind a column."""
        rarer = min(self.values[column], 1.0 - self.values[column])
        if self.images[column] * rarer >= FEW * self.most:  # were all of a patient's called alike
            return False
        return bool(self.effective[column] * rarer < FEW)

    def reach(self, column: int, z: float) -> tuple[float, float]:
        """How far the interval goes down and up from the value (Agresti and Coull 1998)."""
        value, images = float(self.values[column]), float(self.effective[column])
        shrunk = images + z * z
        middle = (value * images + z * z / 2.0) / shrunk
        half = z * math.sqrt(middle * (1.0 - middle) / shrunk)
        low, high = max(0.0, middle - half), min(1.0, middle + half)
        return max(0.0, value - low), max(0.0, high - value)

    def select(self, chosen: Sequence[int]) -> Rate:
        """Only these columns."""
        index = list(chosen)
        return Rate(
            self.place,
            tuple(self.models[one] for one in index),
            self.values[index],
            self.images[index],
            self.most,
            lambda: self.people()[index],
            lambda: self.influence()[:, index],
            lambda: self.effective[index],
        )

    def mean(self) -> Rate:
        """The mean over columns: what several models tell of the same images."""
        if len(self.values) == 1:
            return self
        return Rate(
            self.place,
            (self.models,),
            self.values.mean(keepdims=True),
            self.images.sum(keepdims=True),
            self.most * len(self.values),
            lambda: self.people().mean(keepdims=True),
            lambda: self.influence().mean(axis=1, keepdims=True),
        )


Terms = tuple[tuple[float, Rate], ...]
"""A quantity as a sum of rates, each with its factor."""


def few(terms: Terms, column: int) -> bool:
    """Whether any of the rates has few events."""
    return any(rate.few(column) for _, rate in terms)


def reach(terms: Terms, column: int, z: float) -> tuple[float, float]:
    """How far the interval of a sum of rates goes down and up from its value."""
    whole = _gathered(terms, column)
    if not whole:
        return 0.0, 0.0
    parts = [(factor, *rate.reach(column, z)) for factor, rate in whole]
    signs = np.array([math.copysign(1.0, factor) for factor, _, _ in parts])
    down = np.array([abs(f) * (low if f > 0 else high) for f, low, high in parts])
    up = np.array([abs(f) * (high if f > 0 else low) for f, low, high in parts])
    together = _correlation([rate for _, rate in whole], column) * np.outer(signs, signs)
    lower, upper = (math.sqrt(max(0.0, float(side @ together @ side))) for side in (down, up))
    return lower, upper


def _gathered(terms: Terms, column: int) -> Terms:
    """The terms with those of the same number together: a rate less itself is nothing."""
    factors: dict[Hashable, float] = {}
    by_key: dict[Hashable, Rate] = {}
    for factor, rate in terms:
        key = rate.place, rate.models[column]
        factors[key] = factors.get(key, 0.0) + factor
        by_key.setdefault(key, rate)
    return tuple((factor, by_key[key]) for key, factor in factors.items() if factor != 0.0)


def level_of_zero(terms: Terms, column: int) -> float:
    """Standard deviations z at which the interval just reaches zero; at most 40."""
    value = sum(factor * float(rate.values[column]) for factor, rate in terms)
    side = 0 if value > 0.0 else 1
    low, high = 0.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2.0
        if reach(terms, column, middle)[side] < abs(value):
            low = middle
        else:
            high = middle
    return (low + high) / 2.0


def _correlation(rates: Sequence[Rate], column: int) -> Floats:
    """Correlations of rates of the same patients; 0 of others, and where nothing is seen."""
    result = np.eye(len(rates))
    for i, one in enumerate(rates):
        for j, other in enumerate(rates[:i]):
            if one.place != other.place:
                continue
            a, b = one.influence()[:, column], other.influence()[:, column]
            size = math.sqrt(float(a @ a) * float(b @ b))
            result[i, j] = result[j, i] = float(a @ b) / size if size > 0.0 else 0.0
    return result
