"""Intervals of rates where few events are seen.

A resample of twelve patients of whom nobody was missed misses nobody: the bootstrap is certain of
what it has not seen. Here a rate's interval is that of Agresti and Coull (1998), with the number of
images that patients' clusters leave.
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
        return agresti_coull(float(self.values[column]), float(self.effective[column]), z)

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


def agresti_coull(value: float, images: float, z: float) -> tuple[float, float]:
    """How far the interval goes down and up from a rate of so many images (1998)."""
    shrunk = images + z * z
    middle = (value * images + z * z / 2.0) / shrunk
    half = z * math.sqrt(middle * (1.0 - middle) / shrunk)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return max(0.0, value - low), max(0.0, high - value)
