from typing import Any

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference

from fedmed.evaluation import fairness
from fedmed.evaluation.discrimination import auroc
from fedmed.evaluation.fairness import MINIMUM, pearson
from fedmed.evaluation.group_gaps import GAPS
from fedmed.evaluation.measuring.measures import Column
from fedmed.evaluation.measuring.panel import panels
from fedmed.evaluation.measuring.rows import gap_row, group_rows, number


def draw(
    seed: int, names: tuple[str, ...], n: int = 600
) -> tuple[np.ndarray, np.ndarray, pd.Series]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, n)
    group = generator.choice(np.array(names, dtype=object), n)
    shift = np.array([names.index(name) for name in group]) * 0.2
    scores = 1 / (1 + np.exp(-(1.5 * labels - 0.7 + shift + generator.normal(size=n))))
    return labels, scores, pd.Series(group)


def panel_of(
    labels: Any, scores: Any, group: Any, threshold: float | None, attribute: str = "hospital"
) -> Any:
    """A panel of images without resamples, one per patient, grouped by one attribute."""
    test = pd.DataFrame(
        {
            "image": [f"i{i}" for i in range(len(labels))],
            "patient_id": [f"p{i}" for i in range(len(labels))],
            "label": labels,
            "age": np.nan,
            "sex": None,
            "hospital": None,
            "view": None,
        }
    )
    test[attribute] = pd.Series(group, dtype="string")
    column = Column(name="run", scores=scores, threshold=threshold)
    return panels({"": test}, {"": [column]}, resamples=0, seed=0)[""]


def rows_of(*arguments: Any, attribute: str = "hospital") -> dict[str, Any]:
    found = group_rows(panel_of(*arguments, attribute=attribute), attribute)
    return {row["group"]: row for row in found}


def gaps_of(*arguments: Any, attribute: str = "hospital") -> dict[str, Any]:
    return gap_row(panel_of(*arguments, attribute=attribute), attribute)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("names", [("F", "M"), ("0-29", "30-59", "60-69", "70-79", "80+")])
@pytest.mark.parametrize("decimals", [1, 12])
def test_parity_and_odds_equal_fairlearn(seed: int, names: tuple[str, ...], decimals: int) -> None:
    labels, scores, group = draw(seed, names)
    scores = scores.round(decimals)
    called = (scores >= 0.6).astype(int)
    found = gaps_of(labels, scores, group, 0.6)
    parity = demographic_parity_difference(labels, called, sensitive_features=group)
    odds = equalized_odds_difference(labels, called, sensitive_features=group)
    assert found["statistical_parity_difference"] == pytest.approx(parity, abs=1e-9)
    assert found["equalised_odds_difference"] == pytest.approx(odds, abs=1e-9)
    assert found["tpr_gap"] == pytest.approx(found["fnr_gap"], abs=1e-12)
    assert max(found["tpr_gap"], found["fpr_gap"]) == found["equalised_odds_difference"]


def test_accuracy_gap_of_sexes_is_women_minus_men_with_its_sign() -> None:
    labels, scores, group = draw(0, ("F", "M"))
    correct = (scores >= 0.5) == (labels == 1)
    women = (group == "F").to_numpy()
    found = gaps_of(labels, scores, group, 0.5, attribute="sex")
    expected = correct[women].mean() - correct[~women].mean()
    assert found["accuracy_gap"] == pytest.approx(expected, abs=1e-12)
    swapped = group.map({"F": "M", "M": "F"})
    other = gaps_of(labels, scores, swapped, 0.5, attribute="sex")
    assert other["accuracy_gap"] == pytest.approx(-expected, abs=1e-12)


def test_accuracy_gap_of_others_is_against_all_other_images_weighted_by_image() -> None:
    # Group accuracies 1, 1/2, 0 with 20, 40 and 40 images: weights matter.
    labels = np.array([0, 1] * 50)
    group = pd.Series(["0-29"] * 20 + ["30-59"] * 40 + ["80+"] * 40)
    right = np.array([True] * 20 + [True, True, False, False] * 10 + [False] * 40)
    scores = np.where(right, labels, 1 - labels) * 0.8 + 0.1
    found = gaps_of(labels, scores, group, 0.5)
    expected = {"0-29": 1 - 20 / 80, "30-59": 0.5 - 20 / 60, "80+": 0 - 40 / 60}
    assert found["accuracy_gaps"] == pytest.approx(expected)
    assert found["accuracy_gap_group"] == "0-29"
    assert found["accuracy_gap"] == pytest.approx(0.75)


def test_a_comparison_takes_the_size_of_the_largest_accuracy_gap() -> None:
    labels = np.array([0, 1] * 50)
    group = pd.Series(["a"] * 60 + ["b"] * 40)
    scores = np.where(np.arange(100) < 60, labels, 1 - labels) * 0.8 + 0.1
    panel = panel_of(labels, 1 - scores, group, 0.5)  # a is wrong, b is right
    assert number(panel.gaps("hospital")["accuracy_gap"].quantity) == pytest.approx(1.0)


def test_a_group_with_too_few_of_a_class_has_no_numbers_and_sets_no_gap() -> None:
    labels, scores, group = draw(1, ("F", "M"))
    small = np.flatnonzero(labels == 1)[: MINIMUM - 1]
    group.iloc[small] = "X"
    scores[small] = 0.0  # would be the worst group by far
    rows = rows_of(labels, scores, group, 0.5)
    assert rows["X"]["note"] == "too few"
    assert rows["X"]["positives"] == MINIMUM - 1
    assert all(rows["X"][key] is None for key in ("auroc", "fnr", "fpr", "accuracy", "ece"))
    found = gaps_of(labels, scores, group, 0.5)
    kept = (group != "X").to_numpy()
    women = kept & (group == "F").to_numpy()
    men = kept & (group == "M").to_numpy()
    expected = abs(auroc(labels[women], scores[women]) - auroc(labels[men], scores[men]))
    assert found["auroc_gap"] == pytest.approx(expected, abs=1e-12)
    assert "X is not compared: too few (9 positive, 0 negative" in found["notes"][0]


@pytest.mark.parametrize(("extra", "note"), [(0, None), (1, "too few")])
def test_the_minimum_itself_is_enough(extra: int, note: str | None) -> None:
    labels = np.array([1] * (MINIMUM - extra) + [0] * MINIMUM)
    counted = fairness.counts(labels, np.arange(labels.size), pd.Series(["A"] * labels.size))
    assert (counted[0].note, counted[0].prevalence) == (note, labels.mean())


def test_patients_of_a_group_are_counted_once() -> None:
    labels = np.array([0, 1, 1, 0])
    counted = fairness.counts(labels, np.array([0, 0, 1, 1]), pd.Series(["A", "A", "A", "B"]))
    assert [(count.group, count.n, count.patients) for count in counted] == [
        ("A", 3, 2),
        ("B", 1, 1),
    ]


def test_unknown_is_listed_last_and_not_compared() -> None:
    labels, scores, group = draw(2, ("F", "M", "unknown"))
    group = group.where(group != "unknown", None)
    rows = rows_of(labels, scores, group, 0.5, attribute="sex")
    assert list(rows) == ["F", "M", "unknown"]
    assert rows["unknown"]["auroc"] is not None
    found = gaps_of(labels, scores, group, 0.5, attribute="sex")
    known = group.notna().to_numpy()
    without = gaps_of(labels[known], scores[known], group[known].to_list(), 0.5, attribute="sex")
    assert found["auroc_gap"] == without["auroc_gap"]
    assert found["accuracy_gap"] == without["accuracy_gap"]
    assert found["notes"] == [f"{int((~known).sum())} images of unknown group are not compared"]


def test_without_threshold_only_aurocs_and_calibration_are_compared() -> None:
    labels, scores, group = draw(3, ("F", "M"))
    found = gaps_of(labels, scores, group, None, attribute="sex")
    assert found["auroc_gap"] > 0
    assert found["calibration_gap"] > 0
    for key in ("statistical_parity_difference", "equalised_odds_difference", "accuracy_gap"):
        assert found[key] is None


def test_worst_groups_by_auroc_and_by_missed_disease() -> None:
    labels, scores, group = draw(4, ("hospital-2", "hospital-10"))
    rows = rows_of(labels, scores, group, 0.5)
    assert list(rows) == ["hospital-2", "hospital-10"]
    found = gaps_of(labels, scores, group, 0.5)
    worst = min(rows.values(), key=lambda row: row["auroc"])
    missed = max(rows.values(), key=lambda row: row["fnr"])
    assert (found["worst_group"], found["worst_auroc"]) == (worst["group"], worst["auroc"])
    assert (found["worst_fnr_group"], found["worst_fnr"]) == (missed["group"], missed["fnr"])
    rates = [row["fnr"] for row in rows.values()]
    assert found["fnr_gap"] == pytest.approx(abs(rates[0] - rates[1]))


def test_the_calibration_gap_is_the_range_of_calibration_errors() -> None:
    labels, scores, group = draw(6, ("0-29", "30-59", "60-69"))
    rows = rows_of(labels, scores, group, 0.5)
    errors = [row["ece"] for row in rows.values()]
    assert gaps_of(labels, scores, group, 0.5)["calibration_gap"] == pytest.approx(
        max(errors) - min(errors)
    )


def test_pearson_needs_eight_groups_that_differ() -> None:
    sizes = [float(n) for n in range(8)]
    assert pearson(sizes[:7], [1 - 0.1 * n for n in sizes[:7]]) is None
    assert pearson([5.0] * 8, sizes) is None
    assert pearson(sizes, [0.9] * 8) is None
    assert pearson(sizes, [1 - 0.1 * n for n in sizes]) == pytest.approx(-1.0)


def test_correlation_is_of_group_size_and_auroc() -> None:
    labels, scores, group = draw(5, tuple(f"hospital-{n}" for n in range(1, 9)))
    group.iloc[:50] = "hospital-1"
    rows = rows_of(labels, scores, group, 0.5).values()
    expected = np.corrcoef([row["n"] for row in rows], [row["auroc"] for row in rows])[0, 1]
    assert gaps_of(labels, scores, group, 0.5)["pearson_size_auroc"] == pytest.approx(expected)


def test_a_single_group_has_no_gap_and_nothing_to_detect() -> None:
    labels, scores, group = draw(7, ("A",))
    rows, found = rows_of(labels, scores, group, 0.5), gaps_of(labels, scores, group, 0.5)
    assert rows["A"]["auroc"] is not None
    assert rows["A"]["minimum_detectable_gap"] == {"auroc": None, "fnr": None, "accuracy": None}
    assert {found[key] for key in GAPS} == {None}
    assert found["worst_group"] == "A"


def test_what_can_be_detected_is_that_of_two_independent_rates() -> None:
    """Accuracy of one group against the rest: 2.8 standard errors of a difference of two shares."""
    labels, scores, group = draw(8, ("A", "B"), n=2000)
    correct = (scores >= 0.5) == (labels == 1)
    variance = sum(
        correct[(group == name) & (labels == label)].var() * share**2 / size
        for name in ("A", "B")
        for label in (0, 1)
        for size in [int(((group == name) & (labels == label)).sum())]
        for share in [size / int((group == name).sum())]
    )
    found = rows_of(labels, scores, group, 0.5)["A"]["minimum_detectable_gap"]["accuracy"]
    # Strata are the labels, so that group sizes within them vary: a little more than that.
    assert found == pytest.approx(2.8016 * np.sqrt(variance), rel=0.05)
    assert rows_of(labels, scores, group, 0.5)["B"]["minimum_detectable_gap"][
        "accuracy"
    ] == pytest.approx(found)
