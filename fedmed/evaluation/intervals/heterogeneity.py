"""How much hospitals differ beyond luck, and what a further hospital may have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit

LEVEL: Final = 0.95
FEWEST: Final = 3  # hospitals, as t has their number less two degrees of freedom


@dataclass(frozen=True, kw_only=True)
class Effects:
    """A random-effects summary: the mean of all such hospitals, and the range of a new one.

    `mean` with its interval `low` to `high`; `tau` is the standard deviation between hospitals, and
    `new_low` to `new_high` the prediction interval of a further hospital's true value.
    """

    mean: float
    low: float
    high: float
    tau: float
    new_low: float
    new_high: float


def random_effects(
    values: npt.ArrayLike, errors: npt.ArrayLike, *, level: float = LEVEL
) -> Effects | None:
    """Summary of `values` [k] with standard errors `errors` [k]; None below three, or without one.

    tau^2 by moments (DerSimonian and Laird 1986), the mean weighted by 1 / (error^2 + tau^2), and
    the prediction interval mean +- t(k - 2) sqrt(tau^2 + se^2) of Higgins, Thompson and
    Spiegelhalter (2009, equation 12), for hospitals whose true values are normal.

    >>> found = random_effects([0.0, 1.0, 2.0], [0.1, 0.1, 0.1])
    >>> round(found.mean, 3), round(found.tau, 3)
    (1.0, 0.995)
    """
    value, variance = np.asarray(values, dtype=np.float64), np.square(errors, dtype=np.float64)
    known = np.isfinite(value).all() and np.isfinite(variance).all() and (variance > 0.0).all()
    if value.size < FEWEST or not known:
        return None
    fixed = 1.0 / variance
    spread = float(fixed @ np.square(value - fixed @ value / fixed.sum()))
    scale = float(fixed.sum() - np.square(fixed).sum() / fixed.sum())
    tau_squared = max(0.0, (spread - (value.size - 1)) / scale)
    weights = 1.0 / (variance + tau_squared)
    mean, squared_error = float(weights @ value / weights.sum()), 1.0 / float(weights.sum())
    tail = 0.5 + level / 2.0
    half = float(ndtri(tail)) * math.sqrt(squared_error)
    new = float(stdtrit(value.size - 2.0, tail)) * math.sqrt(tau_squared + squared_error)
    return Effects(
        mean=mean,
        low=mean - half,
        high=mean + half,
        tau=math.sqrt(tau_squared),
        new_low=mean - new,
        new_high=mean + new,
    )
