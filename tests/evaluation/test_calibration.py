"""Brier score, calibration error and recalibration against scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from fedmed.evaluation.calibration import BINS, bins, ece, logit, recalibrate
from fedmed.evaluation.metrics import METRICS


def draw(seed: int, n: int, decimals: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, n)
    logits = 3.0 * (labels - 0.5) + 2.0 * generator.normal(size=n)
    return labels, np.round(1 / (1 + np.exp(-logits)), decimals)


@pytest.mark.parametrize("decimals", [1, 2, 16])
@pytest.mark.parametrize("seed", range(4))
def test_slope_and_intercept_equal_scikit_learns_unpenalised_fit(seed: int, decimals: int) -> None:
    """Scores of 0 and 1 are among the rounded ones: the logit must hold them off."""
    labels, scores = draw(seed, 300, decimals)
    fit = recalibrate(labels, scores)
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12, max_iter=1000)
    model.fit(logit(scores)[:, None], labels)
    assert fit.slope == pytest.approx(model.coef_[0, 0], abs=1e-9)
    assert fit.intercept == pytest.approx(model.intercept_[0], abs=1e-9)


def test_a_calibrated_model_has_slope_one_and_intercept_zero() -> None:
    """The standard errors of 100,000 images are 0.006 and 0.008; fixed seed."""
    generator = np.random.default_rng(0)
    scores = 1 / (1 + np.exp(-1.5 * generator.normal(size=100_000)))
    labels = (generator.random(100_000) < scores).astype(int)
    fit = recalibrate(labels, scores)
    assert fit.slope == pytest.approx(1.0, abs=0.03)
    assert fit.intercept == pytest.approx(0.0, abs=0.03)
    extreme = recalibrate(labels, 1 / (1 + np.exp(-2.0 * logit(scores))))
    assert extreme.slope == pytest.approx(fit.slope / 2.0, rel=1e-6)


@pytest.mark.parametrize(
    ("labels", "scores"),
    [
        ([1, 1, 1], [0.2, 0.5, 0.9]),
        ([0, 0], [0.2, 0.5]),
        ([0, 1, 0, 1], [0.4, 0.4, 0.4, 0.4]),
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4]),
        ([1, 1, 0, 0], [0.1, 0.2, 0.3, 0.4]),
        ([0, 0, 1, 1], [0.1, 0.2, 0.2, 0.4]),  # separated but for a tie
        ([], []),
    ],
)
def test_no_recalibration_where_the_likelihood_has_no_maximum(
    labels: list[int], scores: list[float]
) -> None:
    fit = recalibrate(labels, scores)
    assert math.isnan(fit.slope)
    assert math.isnan(fit.intercept)


def test_extreme_scores_still_have_a_finite_fit() -> None:
    labels = np.array([0, 1] * 50)
    scores = np.where(np.arange(100) % 10 < 5, labels, 1 - labels).astype(float)
    scores[:10] = 1.0 - 1e-9
    fit = recalibrate(labels, scores)
    assert math.isfinite(fit.slope)
    assert math.isfinite(fit.intercept)


@pytest.mark.parametrize("decimals", [1, 16])
def test_errors_equal_scikit_learns(decimals: int) -> None:
    labels, scores = draw(7, 500, decimals)
    assert METRICS["brier"].of(labels, scores) == pytest.approx(
        brier_score_loss(labels, scores), abs=1e-12
    )
    if decimals == 16:  # scikit-learn's bins are closed on the right: edges would differ
        share, mean = calibration_curve(labels, scores, n_bins=BINS)
        counts = np.bincount(bins(scores), minlength=BINS)
        wanted = float(np.sum(counts[counts > 0] * np.abs(share - mean)) / 500)
        assert ece(labels, scores) == pytest.approx(wanted, abs=1e-9)


def test_bins_are_closed_on_the_left_and_the_last_on_both_sides() -> None:
    edges = np.array([0.0, 0.0999, 0.1, 0.2, 0.3, 0.7, 0.9, 1.0])
    assert bins(edges).tolist() == [0, 0, 1, 2, 3, 7, 9, 9]
    assert ece([1, 0], [1.0, 0.0]) == 0.0
    assert ece([0, 0], [0.25, 0.75]) == pytest.approx(0.5)
    assert math.isnan(ece([], []))
    assert math.isnan(METRICS["brier"].of([], []))
