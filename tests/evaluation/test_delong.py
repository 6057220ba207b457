"""DeLong's variance against a published example and against the double sum of the paper."""

import math

import numpy as np
import pytest
from scipy import stats

from fedmed.evaluation.intervals.delong import DeLong, Paired, covariances, delong, paired

# The ovarian cancer data of DeLong et al. (1988), complete cases: albumin, total protein,
# Krebs-Goplerud score (high is bad), benefit of surgery. Example "Comparing Receiver Operating
# Characteristic Curves" of PROC LOGISTIC in the SAS/STAT user's guide prints what is tested here.
OVARIAN = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0
1.6 5.6 5 1  3.8 5.7 5 1  3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1
4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1
3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1
3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1
3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1
3.6 6.6 5 1
"""


def ovarian() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    table = np.array(OVARIAN.split(), dtype=float).reshape(-1, 4)
    tests = {"albumin": table[:, 0], "protein": table[:, 1], "score": 10 - table[:, 2]}
    return table[:, 3].astype(int), tests


@pytest.mark.parametrize(
    ("test", "area", "error", "low", "high"),
    [
        ("score", 0.7258, 0.1028, 0.5243, 0.9273),
        ("albumin", 0.7366, 0.0927, 0.5549, 0.9182),
        ("protein", 0.6478, 0.1000, 0.4518, 0.8439),
    ],
)
def test_published_areas(test: str, area: float, error: float, low: float, high: float) -> None:
    labels, tests = ovarian()
    found = delong(labels, tests[test], logit=False)
    assert isinstance(found, DeLong)
    printed = [round(x, 4) for x in (found.auroc, found.standard_error, found.low, found.high)]
    assert printed == [area, error, low, high]


@pytest.mark.parametrize(
    ("test", "difference", "error", "chi_square", "p"),
    [("albumin", 0.0108, 0.0953, 0.0127, 0.9102), ("protein", -0.0780, 0.1046, 0.5554, 0.4561)],
)
def test_published_comparisons(
    test: str, difference: float, error: float, chi_square: float, p: float
) -> None:
    labels, tests = ovarian()
    found = paired(labels, tests[test], tests["score"])
    assert isinstance(found, Paired)
    printed = (found.difference, found.standard_error, found.z**2, found.p)
    assert [round(x, 4) for x in printed] == [difference, error, chi_square, p]


def by_pairs(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas and covariances from every pair of a positive and a negative (equations 3 to 5)."""
    positive, negative = scores[:, labels == 1], scores[:, labels == 0]
    wins = (positive[:, :, None] > negative[:, None, :]).astype(float)
    wins += 0.5 * (positive[:, :, None] == negative[:, None, :])
    areas = wins.mean(axis=(1, 2))
    of_positives, of_negatives = wins.mean(axis=2), wins.mean(axis=1)
    p, m = positive.shape[1], negative.shape[1]
    total = np.zeros((len(scores), len(scores)))
    for values, size in ((of_positives, p), (of_negatives, m)):
        centred = values - areas[:, None]
        total += centred @ centred.T / (size - 1) / size
    return areas, total


@pytest.mark.parametrize("decimals", [0, 1, 16])
@pytest.mark.parametrize(("n", "seed"), [(6, 0), (40, 1), (301, 2)])
def test_midranks_give_the_double_sum(n: int, seed: int, decimals: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, n)
    labels[:4] = 0, 1, 0, 1
    scores = np.round(labels * 0.7 + generator.normal(size=(3, n)), decimals)
    areas, covariance = covariances(labels, scores)
    right_areas, right = by_pairs(labels, scores)
    assert areas == pytest.approx(right_areas, abs=1e-12)
    assert covariance == pytest.approx(right, abs=1e-12)


def test_logit_interval_is_symmetric_there_and_stays_inside() -> None:
    labels = np.array([0] * 20 + [1] * 10)
    scores = np.arange(30.0)
    scores[20] = 17.5  # nearly all pairs in order
    found = delong(labels, scores)
    wald = delong(labels, scores, logit=False)
    assert isinstance(found, DeLong)
    assert isinstance(wald, DeLong)
    assert 0.5 < found.low < found.auroc < found.high < 1.0
    assert wald.high == 1.0  # cut
    logits = [math.log(x / (1 - x)) for x in (found.low, found.auroc, found.high)]
    assert logits[1] - logits[0] == pytest.approx(logits[2] - logits[1])
    error = found.standard_error / (found.auroc * (1 - found.auroc))
    assert logits[2] - logits[1] == pytest.approx(stats.norm.ppf(0.975) * error)


def test_separated_classes_have_an_area_but_no_logit_interval() -> None:
    found = delong([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])
    assert isinstance(found, DeLong)
    assert found.auroc == 1.0
    assert math.isnan(found.low)


def test_equal_rankings_have_no_p_value() -> None:
    labels, scores = [0, 1, 0, 1, 1], np.array([0.1, 0.4, 0.5, 0.7, 0.8])
    found = paired(labels, scores, scores**2)
    assert isinstance(found, Paired)
    assert found.difference == 0.0
    assert math.isnan(found.p)


def test_several_images_of_a_patient_and_single_cases_are_refused_with_the_reason() -> None:
    labels, scores = [0, 1, 0, 1], [0.1, 0.4, 0.5, 0.7]
    assert "a patient has several" in str(delong(labels, scores, ["a", "b", "c", "c"]))
    assert "a patient has several" in str(paired(labels, scores, scores, [0, 1, 2, 2]))
    assert isinstance(delong(labels, scores, ["a", "b", "c", "d"]), DeLong)
    assert "2 images of each class" in str(delong([0, 0, 0, 1], scores))
    assert "2 images of each class" in str(paired([1, 1], [0.1, 0.2], [0.1, 0.2]))
