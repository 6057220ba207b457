"""Sums over images from which every metric at a threshold and of calibration is computed.

All are linear in the weights of images, so that a block of resamples is one matrix product.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fedmed.evaluation import calibration
from fedmed.evaluation.measuring.ranking import ratio
from fedmed.evaluation.measuring.scratch import gathered
from fedmed.evaluation.metrics import LOSSES

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# Rows of one column's features, after the two that all columns share (1 and the label).
SHARED: Final = 2
AT: Final = slice(0, 2)  # true and false positives at the threshold
AT_SPECIFICITY: Final = slice(2, 4)
LOST: Final = slice(4, 4 + len(LOSSES))  # each loss of metrics.LOSSES
RESIDUALS: Final = slice(LOST.stop, LOST.stop + calibration.BINS)  # label - score, by bin
FIT: Final = slice(RESIDUALS.stop, RESIDUALS.stop + 9)  # calibration.fit_terms
ROWS: Final = FIT.stop


@dataclass(frozen=True)
class Redrawn:
    """A threshold per resample [resamples]: Youden's, and the one at a specificity; NaN for none.

    An entry is None where the full validation sample has no such threshold either.
    """

    youden: Floats | None
    at_specificity: Floats | None


@dataclass(frozen=True)
class Scored:
    """One column: scores [n], logits [n], and the images called positive [n] per threshold.

    `order` [n]: the images by falling score. `redrawn`: a threshold for each resample, in the place
    of one for all.
    """

    name: str
    scores: Floats
    logits: Floats
    called: tuple[Floats | None, Floats | None]
    order: Integers
    redrawn: Redrawn | None = None

    @cached_property
    def digest(self) -> str:
        """Equal for columns that score and call every image alike."""
        told = hashlib.blake2b(self.scores.tobytes())
        for called in self.called:
            told.update(b"none" if called is None else called.tobytes())
        return told.hexdigest()


def features(
    labels: Integers,
    columns: Sequence[Scored],
    fits: Sequence[calibration.Recalibration],
    chosen: Integers,
) -> Floats:
    """Features [SHARED + columns x ROWS, chosen] of the chosen images of one group.

    `fits` are the group's recalibrations, one per column; their rows are 0 where there is none.
    """
    result = np.empty((SHARED + len(columns) * ROWS, chosen.size))
    own = result[SHARED:].reshape(len(columns), ROWS, chosen.size)
    common = common_features(labels, columns, chosen)
    result[:SHARED] = common[:SHARED]
    own[:, : FIT.start] = common[SHARED:].reshape(len(columns), FIT.start, chosen.size)
    fitted = fit_features(labels, columns, fits, chosen)
    own[:, FIT] = fitted.reshape(len(columns), FIT.stop - FIT.start, chosen.size)
    return result


def common_features(labels: Integers, columns: Sequence[Scored], chosen: Integers) -> Floats:
    """Those that are the same whatever group an image is in [SHARED + columns x FIT.start, n]."""
    truth = labels[chosen]
    result = np.zeros((SHARED + len(columns) * FIT.start, chosen.size))
    result[0], result[1] = 1.0, truth
    for index, column in enumerate(columns):
        rows = result[SHARED + index * FIT.start : SHARED + (index + 1) * FIT.start]
        scores = column.scores[chosen]
        for where, called in zip((AT, AT_SPECIFICITY), column.called, strict=True):
            if called is not None:
                rows[where] = called[chosen] * truth, called[chosen] * (1 - truth)
        for place, loss in enumerate(LOSSES.values(), start=LOST.start):
            rows[place] = loss(truth, scores)
        rows[RESIDUALS][calibration.bins(scores), np.arange(chosen.size)] = truth - scores
    return result


def fit_features(
    labels: Integers,
    columns: Sequence[Scored],
    fits: Sequence[calibration.Recalibration],
    chosen: Integers,
) -> Floats:
    """Those of a group's own recalibrations [columns x FIT, n]."""
    height = FIT.stop - FIT.start
    result = np.zeros((len(columns) * height, chosen.size))
    for index, (column, fit) in enumerate(zip(columns, fits, strict=True)):
        if not np.isnan(fit.slope):
            result[index * height : (index + 1) * height] = calibration.fit_terms(
                labels[chosen], column.logits[chosen], fit.slope, fit.intercept
            )
    return result


class Tallies:
    """Features of the images of every group, added up under many weightings.

    `groups` are the images of each group and `fits` its recalibrations, by partition.
    """

    def __init__(
        self,
        labels: Integers,
        columns: Sequence[Scored],
        fits: Sequence[Sequence[Sequence[calibration.Recalibration]]],
        groups: Sequence[Sequence[Integers]],
        patient: Integers,
    ) -> None:
        self.each = [
            [
                (patient[chosen], features(labels, columns, fit, chosen))
                for fit, chosen in zip(of_partition, images, strict=True)
            ]
            for of_partition, images in zip(fits, groups, strict=True)
        ]

    def sums(self, weights: Any) -> list[list[Floats]]:
        """Sums of the features [SHARED + columns x ROWS, r], by partition and group.

        `weights` are [patients, r].
        """
        return [
            [own @ gathered("group", weights, rows) for rows, own in of_partition]
            for of_partition in self.each
        ]


def ece(rows: Floats, images: Floats) -> Floats:
    """Expected calibration error from sums [..., ROWS, r] and images [..., r]."""
    return ratio(np.abs(rows[..., RESIDUALS, :]).sum(axis=-2), images)


def recalibrated(rows: Floats, fit: calibration.Recalibration) -> tuple[Floats, Floats]:
    """Slope and intercept [r] by a step from the full fit, from sums [ROWS, r]."""
    if np.isnan(fit.slope):
        nothing = np.full(rows.shape[1], np.nan)
        return nothing, nothing
    slope, intercept = calibration.refit(rows[FIT])
    return fit.slope + slope, fit.intercept + intercept
