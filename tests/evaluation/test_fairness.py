import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference

from fedmed.evaluation.discrimination import auroc
from fedmed.evaluation.fairness import MINIMUM, SEXES, gaps, group_table, pearson


def draw(
    seed: int, names: tuple[str, ...], n: int = 600
) -> tuple[np.ndarray, np.ndarray, pd.Series]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, n)
    group = generator.choice(np.array(names, dtype=object), n)
    shift = np.array([names.index(name) for name in group]) * 0.2
    scores = 1 / (1 + np.exp(-(1.5 * labels - 0.7 + shift + generator.normal(size=n))))
    return labels, scores, pd.Series(group)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("names", [("F", "M"), ("0-29", "30-59", "60-69", "70-79", "80+")])
def test_parity_and_odds_equal_fairlearn(seed: int, names: tuple[str, ...]) -> None:
    labels, scores, group = draw(seed, names)
    called = (scores >= 0.55).astype(int)
    found = gaps(labels, scores, group, 0.55)
    parity = demographic_parity_difference(labels, called, sensitive_features=group)
    odds = equalized_odds_difference(labels, called, sensitive_features=group)
    assert found["statistical_parity_difference"] == pytest.approx(parity, abs=1e-9)
    assert found["equalised_odds_difference"] == pytest.approx(odds, abs=1e-9)


def test_accuracy_gap_of_sexes_is_women_minus_men_with_its_sign() -> None:
    labels, scores, group = draw(0, ("F", "M"))
    correct = (scores >= 0.5) == (labels == 1)
    women = (group == "F").to_numpy()
    found = gaps(labels, scores, group, 0.5, pair=SEXES)
    expected = correct[women].mean() - correct[~women].mean()
    assert found["accuracy_gap"] == pytest.approx(expected, abs=1e-12)
    swapped = group.map({"F": "M", "M": "F"})
    other = gaps(labels, scores, swapped, 0.5, pair=SEXES)
    assert other["accuracy_gap"] == pytest.approx(-expected, abs=1e-12)


def test_accuracy_gap_of_age_is_against_all_other_images_weighted_by_image() -> None:
    # Group accuracies 1, 1/2, 0 with 20, 40 and 40 images: weights matter.
    labels = np.array([0, 1] * 50)
    group = pd.Series(["0-29"] * 20 + ["30-59"] * 40 + ["80+"] * 40)
    right = np.array([True] * 20 + [True, True, False, False] * 10 + [False] * 40)
    scores = np.where(right, labels, 1 - labels) * 0.8 + 0.1
    found = gaps(labels, scores, group, 0.5)
    expected = {"0-29": 1 - 20 / 80, "30-59": 0.5 - 20 / 60, "80+": 0 - 40 / 60}
    assert found["accuracy_gaps"] == pytest.approx(expected)
    assert found["accuracy_gap_group"] == "0-29"
    assert found["accuracy_gap"] == pytest.approx(0.75)


def test_a_group_with_too_few_of_a_class_has_no_numbers_and_sets_no_gap() -> None:
    labels, scores, group = draw(1, ("F", "M"))
    small = np.flatnonzero(labels == 1)[: MINIMUM - 1]
    group.iloc[small] = "X"
    scores[small] = 0.0  # would be the worst group by far
    rows = {row["group"]: row for row in group_table(labels, scores, group, 0.5)}
    assert rows["X"]["note"] == "too few"
    assert rows["X"]["positives"] == MINIMUM - 1
    assert all(rows["X"][key] is None for key in ("auroc", "fnr", "fpr", "accuracy"))
    found = gaps(labels, scores, group, 0.5)
    kept = (group != "X").to_numpy()
    women = kept & (group == "F").to_numpy()
    men = kept & (group == "M").to_numpy()
    expected = abs(auroc(labels[women], scores[women]) - auroc(labels[men], scores[men]))
    assert found["auroc_gap"] == pytest.approx(expected, abs=1e-12)
    assert "X is not compared: too few (9 positive, 0 negative" in found["notes"][0]


@pytest.mark.parametrize(("extra", "note"), [(0, None), (1, "too few")])
def test_the_minimum_itself_is_enough(extra: int, note: str | None) -> None:
    labels = np.array([1] * (MINIMUM - extra) + [0] * MINIMUM)
    rows = group_table(labels, labels * 0.5, pd.Series(["A"] * len(labels)), 0.4)
    assert rows[0]["note"] == note


def test_unknown_is_listed_last_and_not_compared() -> None:
    labels, scores, group = draw(2, ("F", "M", "unknown"))
    assert [row["group"] for row in group_table(labels, scores, group, 0.5)] == [
        "F",
        "M",
        "unknown",
    ]
    found = gaps(labels, scores, group, 0.5, pair=SEXES)
    known = (group != "unknown").to_numpy()
    without = gaps(labels[known], scores[known], group[known], 0.5, pair=SEXES)
    assert found["auroc_gap"] == without["auroc_gap"]
    assert found["accuracy_gap"] == without["accuracy_gap"]
    assert found["notes"] == [f"{int((~known).sum())} images of unknown group are not compared"]


def test_without_threshold_only_aurocs_are_compared() -> None:
    labels, scores, group = draw(3, ("F", "M"))
    found = gaps(labels, scores, group, None, pair=SEXES)
    assert found["auroc_gap"] > 0
    for key in ("statistical_parity_difference", "equalised_odds_difference", "accuracy_gap"):
        assert found[key] is None


def test_worst_group_and_its_false_negative_gap() -> None:
    labels, scores, group = draw(4, ("hospital-2", "hospital-10"))
    rows = group_table(labels, scores, group, 0.5)
    assert [row["group"] for row in rows] == ["hospital-2", "hospital-10"]
    found = gaps(labels, scores, group, 0.5)
    worst = min(rows, key=lambda row: row["auroc"])
    assert (found["worst_group"], found["worst_auroc"]) == (worst["group"], worst["auroc"])
    assert found["fnr_gap"] == pytest.approx(abs(rows[0]["fnr"] - rows[1]["fnr"]))


def test_pearson_needs_three_groups_that_differ() -> None:
    assert pearson([1, 2], [0.5, 0.6]) is None
    assert pearson([5, 5, 5], [0.5, 0.6, 0.7]) is None
    assert pearson([1, 2, 3], [0.9, 0.9, 0.9]) is None
    assert pearson([1, 2, 4], [0.9, 0.8, 0.6]) == pytest.approx(-1.0)


def test_correlation_is_of_group_size_and_auroc() -> None:
    labels, scores, group = draw(5, ("0-29", "30-59", "60-69"))
    group.iloc[:150] = "0-29"
    rows = group_table(labels, scores, group, 0.5)
    expected = np.corrcoef([row["n"] for row in rows], [row["auroc"] for row in rows])[0, 1]
    assert gaps(labels, scores, group, 0.5)["pearson_size_auroc"] == pytest.approx(expected)
