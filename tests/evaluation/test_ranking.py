"""AUROC and average precision of weighted images against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from fedmed.evaluation.measuring.ranking import SHORT, Ranking, cumulative


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 150),
    decimals=st.sampled_from([0, 1, 2, 16]),
    prevalence=st.sampled_from([0.05, 0.5, 0.95]),
)
def test_weighted_areas_equal_scikit_learn(
    seed: int, n: int, decimals: int, prevalence: float
) -> None:
    generator = np.random.default_rng(seed)
    labels = (generator.random(n) < prevalence).astype(np.int64)
    scores = np.round(generator.random(n), decimals)
    members = np.flatnonzero(generator.random(n) < 0.8)
    weights = generator.integers(0, 3, (n, 4)).astype(float)
    found = Ranking(labels, scores, members, np.arange(n)).pairs(weights)
    for index in range(4):
        drawn = weights[members, index]
        truth, values = labels[members][drawn > 0], scores[members][drawn > 0]
        drawn = drawn[drawn > 0]
        if len(set(truth.tolist())) < 2:
            assert np.isnan(found.auroc[index])
            assert np.isnan(found.precision[index])
            continue
        area = roc_auc_score(truth, values, sample_weight=drawn)
        precision = average_precision_score(truth, values, sample_weight=drawn)
        assert found.auroc[index] == pytest.approx(area, abs=1e-9)
        assert found.precision[index] == pytest.approx(precision, abs=1e-9)


@pytest.mark.parametrize("n", [0, 1, SHORT, SHORT + 1, 100, 173, 1000])
def test_cumulative_sums_in_blocks_equal_numpys(n: int) -> None:
    rows = np.random.default_rng(n).integers(0, 5, (n, 3)).astype(float)
    wanted = np.vstack([np.zeros((1, 3)), np.cumsum(rows, axis=0)])
    assert np.array_equal(cumulative(rows, "sums"), wanted)


def test_losses_by_image_add_up_to_all_lost_pairs() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 200)
    scores = np.round(generator.random(200), 1)
    ranking = Ranking(labels, scores, np.arange(200), np.arange(200))
    weights = generator.integers(0, 3, (200, 5)).astype(float)
    of_positives, of_negatives = ranking.losses(weights)
    lost = ranking.pairs(weights).lost
    assert of_positives.sum(axis=0) == pytest.approx(lost, abs=1e-9)
    assert of_negatives.sum(axis=0) == pytest.approx(lost, abs=1e-9)
