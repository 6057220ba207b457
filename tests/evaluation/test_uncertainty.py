import math
import time

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from fedmed.evaluation import uncertainty
from fedmed.evaluation.uncertainty import auroc_interval, clusters, patient_weights, weighted_auroc


def draw(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, n)
    return labels, np.round(1 / (1 + np.exp(-(labels + generator.normal(size=n)))), 2)


def test_weighted_auroc_equals_scikit_learn_with_ties_and_repeats() -> None:
    labels, scores = draw(0, 80)
    weights = np.random.default_rng(1).integers(0, 4, (5, 80)).astype(float)
    expected = [roc_auc_score(labels, scores, sample_weight=row) for row in weights]
    assert weighted_auroc(labels, scores, weights) == pytest.approx(expected, abs=1e-9)


def test_a_resample_without_a_class_has_no_auroc() -> None:
    weights = np.array([[1.0, 0.0], [1.0, 1.0]])
    found = weighted_auroc([0, 1], [0.2, 0.8], weights)
    assert math.isnan(found[0])
    assert found[1] == 1.0


def test_images_of_a_patient_are_drawn_together() -> None:
    patients = pd.Series(["a", "b", "a", None, None])
    index = clusters(patients)
    assert index[0] == index[2]
    assert len(set(index.tolist())) == 4
    weights = patient_weights(index, 200, np.random.default_rng(0))
    assert (weights[:, 0] == weights[:, 2]).all()
    assert not (weights[:, 3] == weights[:, 4]).all()
    # As many patients are drawn as there are.
    assert (weights[:, [0, 1, 3, 4]].sum(axis=1) == 4).all()


def test_many_films_per_patient_widen_the_interval() -> None:
    labels, scores = draw(2, 100)
    labels, scores = np.repeat(labels, 8), np.repeat(scores, 8)
    single = auroc_interval(labels, scores, pd.Series(range(800)).astype(str))
    grouped = auroc_interval(labels, scores, pd.Series(np.arange(800) // 8).astype(str))
    ratio = (grouped[1] - grouped[0]) / (single[1] - single[0])
    assert ratio == pytest.approx(math.sqrt(8), rel=0.25)


def test_interval_is_the_same_each_time_and_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, scores = draw(3, 200)
    patients = pd.Series(np.arange(200)).astype(str)
    first = auroc_interval(labels, scores, patients)
    assert first == auroc_interval(labels, scores, patients)
    assert first[0] < roc_auc_score(labels, scores) < first[1]
    monkeypatch.setattr(uncertainty, "CELLS", 200 * 300)
    assert auroc_interval(labels, scores, patients) == pytest.approx(first, abs=1e-12)


def test_one_patient_or_one_class_has_no_interval() -> None:
    assert math.isnan(auroc_interval([0, 1], [0.1, 0.9], pd.Series(["a", "a"]))[0])
    assert math.isnan(auroc_interval([1, 1], [0.1, 0.9], pd.Series(["a", "b"]))[0])


def test_a_thousand_resamples_of_700_images_are_quick() -> None:
    labels, scores = draw(4, 700)
    start = time.perf_counter()
    auroc_interval(labels, scores, pd.Series(np.arange(700) // 2).astype(str))
    assert time.perf_counter() - start < 2.0
