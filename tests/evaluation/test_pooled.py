"""Pooled numbers from histograms: within their bound, equal to the tables', honest under noise."""

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy.stats import norm
from support import goes_red
from support.tables import rates

from fedmed.evaluation.discrimination import auroc, youden_threshold
from fedmed.evaluation.pooled.cells import area, drawn_measures, interval, plausible, specific_edge
from fedmed.evaluation.pooled.groups import by_group, gaps_between
from fedmed.evaluation.pooled.histograms import EVERYBODY, Spec, around, count, equal_width
from fedmed.evaluation.pooled.pooled import Pooled, evaluate_histograms
from fedmed.evaluation.summary import evaluate

Array = npt.NDArray[np.float64]


def cohort(seed: int, images: int = 900, hospitals: int = 3, spread: float = 1.0) -> pd.DataFrame:
    """Hospitals whose scores lie at different heights, women's disease harder to see."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, images)
    hospital = rng.integers(0, hospitals, images)
    sex = rng.choice(["F", "M", "unknown"], images, p=[0.45, 0.45, 0.1])
    logit = rng.normal(0, 1, images) + label * np.where(sex == "F", 0.6, 1.4) + 1.5 * hospital
    return pd.DataFrame(
        {
            "image": [f"i{n}" for n in range(images)],
            "patient": [f"p{n}" for n in range(images)],
            "hospital": [f"h{n}" for n in hospital],
            "split": rng.choice(["val", "test"], images, p=[0.3, 0.7]),
            "label": label,
            "score": 1 / (1 + np.exp(-spread * logit)),
            "sex": sex,
        }
    )


def counts(table: pd.DataFrame, spec: Spec) -> dict[str, dict[str, Array]]:
    return {
        str(name): count(
            spec,
            splits=own["split"],
            labels=own["label"],
            scores=own["score"],
            images=own["image"],
            patients=own["patient"],
            groups={"sex": own["sex"].to_numpy(dtype=object)},
        )
        for name, own in table.groupby("hospital")
    }


def evaluated(table: pd.DataFrame, edges: tuple[float, ...], **changes: Any) -> dict[str, Any]:
    spec = Spec(edges=edges, attributes=("sex",))
    return evaluate_histograms(Pooled(spec=spec, counts=counts(table, spec)), **changes)


def edges_between(scores: npt.ArrayLike) -> tuple[float, ...]:
    """An edge between each two distinct scores: every bin holds one."""
    distinct = np.unique(scores)
    return tuple(float(edge) for edge in (distinct[:-1] + distinct[1:]) / 2)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("bins", [2, 5, 32, 256])
@pytest.mark.parametrize("spread", [0.05, 1.0, 6.0])
def test_the_exact_auroc_lies_within_the_bound(seed: int, bins: int, spread: float) -> None:
    table = cohort(seed, spread=spread)
    test = table[table["split"] == "test"]
    exact = auroc(test["label"], test["score"])
    for edges in (equal_width(bins), around(0.5 * spread, spread, bins)):
        found = evaluated(table, edges, resamples=100)
        low, high = found["auroc_bounds"]
        assert low - 1e-12 <= exact <= high + 1e-12
        assert found["auroc_interval"][0] <= low
        assert found["auroc_interval"][1] >= high
    if bins == 256:
        assert high - low < 0.01


def test_the_bound_is_reached_where_each_bin_is_ordered_one_way() -> None:
    """All positives above all negatives of their bin: nothing narrower would hold."""
    label = np.tile([0, 1], 20)
    score = np.repeat([0.2, 0.4, 0.6, 0.8], 10) + 0.01 * label
    edges = (0.3, 0.5, 0.7)
    cells = np.stack([np.bincount(np.searchsorted(edges, score[label == k])) for k in (0, 1)])
    middle, half = area(cells.astype(float))
    assert auroc(label, score) == pytest.approx(float(middle + half))
    assert auroc(label, score - 0.02 * label) == pytest.approx(float(middle - half))
    assert half > 0.1


@pytest.mark.parametrize("seed", range(3))
def test_with_one_score_in_each_bin_everything_equals_the_tables(seed: int) -> None:
    table = cohort(seed)
    table["score"] = table["score"].round(2)  # ties within labels and across them
    test, val = table[table["split"] == "test"], table[table["split"] == "val"]
    found = evaluated(table, edges_between(table["score"]), resamples=100)
    assert found["auroc"] == pytest.approx(auroc(test["label"], test["score"]), abs=1e-12)
    assert found["auroc_val"] == pytest.approx(auroc(val["label"], val["score"]), abs=1e-12)
    # An edge is between two scores: the same images are above it and above the table's threshold.
    threshold = youden_threshold(val["label"], val["score"])
    below = table.loc[table["score"] < threshold, "score"].max()
    assert below < found["threshold"] < threshold
    at = rates(test["label"], test["score"], found["threshold"])
    for key in ("accuracy", "sensitivity", "specificity", "ppv", "npv"):
        assert found[key] == pytest.approx(getattr(at, key), abs=1e-12), key
    expected = evaluate(table, resamples=0)
    for ours, theirs in zip(found["groups"]["sex"], expected["groups"]["sex"], strict=True):
        for key in ("group", "n", "positives", "negatives", "auroc", "fnr", "fpr", "accuracy"):
            assert ours[key] == pytest.approx(theirs[key]) if theirs[key] is not None else True
    wanted = expected["fairness"]["sex"]
    for key in (
        "auroc_gap",
        "fnr_gap",
        "statistical_parity_difference",
        "equalised_odds_difference",
        "accuracy_gap",
        "accuracy_gap_group",
        "worst_group",
        "worst_auroc",
    ):
        ours = found["fairness"]["sex"][key]
        assert ours == wanted[key] or ours == pytest.approx(wanted[key], abs=1e-12), key
    low, high = found["fairness"]["sex"]["intervals"]["auroc_gap"]
    assert 0 <= low <= found["fairness"]["sex"]["auroc_gap"] <= high
    by_hospital = {
        row["group"]: row["auroc"] for row in found["groups"]["hospital"] if row["note"] is None
    }
    for name, own in test.groupby("hospital"):
        assert by_hospital[str(name)] == pytest.approx(auroc(own["label"], own["score"]))


def test_accuracy_gaps_of_hospitals_are_against_all_others() -> None:
    table = cohort(1)
    found = evaluated(table, edges_between(table["score"]), resamples=100)
    wanted = evaluate(table, resamples=0)["fairness"]["hospital"]
    assert found["fairness"]["hospital"]["accuracy_gaps"] == pytest.approx(wanted["accuracy_gaps"])


def check_pooled(value: float, table: pd.DataFrame) -> None:
    test = table[table["split"] == "test"]
    assert value == pytest.approx(auroc(test["label"], test["score"]), abs=0.004)


def test_the_pooled_auroc_is_not_the_mean_of_the_hospitals() -> None:
    """Pitfall 27: heights that differ between hospitals cost order, which no hospital sees."""
    table = cohort(0)
    found = evaluated(table, around(1.5, 1.5, 256))
    check_pooled(found["auroc"], table)
    assert found["within_hospital_auroc"] > found["auroc"] + 0.05
    goes_red(check_pooled, found["within_hospital_auroc"], table)


def test_the_threshold_at_a_specificity_comes_from_validation() -> None:
    table = cohort(2)
    found = evaluated(table, edges_between(table["score"]), specificity=0.9)["at_specificity"]
    val = table[table["split"] == "val"]
    negatives = val.loc[val["label"] == 0, "score"]
    assert (negatives < found["threshold"]).mean() >= 0.9
    lower = table.loc[table["score"] < found["threshold"], "score"].max()
    assert (negatives < lower).mean() < 0.9
    test = table[table["split"] == "test"]
    at = rates(test["label"], test["score"], found["threshold"])
    assert found["sensitivity"] == pytest.approx(at.sensitivity)
    low, high = found["intervals"]["sensitivity"]
    assert low < found["sensitivity"] < high
    assert specific_edge(np.array([[0.0, 5.0], [1.0, 0.0]]), 0.9) is None


def test_the_hospitals_order_and_the_numbers_of_draws_change_nothing_but_ends() -> None:
    table = cohort(3)
    spec = Spec(edges=equal_width(20), attributes=("sex",))
    sent = counts(table, spec)
    one = evaluate_histograms(Pooled(spec=spec, counts=sent))
    other = evaluate_histograms(Pooled(spec=spec, counts=dict(reversed(sent.items()))))
    assert one["intervals"] == other["intervals"]
    assert one["fairness"]["sex"] == other["fairness"]["sex"]


def test_empty_and_one_class_histograms_give_none_and_say_so() -> None:
    table = cohort(4)
    table.loc[table["split"] == "test", "label"] = 1
    found = evaluated(table, equal_width(8), resamples=100)
    assert found["auroc"] is None
    assert found["auroc_bounds"] is None
    assert found["auroc_interval"] is None
    assert "one class" in " ".join(found["notes"])
    assert found["threshold"] is not None
    assert all(row["note"] == "too few" for row in found["groups"]["sex"])
    assert found["fairness"]["sex"]["auroc_gap"] is None


def test_a_group_below_the_minimum_has_counts_and_no_numbers() -> None:
    table = cohort(5)
    few = table[(table["sex"] == "M") & (table["split"] == "test")].index[9:]
    found = evaluated(table.drop(few), equal_width(16), resamples=100)
    row = next(row for row in found["groups"]["sex"] if row["group"] == "M")
    assert (row["n"], row["note"], row["auroc"], row["intervals"]) == (9, "too few", None, {})
    assert found["fairness"]["sex"]["auroc_gap"] is None
    assert found["fairness"]["sex"]["notes"] == ["M is not compared: too few"]


# Noise.


def binormal(rng: np.random.Generator, images: int, edges: Array) -> Array:
    """Exact cells of 30 % positives, whose scores are shifted by one standard deviation."""
    positives = rng.binomial(images, 0.3)
    rows = []
    for number, mean in ((images - positives, 0.0), (positives, 1.0)):
        score = 1 / (1 + np.exp(-rng.normal(mean, 1, number)))
        rows.append(np.bincount(np.searchsorted(edges, score, "right"), minlength=len(edges) + 1))
    return np.stack(rows).astype(np.float64)


TRUE = float(norm.cdf(1 / math.sqrt(2)))


def check_unbiased(estimates: list[float]) -> None:
    error = np.std(estimates) / math.sqrt(len(estimates))
    assert abs(float(np.mean(estimates)) - TRUE) < 4.5 * error + 0.002


def test_negative_cells_stay_negative_as_cutting_them_biases_the_auroc() -> None:
    """400 noised histograms, mean against the truth: false alarm below 1e-5 (and 0.002 binning)."""
    rng, edges = np.random.default_rng(11), np.asarray(around(0.3, 1.0, 32))
    noised = [
        c + rng.normal(0, 3, c.shape) for c in (binormal(rng, 600, edges) for _ in range(400))
    ]
    assert sum(bool((cells < 0).any()) for cells in noised) > 390
    check_unbiased([float(area(cells)[0]) for cells in noised])
    goes_red(check_unbiased, [float(area(np.maximum(cells, 0))[0]) for cells in noised])


def covered(images: int, deviation: float, assumed: float, runs: int) -> float:
    """How often the interval holds the true AUROC, of ``runs`` noised histograms."""
    rng, edges = np.random.default_rng(17), np.asarray(around(0.3, 1.0, 32))
    hits = 0
    for _ in range(runs):
        cells = binormal(rng, images, edges)
        cells = cells + rng.normal(0, deviation, cells.shape) if deviation else cells
        drawn = drawn_measures(cells, None, deviation=assumed, clustering=1.0, resamples=400)
        ends = interval(drawn["auroc"])
        hits += ends is not None and ends[0] <= TRUE <= ends[1]
    return hits / runs


def check_coverage(share: float, runs: int) -> None:
    """Between 93 and 97 in 100, and four standard errors of the simulation around that."""
    error = 4 * math.sqrt(0.95 * 0.05 / runs)
    assert 0.93 - error < share < 0.97 + error


@pytest.mark.parametrize(("images", "deviation"), [(400, 0.0), (400, 2.0), (1500, 6.0)])
def test_intervals_cover_the_truth_with_the_noise_inside(images: int, deviation: float) -> None:
    """300 simulated federations each; false alarm below 1e-4."""
    check_coverage(covered(images, deviation, deviation, 300), 300)


def test_intervals_that_forget_the_noise_do_not_cover() -> None:
    goes_red(check_coverage, covered(400, 4.0, 0.0001, 300), 300)


def test_intervals_widen_with_noise_and_with_several_images_of_a_patient() -> None:
    table = cohort(6)
    spec = Spec(edges=equal_width(16), attributes=("sex",), cap=2)
    sent = counts(table, spec)

    def width(**changes: float) -> float:
        low, high = evaluate_histograms(Pooled(spec=spec, counts=sent, **changes))["intervals"][
            "sensitivity"
        ]
        return float(high - low)

    assert width(deviation=4.0) > 1.3 * width()
    assert width(clustering=2.0) == pytest.approx(math.sqrt(2) * width(), rel=0.15)


def test_many_groups_without_a_gap_have_an_interval_from_zero() -> None:
    """Eight hospitals of one distribution. Of 60 federations a 95 % interval that begins above zero
    is expected in at most 3; more than 12 are a false alarm below 1e-4.
    """
    rng, edges = np.random.default_rng(5), np.asarray(around(0.3, 1.0, 32))
    names = tuple(f"h{number}" for number in range(8))
    gaps = ("auroc_gap", "fnr_gap", "equalised_odds_difference", "accuracy_gap")
    above = dict.fromkeys(gaps, 0)
    alone = 0  # of the two that are furthest apart, as if they had been named beforehand
    for _ in range(60):
        cells = np.stack([binormal(rng, 300, edges) for _ in names])
        groups = by_group(
            names, cells, 15, floor=0, deviation=0, clustering=1, resamples=200, level=0.95
        )
        found = gaps_between(groups, "hospital", 0.95)
        for gap in gaps:
            low, high = found["intervals"][gap]
            assert low <= found[gap] <= high
            above[gap] += low > 0 or high < 0
        areas = groups.values["auroc"][:8]
        apart = (
            groups.sample["auroc"][:, areas.argmax()] - groups.sample["auroc"][:, areas.argmin()]
        )
        alone += (interval(apart) or [0.0])[0] > 0

    def rare(often: int) -> None:
        assert often <= 12

    for often in above.values():
        rare(often)
    goes_red(rare, alone)


def test_of_scores_that_are_all_alike_no_gap_can_be_detected() -> None:
    table = cohort(8)
    table["score"] = 0.4
    row = evaluated(table, (0.3, 0.6), resamples=100)["groups"]["sex"][0]
    assert row["auroc"] == 0.5
    assert row["minimum_detectable_gap"]["auroc"] is None


def test_totals_within_the_noise_are_not_measured() -> None:
    spec = Spec(edges=equal_width(16), attributes=("sex",), cap=1)
    rng = np.random.default_rng(2)
    noise = {f: rng.normal(0, 5, spec.shape(f)) for f in spec.families}
    found = evaluate_histograms(Pooled(spec=spec, counts={"h": noise}, deviation=5.0))
    assert found["auroc"] is None
    assert found["threshold"] is None
    assert "noise" in found["threshold_rule"]
    assert all(row["auroc"] is None for row in found["groups"]["sex"])
    assert [row["group"] for row in found["groups"]["sex"]] == ["F", "M", "unknown"]


def test_plausible_cells_are_the_nearest_without_negatives() -> None:
    given = np.array([[3.0, -1.0, 2.0], [1.0, 1.0, 0.0]])
    assert plausible(given).tolist() == [[2.5, 0.0, 1.5], [1.0, 1.0, 0.0]]
    assert plausible(np.array([[-3.0, -1.0]])).tolist() == [[0.0, 0.0]]


def test_all_keys_of_a_table_are_there_and_json_ready() -> None:
    found = evaluated(cohort(7), equal_width(32), resamples=100)
    json.dumps(found, allow_nan=False)
    assert found["source"] == "histograms"
    for key in ("auprc", "brier", "ece", "calibration_slope", "delong", "patients_test"):
        assert found[key] is None, key
    assert set(found["groups"]) == set(found["fairness"]) == {"sex", "hospital"}
    assert found["n_test"] + found["n_val"] == 900
    assert EVERYBODY not in found["groups"]
    detectable = found["groups"]["sex"][0]["minimum_detectable_gap"]
    assert 0.05 < detectable["auroc"] < 0.3
