"""Whether a score of 0.3 means three in ten: calibration error, recalibration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fedmed.evaluation.discrimination import arrays

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

BINS: Final = 10
EDGE: Final = 1e-6  # scores are moved this far from 0 and 1 before the logit is taken
STEPS: Final = 100


@dataclass(frozen=True)
class Recalibration:
    """Logistic regression of the label on the logit of the score (Cox 1958).

    1 and 0 for a calibrated model; a slope below 1 means scores too extreme. Both NaN where the
    maximum likelihood does not exist: one class, constant scores, or classes that a threshold
    separates.
    """

    slope: float
    intercept: float


def bins(scores: Floats) -> Integers:
    """Bin of each score: BINS of equal width, closed on the left, the last one on both sides."""
    return np.minimum((scores * BINS).astype(np.int64), BINS - 1)


def ece(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Expected calibration error, 0 to 1; NaN without images.

    Mean over BINS bins of equal width of |share of positives - mean score|, by their share of
    images (Naeini et al. 2015, for the probability of disease). It is above 0 by chance alone even
    for a calibrated model, and the more so the fewer the images.

    >>> round(ece([0, 1], [0.2, 0.6]), 2)
    0.3
    """
    truth, values = arrays(labels, scores)
    if not truth.size:
        return math.nan
    residuals = np.bincount(bins(values), truth - values, BINS)
    return float(np.abs(residuals).sum() / truth.size)


def logit(scores: Floats) -> Floats:
    """Log odds of scores held within EDGE of 0 and 1."""
    held = np.clip(scores, EDGE, 1.0 - EDGE)
    return np.log(held / (1.0 - held))


def recalibrate(labels: npt.ArrayLike, scores: npt.ArrayLike) -> Recalibration:
    """Slope and intercept, fitted together by maximum likelihood.

    >>> recalibrate([0, 1, 0, 1], [0.1, 0.2, 0.8, 0.9]).slope < 1
    True
    """
    truth, values = arrays(labels, scores)
    z = logit(values)
    diseased, healthy = z[truth == 1], z[truth == 0]
    if (
        not diseased.size
        or not healthy.size
        or healthy.max() <= diseased.min()
        or diseased.max() <= healthy.min()
    ):
        return Recalibration(math.nan, math.nan)
    centre, scale = float(z.mean()), float(z.std())
    x = (z - centre) / scale
    prevalence = diseased.size / truth.size
    found = np.array([0.0, math.log(prevalence / (1.0 - prevalence))])
    loss = _loss(truth, x, found)
    for _ in range(STEPS):
        g, h, a, b, c = _curved(truth, x, *found)[0].sum(axis=1)
        step = np.array([c * g - b * h, a * h - b * g]) / (a * c - b * b)
        size = 1.0  # halved where Newton overshoots; a rise below rounding is none
        slack = 1e-12 * (1.0 + abs(loss))
        while (trial := _loss(truth, x, found + size * step)) > loss + slack and size > 1e-9:
            size /= 2.0
        found, loss = found + size * step, trial
        if np.abs(step).max() < 1e-12 * (1.0 + np.abs(found).max()):
            break
    slope = float(found[0] / scale)
    return Recalibration(slope, float(found[1]) - slope * centre)


def fit_terms(labels: Integers, z: Floats, slope: float, intercept: float) -> Floats:
    """Each image's part [9, n] of the derivatives of the log likelihood at a fit.

    Of the gradient (y - p) z^k, k = 1 and 0; of the curvature p (1 - p) z^k, k = 2, 1, 0; of its
    change p (1 - p) (1 - 2 p) z^k, k = 3, 2, 1, 0.
    """
    first, square, change = _curved(labels, z, slope, intercept)
    third = (change * square * z, change * square, change * z, change)
    return np.concatenate([first, np.stack(third)])


def refit(terms: Floats) -> tuple[Floats, Floats]:
    """Change of slope and intercept [r] from the full fit to that of a weighted sample.

    `terms` [9, r] are weighted sums of :func:`fit_terms`. A Newton step d, by which alone slopes
    would be too little skewed, and then twice the term of the next order, as in Chebyshev's method:
    curvature x d = gradient - change(d, d) / 2. NaN where the curvature is singular.
    """
    gradient, (a, b, c), (t3, t2, t1, t0) = terms[:2], terms[2:5], terms[5:]
    determinant = a * c - b * b
    fine = determinant > 1e-12 * a * c
    safe = np.where(fine, determinant, 1.0)

    def solve(g: Floats, h: Floats) -> tuple[Floats, Floats]:
        return (c * g - b * h) / safe, (a * h - b * g) / safe

    s, i = solve(*gradient)
    for _ in range(2):
        bend = (
            t3 * s * s + 2.0 * t2 * s * i + t1 * i * i,
            t2 * s * s + 2.0 * t1 * s * i + t0 * i * i,
        )
        s, i = solve(gradient[0] - 0.5 * bend[0], gradient[1] - 0.5 * bend[1])
    return np.where(fine, s, np.nan), np.where(fine, i, np.nan)


def _curved(
    labels: Integers, z: Floats, slope: float, intercept: float
) -> tuple[Floats, Floats, Floats]:
    """Gradient and curvature [5, n] of :func:`fit_terms`; z^2, and p (1 - p) (1 - 2 p)."""
    p = _sigmoid(slope * z + intercept)
    residual, weight = labels - p, p * (1.0 - p)
    square = z * z
    first = np.stack([residual * z, residual, weight * square, weight * z, weight])
    return first, square, weight * (1.0 - 2.0 * p)


def _sigmoid(x: Floats) -> Floats:
    e = np.exp(-np.abs(x))
    result: Floats = np.where(x >= 0.0, 1.0, e) / (1.0 + e)
    return result


def _loss(labels: Integers, x: Floats, parameters: Floats) -> float:
    linear = parameters[0] * x + parameters[1]
    return float(np.sum(np.logaddexp(0.0, linear) - labels * linear))
