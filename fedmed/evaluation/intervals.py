"""Intervals and p-values from resamples, over seeds, and of both together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from fedmed.evaluation.measures import Quantity

Floats = npt.NDArray[np.float64]
Method = Literal["bca", "percentile"]
LEVEL: Final = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Interval of one number, [low, high]; both None where there is none, and `note` says why."""

    low: float | None
    high: float | None
    method: Method
    note: str | None = None


def interval(
    quantity: Quantity, *, column: int = 0, method: Method = "bca", level: float = LEVEL
) -> Interval:
    """Bootstrap interval of one column of a quantity.

    BCa (Efron 1987) with the acceleration from influence values; it falls back to percentile,
    with the reason in `note`, where it is degenerate. No interval (None, None) where the value is
    NaN, or more than half of the resamples are.
    """
    raise NotImplementedError


def p_value(quantity: Quantity, *, column: int = 0, null: float = 0.0) -> float | None:
    """Two-sided p-value of quantity = null, by inversion of the bootstrap distribution.

    2 min(1 + #{samples <= null}, 1 + #{samples >= null}) / (R + 1), at most 1; so it is never
    below 2 / (R + 1): 0.001 for 2,000 resamples. None where the quantity is not defined.
    """
    raise NotImplementedError


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) adjusted p-values in the given order; None stays None and does not count."""
    raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """Spread over training seeds: standard deviation, and a Student-t interval of the mean."""

    sd: float
    low: float
    high: float


def over_seeds(values: npt.ArrayLike, *, level: float = LEVEL) -> Seeds | None:
    """Student-t interval of the mean of values [seeds]; None for fewer than two seeds."""
    raise NotImplementedError


def combined(quantity: Quantity, *, level: float = LEVEL) -> Interval:
    """Interval of the mean over columns (seeds) with test sampling and training noise together."""
    raise NotImplementedError


def standard_error(quantity: Quantity, *, column: int = 0) -> float | None:
    """Clustered standard error from the influence values; None where the quantity is NaN."""
    raise NotImplementedError


def detectable(error: float | None, *, level: float = LEVEL, power: float = 0.8) -> float | None:
    """Smallest true value a two-sided test finds with this power: (z.975 + z.8) standard errors."""
    raise NotImplementedError
