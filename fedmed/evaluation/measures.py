"""Every metric of every scored column, overall and by group, with paired patient resamples.

    measured = measure(columns, labels, patients, {"sex": sexes}, resamples=2000)
    gap = measured.quantity("fnr", "sex", "F") - measured.quantity("fnr", "sex", "M")
    change = gap.select(["dp/seed-0"]) - gap.select(["plain/seed-0"])
    low, high = interval(change).low, interval(change).high       # fedmed.evaluation.intervals

A column is one score per image: one arm and seed. All columns see the same resamples of patients,
so any difference of quantities is paired, resample by resample. Thresholds are chosen beforehand
(on validation rows) and stay fixed in each resample: intervals are those of the rates at that
threshold, not of choosing it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

RESAMPLES: Final = 2000
SEED: Final = 20131  # fixed, so that a table computed again has the same interval

RATES: Final = (
    "sensitivity",
    "specificity",
    "fnr",
    "fpr",
    "accuracy",
    "ppv",
    "npv",
    "selection_rate",
)
AT_SPECIFICITY: Final = tuple(f"{name}_at_specificity" for name in RATES)
METRICS: Final = (
    "auroc",
    "auprc",
    *RATES,
    *AT_SPECIFICITY,
    "brier",
    "ece",
    "calibration_slope",
    "calibration_intercept",
)
OTHERS_METRICS: Final = ("auroc", *RATES, *AT_SPECIFICITY, "brier", "ece")


@dataclass(frozen=True, kw_only=True)
class Column:
    """Scores [n] (0 to 1) of one model, and its thresholds (score >= threshold is positive).

    Metrics that need an absent threshold are NaN. `specificity_threshold` serves the metrics that
    end in ``_at_specificity``.
    """

    name: str
    scores: npt.ArrayLike
    threshold: float | None = None
    specificity_threshold: float | None = None


@dataclass(frozen=True)
class Quantity:
    """A number per column, its resamples and its influence values; differences are paired.

    `values` [columns] and `samples` [resamples, columns]; NaN where the quantity is not defined
    (a group without one of the classes, no threshold). `influence` [patients, columns] is its
    derivative by a patient's weight, centred within each stratum of the resampling, so that a
    resample with patient counts w is about values + (w - 1) @ influence and the standard error is
    the root of the sum of squares.
    """

    columns: tuple[str, ...]
    values: Floats
    samples: Floats
    derivative: Callable[[], Floats]

    @cached_property
    def influence(self) -> Floats:
        """Influence [patients, columns], computed when first asked for."""
        return self.derivative()

    def __sub__(self, other: Quantity) -> Quantity:
        """The paired difference; both sides have the same number of columns.

        The result keeps the left side's column names.
        """
        raise NotImplementedError

    def select(self, names: Sequence[str]) -> Quantity:
        """Only these columns, in this order. Raises KeyError for an unknown one."""
        raise NotImplementedError

    def mean(self, name: str = "mean") -> Quantity:
        """One column: the mean over columns (seeds of one arm)."""
        raise NotImplementedError


def spread(quantities: Sequence[Quantity]) -> Quantity:
    """Largest minus smallest over the quantities (groups), per column and per resample.

    NaN where one of them is NaN. Its influence is that of the two groups that are extreme in the
    full sample. A range is biased upwards in resamples; the BCa interval corrects for it in part.
    """
    raise NotImplementedError


def largest(quantities: Sequence[Quantity]) -> Quantity:
    """The largest of the quantities per column and resample; NaN where one of them is NaN."""
    raise NotImplementedError


@dataclass(frozen=True)
class Measured:
    """Quantities of one set of images under all columns."""

    columns: tuple[str, ...]
    resamples: int
    images: int
    patients: int
    groups: dict[str, tuple[str, ...]]  # attribute -> its groups, sorted by text

    def quantity(
        self,
        metric: str,
        attribute: str | None = None,
        group: str | None = None,
        *,
        others: bool = False,
    ) -> Quantity:
        """A metric (of METRICS) overall, of one group, or of all others than the group.

        `others` (metrics of OTHERS_METRICS only) is the images of the attribute's other groups,
        without those of the group "unknown". Raises KeyError for an unknown name.
        """
        raise NotImplementedError


def measure(
    columns: Sequence[Column],
    labels: npt.ArrayLike,
    patients: npt.ArrayLike,
    attributes: Mapping[str, npt.ArrayLike] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    threads: int | None = None,
) -> Measured:
    """Measure all columns on the same images and the same resamples.

    `labels` [n] in {0, 1}; `patients` [n] integer codes, images of a patient are drawn together
    (each image its own code where patients are unknown: see `resampling.clusters`); `attributes`
    maps a name to the group of each image as text [n], "unknown" where it is missing.
    `resamples` 0 measures without resampling. The result does not depend on `threads` (None: all
    cores). Raises UserError for lengths that differ, labels other than 0 and 1, scores that are
    NaN or infinite, no column and a column named twice.
    """
    raise NotImplementedError
