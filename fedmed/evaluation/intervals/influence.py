"""Derivatives of every metric by the weight of each image, all weights being one.

They are the empirical influence values over the number of images (Efron 1982): the root of their
sum of squares is the standard error, and their skewness the acceleration of the BCa interval.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedmed.evaluation import calibration
from fedmed.evaluation.measuring import tallies
from fedmed.evaluation.measuring.ranking import Ranking
from fedmed.evaluation.metrics import AT_SPECIFICITY, LOSSES, SHARES, Counts, of_kind

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def derivative(metric: str, labels: Integers, column: tallies.Scored, chosen: Integers) -> Floats:
    """Derivatives [n] of a metric of measures.METRICS over the chosen images; 0 for the others.

    NaN throughout where the metric is not defined.
    """
    result = np.zeros(labels.size)
    if metric in of_kind("ranking"):
        everybody = np.arange(labels.size)
        ranking = Ranking(labels, column.scores, chosen, everybody, column.order)
        if not ranking.defined:
            return np.full(labels.size, np.nan)
        images, values = (
            ranking.auroc_derivative() if metric == "auroc" else ranking.precision_derivative()
        )
        result[images] = values
        return result
    truth, scores = labels[chosen].astype(np.float64), column.scores[chosen]
    if metric in LOSSES:
        result[chosen] = _of_ratio(LOSSES[metric](truth, scores), np.ones(chosen.size))
    elif metric == "ece":
        bins = calibration.bins(scores)
        residuals = np.bincount(bins, truth - scores, calibration.BINS)
        sign = np.where(np.abs(residuals) < 1e-9, 0.0, np.sign(residuals))  # at 0 it has a kink
        result[chosen] = _of_ratio(sign[bins] * (truth - scores), np.ones(chosen.size))
    elif metric in ("calibration_slope", "calibration_intercept"):
        changes = _of_fit(labels[chosen], scores, column.logits[chosen])
        result[chosen] = changes[metric == "calibration_intercept"]
    else:
        name = metric.removesuffix(AT_SPECIFICITY)
        called = column.called[name != metric]
        if called is None:
            return np.full(labels.size, np.nan)
        called = called[chosen]
        result[chosen] = _of_ratio(*SHARES[name](Counts.of_each(truth, called)))
    return np.full(labels.size, np.nan) if np.isnan(result).any() else result


def _of_ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Derivative of sum(numerator) / sum(denominator) by each image's weight."""
    total = float(denominator.sum())
    if total <= 0.0:
        return np.full(numerator.size, np.nan)
    return (numerator - float(numerator.sum()) / total * denominator) / total


def _of_fit(labels: Integers, scores: Floats, logits: Floats) -> tuple[Floats, Floats]:
    """Derivatives of slope and intercept: the inverse curvature times each image's gradient."""
    fit = calibration.recalibrate(labels, scores)
    if np.isnan(fit.slope):
        nothing = np.full(labels.size, np.nan)
        return nothing, nothing
    terms = calibration.fit_terms(labels, logits, fit.slope, fit.intercept)
    (g, h), (a, b, c) = terms[:2], terms[2:5].sum(axis=1)
    determinant = a * c - b * b
    return (c * g - b * h) / determinant, (a * h - b * g) / determinant
