import math

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)
from support.tables import rates

from fedmed.base.errors import UserError
from fedmed.evaluation.discrimination import (
    auroc,
    average_precision,
    specificity_threshold,
    youden_threshold,
)


def draw(seed: int, n: int, decimals: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of both classes and scores, tied where `decimals` is small."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, n)
    labels[:2] = (0, 1)
    scores = 1 / (1 + np.exp(-(labels + generator.normal(size=n))))
    return labels, np.round(scores, decimals)


@pytest.mark.parametrize("decimals", [0, 1, 2, 12])
@pytest.mark.parametrize(("seed", "n"), [(0, 2), (1, 7), (2, 50), (3, 701)])
def test_auroc_equals_scikit_learn(seed: int, n: int, decimals: int) -> None:
    labels, scores = draw(seed, n, decimals)
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)


@pytest.mark.parametrize("decimals", [1, 2, 12])
@pytest.mark.parametrize("seed", range(5))
def test_threshold_reaches_scikit_learns_best_youden_index(seed: int, decimals: int) -> None:
    labels, scores = draw(seed, 200, decimals)
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    threshold = youden_threshold(labels, scores)
    at = rates(labels, scores, threshold)
    assert threshold in scores
    assert at.sensitivity + at.specificity - 1 == pytest.approx(np.max(tpr - fpr), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_rates_equal_scikit_learn(seed: int) -> None:
    labels, scores = draw(seed, 150, 2)
    threshold = float(scores[3])  # on a score: equal counts as positive
    called = (scores >= threshold).astype(int)
    at = rates(labels, scores, threshold)
    assert at.accuracy == pytest.approx(accuracy_score(labels, called), abs=1e-9)
    assert at.sensitivity == pytest.approx(recall_score(labels, called), abs=1e-9)
    assert at.specificity == pytest.approx(recall_score(1 - labels, 1 - called), abs=1e-9)
    assert at.ppv == pytest.approx(precision_score(labels, called), abs=1e-9)
    assert at.npv == pytest.approx(precision_score(1 - labels, 1 - called), abs=1e-9)
    assert at.fnr == pytest.approx(1 - at.sensitivity, abs=1e-12)
    assert at.fpr == pytest.approx(1 - at.specificity, abs=1e-12)
    assert at.selection_rate == pytest.approx(called.mean(), abs=1e-12)


def test_constant_scores_are_chance_and_need_no_infinite_threshold() -> None:
    labels = [0, 1, 1, 0]
    assert auroc(labels, [0.5] * 4) == 0.5
    assert youden_threshold(labels, [0.5] * 4) == 0.5


@pytest.mark.parametrize("labels", [[0, 0], [1, 1], []])
def test_one_class_has_no_auroc_and_no_threshold(labels: list[int]) -> None:
    scores = [0.1, 0.9][: len(labels)]
    assert math.isnan(auroc(labels, scores))
    assert math.isnan(youden_threshold(labels, scores))


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1], [0.2, float("nan")], "score 2 is nan"),
        ([0, 1], [0.2, float("inf")], "score 2 is inf"),
        ([0, 2], [0.2, 0.3], "other than 0 and 1"),
        ([0, 1, 1], [0.2, 0.3], "one of each per image"),
    ],
)
def test_bad_input_is_named(labels: list[int], scores: list[float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        auroc(labels, scores)


@pytest.mark.parametrize("decimals", [0, 1, 2, 12])
@pytest.mark.parametrize(("seed", "n"), [(0, 2), (1, 7), (2, 50), (3, 701)])
def test_average_precision_equals_scikit_learn(seed: int, n: int, decimals: int) -> None:
    labels, scores = draw(seed, n, decimals)
    wanted = average_precision_score(labels, scores)
    assert average_precision(labels, scores) == pytest.approx(wanted, abs=1e-9)
    assert math.isnan(average_precision([1, 1], [0.2, 0.3]))


@pytest.mark.parametrize("target", [0.1, 0.5, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("decimals", [1, 2, 12])
def test_fixed_specificity_has_the_best_sensitivity_of_all_thresholds(
    decimals: int, target: float
) -> None:
    labels, scores = draw(4, 200, decimals)
    threshold = specificity_threshold(labels, scores, target)
    fine = [
        at for t in sorted(set(scores)) if (at := rates(labels, scores, t)).specificity >= target
    ]
    if not fine:
        assert math.isnan(threshold)
        return
    at = rates(labels, scores, threshold)
    assert at.specificity >= target
    assert at.sensitivity == max(other.sensitivity for other in fine)
    # Of equal sensitivities the highest threshold: none above it is as sensitive.
    assert all(
        rates(labels, scores, t).sensitivity < at.sensitivity for t in scores if t > threshold
    )


def test_fixed_specificity_at_its_edges() -> None:
    # 9 of 10 negatives below: a specificity of 0.9, whatever 0.9 is in binary.
    labels, scores = [0] * 10 + [1], [*range(9), 11, 10]
    assert specificity_threshold(labels, scores, 0.9) == 10
    # The highest score is a negative's: no threshold is without false alarms.
    assert math.isnan(specificity_threshold(labels, scores, 1.0))
    assert math.isnan(specificity_threshold([1, 1], [0.1, 0.2]))
    assert math.isnan(specificity_threshold([0, 1], [0.3, 0.3]))
    for target in (0.0, 1.1, math.nan):
        with pytest.raises(UserError, match="specificity"):
            specificity_threshold(labels, scores, target)
