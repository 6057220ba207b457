"""A measured number with its resamples, and the sums, differences and ranges made of such."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fedmed.evaluation.intervals.terms import Terms

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Quantity:
    """A number per column, its resamples and its influence values; differences are paired.

    `values` [columns] and `samples` [resamples, columns]; NaN where the quantity is not defined
    (a group without one of the classes, no threshold). `influence` [patients, columns] is its
    derivative by a patient's weight, centred within each stratum of the resampling, so that a
    resample with patient counts w is about values + (w - 1) @ influence, and the root of the sum of
    squares is its standard error (infinitesimal jackknife, Efron 1982). `terms` are the rates and
    AUROCs that it is the sum of, where it is one. `smooth` is False where a threshold that is
    chosen anew moves it: a patient's change is then no derivative, and resamples alone say how it
    varies.
    """

    columns: tuple[str, ...]
    values: Floats
    samples: Floats
    derivative: Callable[[], Floats]
    terms: Terms = ()
    smooth: bool = True

    @cached_property
    def influence(self) -> Floats:
        """Influence [patients, columns], computed when first asked for."""
        return self.derivative()

    def __sub__(self, other: Quantity) -> Quantity:
        """The paired difference, with the left side's column names.

        Both sides must come from the same patients and resamples, with as many columns.
        """
        return Quantity(
            self.columns,
            self.values - other.values,
            self.samples - other.samples,
            lambda: self.influence - other.influence,
            _sum([(1.0, self), (-1.0, other)]),
            self.smooth and other.smooth,
        )

    def select(self, names: Sequence[str]) -> Quantity:
        """Only these columns, in this order. Raises KeyError for an unknown one."""
        unknown = [name for name in names if name not in self.columns]
        if unknown:
            raise KeyError(unknown[0])
        chosen = [self.columns.index(name) for name in names]
        return Quantity(
            tuple(names),
            self.values[chosen],
            self.samples[:, chosen],
            lambda: self.influence[:, chosen],
            tuple((factor, term.select(chosen)) for factor, term in self.terms),
            self.smooth,
        )

    def mean(self, name: str = "mean") -> Quantity:
        """One column: the mean over columns (over the seeds of one arm); NaN if one is NaN."""
        return Quantity(
            (name,),
            self.values.mean(keepdims=True),
            self.samples.mean(axis=1, keepdims=True),
            lambda: self.influence.mean(axis=1, keepdims=True),
            tuple((factor, term.mean()) for factor, term in self.terms),
            self.smooth,
        )


def average(quantities: Sequence[Quantity]) -> Quantity:
    """The mean of quantities column by column (a macro average); NaN where one of them is NaN.

    All must come from the same patients, strata and seed, so that their resamples are the same.
    """
    return Quantity(
        quantities[0].columns,
        np.mean([q.values for q in quantities], axis=0),
        np.mean([q.samples for q in quantities], axis=0),
        lambda: np.mean([q.influence for q in quantities], axis=0),
        _sum([(1.0 / len(quantities), quantity) for quantity in quantities]),
        all(quantity.smooth for quantity in quantities),
    )


def undefined(like: Quantity) -> Quantity:
    """A quantity with the columns and resamples of another, and no number: NaN throughout."""
    nothing = np.full((1, len(like.columns)), np.nan)
    return Quantity(
        like.columns, nothing[0], np.full_like(like.samples, np.nan), lambda: nothing.copy()
    )


def _sum(parts: Sequence[tuple[float, Quantity]]) -> Terms:
    """The terms of a sum of quantities; none where one of these is no sum of terms."""
    if not all(quantity.terms for _, quantity in parts):
        return ()
    return tuple((f * factor, term) for f, quantity in parts for factor, term in quantity.terms)


def largest(quantities: Sequence[Quantity]) -> Quantity:
    """The largest of the quantities per column and resample; NaN where one of them is NaN.

    Its influence is that of the quantity which is largest in the full sample.
    """
    return _extreme(quantities, 1.0)


def smallest(quantities: Sequence[Quantity]) -> Quantity:
    """The smallest of the quantities per column and resample; NaN where one of them is NaN."""
    return _extreme(quantities, -1.0)


def spread(quantities: Sequence[Quantity]) -> Quantity:
    """Largest minus smallest over the quantities (groups), per column and per resample.

    NaN where one of them is NaN. A range is biased upwards, and more so in resamples, most of all
    where the true values are close; the BCa interval takes back a part of it.
    """
    return largest(quantities) - smallest(quantities)


def _extreme(quantities: Sequence[Quantity], sign: float) -> Quantity:
    values = sign * np.array([q.values for q in quantities])  # [quantities, columns]
    where = np.argmax(np.nan_to_num(values, nan=-np.inf), axis=0)
    columns = np.arange(values.shape[1])
    samples = sign * quantities[0].samples
    for quantity in quantities[1:]:
        samples = np.maximum(samples, sign * quantity.samples)  # NaN stays NaN

    def influence() -> Floats:
        return np.stack([q.influence for q in quantities])[where, :, columns].T

    return Quantity(
        quantities[0].columns,
        sign * values.max(axis=0),
        sign * samples,
        influence,
        smooth=all(quantity.smooth for quantity in quantities),
    )
