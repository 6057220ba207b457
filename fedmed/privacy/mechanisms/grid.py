"""Clipped sums as whole numbers: the grid, what rounding to it costs, and noise on it.

Everything follows from the number of coordinates d and public settings. The grid's step is
ROUNDING x C / sqrt(d) for a clipping norm C, so that rounding, which moves each coordinate by half
a step at most, adds at most ROUNDING x C to the L2 sensitivity of a sum: of two sums that differ by
one unit the roundings differ by a step in each coordinate at most, together by sqrt(d) steps.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fedmed.base.errors import UserError
from fedmed.privacy.mechanisms.integers import DISTANCE, LARGEST, SMALLEST, discrete_gaussian

Floats = npt.NDArray[np.float32]
Vector = npt.NDArray[np.uint32]

ROUNDING: Final = 2.0**-7
"""What rounding adds to the sensitivity, as a share of the clipping norm."""

SMEARED: Final = 16.0
"""Variance, in steps of the grid, that the discrete noise has beyond the continuous noise that is
accounted. A draw of N(0, s^2 - 16), rounded at random by a discrete Gaussian of variance 16, is a
discrete Gaussian of variance s^2 but for a factor within 1 +- 2 e^(-2 pi^2 16), so that what it
does to whole numbers is post-processing of the continuous mechanism."""

_HALF: Final = 2**31
_TAIL: Final = 8.0  # deviations of the whole noise that are kept free: two-sided 1.3e-15


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The grid of a sum over ``hospitals``, whose noise together has ``multiplier`` x sensitivity.

    The noise is that of ``shares`` hospitals added up, each a share; 1: one noise for all. Raises
    :class:`UserError` where whole numbers of 32 bits cannot carry it.
    """

    coordinates: int
    clipping_norm: float
    multiplier: float
    hospitals: int
    shares: int = 1

    def __post_init__(self) -> None:
        if not SMALLEST <= self.deviation <= LARGEST or self.limit < self.sensitivity:
            raise UserError(
                f"privacy.epsilon: noise of {self.multiplier:.3g} times the sensitivity on "
                f"{self.coordinates:,} numbers does not fit whole numbers of 32 bits (a share's "
                f"deviation is {self.deviation:.3g} steps of the grid, of {SMALLEST:g} to "
                f"{LARGEST:,.0f}); raise privacy.epsilon, or train fewer parameters"
            )

    @property
    def step(self) -> float:
        """Width of the grid, in the units of gradients."""
        return ROUNDING * self.clipping_norm / math.sqrt(self.coordinates)

    @property
    def sensitivity(self) -> float:
        """L2 sensitivity of a rounded sum, in steps of the grid: C / step + sqrt(d)."""
        return math.sqrt(self.coordinates) * (1 + ROUNDING) / ROUNDING

    @property
    def deviation(self) -> float:
        """Of one share of the noise, in steps of the grid."""
        return math.sqrt(((self.multiplier * self.sensitivity) ** 2 + SMEARED) / self.shares)

    @property
    def limit(self) -> int:
        """The largest number that one hospital's rounded sum may hold, in steps.

        So that the sums of all and the noise stay within 32 bits: a coordinate of all hospitals
        together wraps around with probability below 2e-15.
        """
        noise = _TAIL * self.deviation * math.sqrt(max(self.shares, self.hospitals))
        return math.floor((_HALF - 1 - noise) / self.hospitals)

    def digest(self) -> str:
        """What all hospitals must have alike."""
        told = json.dumps([ROUNDING, SMEARED, self.clipping_norm.hex(), self.multiplier.hex(),
                           self.coordinates, self.hospitals, self.shares])  # fmt: skip
        return hashlib.sha256(told.encode()).hexdigest()

    def rounded(self, sums: Floats) -> Vector:
        """A clipped sum in steps, modulo 2^32; cut at :attr:`limit`, which adds no sensitivity."""
        steps = np.rint(sums.astype(np.float64) / self.step)
        return np.clip(steps, -self.limit, self.limit).astype(np.int64).astype(np.uint32)

    def noised(self, vector: Vector, key: bytes | None = None) -> Vector:
        """A vector with one share of noise; ``key`` as in :func:`discrete_gaussian`."""
        noise = discrete_gaussian(self.deviation, vector.size, key)
        result: Vector = vector + noise.astype(np.uint32)
        return result

    def opened(self, total: Vector) -> Floats:
        """A sum modulo 2^32 in the units of gradients."""
        return (total.view(np.int32) * self.step).astype(np.float32)


def added_delta(coordinates: int, steps: int, hospitals: int, epsilon: float) -> float:
    """What the tables of the discrete noise add to delta over a run: DISTANCE for each draw.

    >>> added_delta(11_000_000, 10_000, 100, 8.0) < 1e-13
    True
    """
    return (1 + math.exp(min(epsilon, 60.0))) * coordinates * steps * hospitals * DISTANCE
