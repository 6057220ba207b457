"""DeLong's variance of AUROC: one interval, and the paired comparison of two models.

DeLong, DeLong and Clarke-Pearson (1988), with placement values from midranks (Sun and Xu 2014). The
formula takes images as independent, so it is refused where a patient has several.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from fedmed.evaluation.discrimination import arrays

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

FEWEST: Final = 2  # images of a class below which its variance is not defined


@dataclass(frozen=True, kw_only=True)
class DeLong:
    """AUROC, its standard error, and the interval; low and high are NaN where there is none."""

    auroc: float
    standard_error: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Difference first minus second of two AUROCs on the same images, z and two-sided p.

    z and p are NaN where the difference does not vary (two rankings that are the same).
    """

    difference: float
    standard_error: float
    z: float
    p: float


def delong(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    patients: npt.ArrayLike | None = None,
    *,
    level: float = 0.95,
    logit: bool = True,
) -> DeLong | str:
    """AUROC with DeLong's interval, or as text why there is none.

    On the logit scale, which keeps it within 0 and 1 (Pepe 2003, section 5.2), or symmetric and cut
    at 0 and 1. There is no logit interval for an AUROC of 0 or 1: low and high are NaN. None at all
    where a patient has several images (`patients` [n], None: one image each), or a class has fewer
    than two.

    >>> found = delong([0, 0, 0, 1, 1, 1], [0.1, 0.4, 0.6, 0.5, 0.8, 0.9])
    >>> round(found.auroc, 3), round(found.low, 3), round(found.high, 3)
    (0.889, 0.261, 0.995)
    >>> delong([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], patients=["a", "a", "b", "c"])
    "DeLong's variance takes images as independent, but a patient has several"
    """
    truth, values = arrays(labels, scores)
    reason = _refusal(truth, patients)
    if reason:
        return reason
    areas, covariance = covariances(truth, values[None])
    area, error = float(areas[0]), math.sqrt(float(covariance[0, 0]))
    quantile = float(ndtri(0.5 + level / 2.0))
    if not logit:
        low, high = max(0.0, area - quantile * error), min(1.0, area + quantile * error)
    elif 0.0 < area < 1.0:
        centre, half = math.log(area / (1.0 - area)), quantile * error / (area * (1.0 - area))
        low, high = float(_sigmoid(centre - half)), float(_sigmoid(centre + half))
    else:
        low = high = math.nan
    return DeLong(auroc=area, standard_error=error, low=low, high=high)


def paired(
    labels: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    patients: npt.ArrayLike | None = None,
) -> Paired | str:
    """Test of equal AUROC of two models on the same images, or as text why there is none."""
    truth, one = arrays(labels, first)
    _, two = arrays(labels, second)
    reason = _refusal(truth, patients)
    if reason:
        return reason
    areas, covariance = covariances(truth, np.stack([one, two]))
    difference = float(areas[0] - areas[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2.0 * covariance[0, 1])
    # Equal rankings have a variance of zero, up to rounding.
    if variance <= 1e-14 * float(covariance[0, 0] + covariance[1, 1]):
        return Paired(difference=difference, standard_error=0.0, z=math.nan, p=math.nan)
    error = math.sqrt(variance)
    z = difference / error
    return Paired(difference=difference, standard_error=error, z=z, p=2.0 * float(ndtr(-abs(z))))


def covariances(labels: Integers, scores: Floats) -> tuple[Floats, Floats]:
    """AUROCs [k] of `scores` [k, n] and their covariance [k, k]; two images of each class at least.

    A placement value is the share of the other class that a positive scores above, or a negative
    below, ties one half; the covariance is S10 / positives + S01 / negatives (equation 5 of 1988).
    """
    diseased = labels == 1
    p, m = int(diseased.sum()), int((~diseased).sum())
    from scipy.stats import rankdata  # half a second, which a report need not wait for

    ranks = rankdata(scores, axis=1)
    within = rankdata(scores[:, diseased], axis=1)
    among = rankdata(scores[:, ~diseased], axis=1)
    of_positives = (ranks[:, diseased] - within) / m
    of_negatives = 1.0 - (ranks[:, ~diseased] - among) / p
    covariance = np.atleast_2d(np.cov(of_positives)) / p + np.atleast_2d(np.cov(of_negatives)) / m
    return of_positives.mean(axis=1), covariance


def _refusal(labels: Integers, patients: npt.ArrayLike | None) -> str | None:
    positives = int(labels.sum())
    if min(positives, labels.size - positives) < FEWEST:
        return f"DeLong's variance needs {FEWEST} images of each class"
    if patients is not None and np.unique(np.asarray(patients)).size < labels.size:
        return "DeLong's variance takes images as independent, but a patient has several"
    return None


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
