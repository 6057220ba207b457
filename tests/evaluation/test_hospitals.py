"""Hospitals that differ: left out one at a time, and the range of one that is not among them."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t
from sklearn.metrics import roc_auc_score
from support import goes_red
from support.tables import images

from fedmed.cli.evaluate import show
from fedmed.evaluation.intervals.heterogeneity import random_effects
from fedmed.evaluation.summary import evaluate


def cohort(strengths: list[float], n: int = 1500, seed: int = 0) -> pd.DataFrame:
    """Test images of as many hospitals, in each of which the disease shows more or less."""
    draw = np.random.default_rng(seed + 50)
    place = draw.integers(0, len(strengths), n)
    table = images(n, seed=seed).assign(split="test", hospital=[f"h{p}" for p in place])
    logit = np.array(strengths)[place] * (table["label"] - 0.5) + draw.normal(size=n)
    return table.assign(score=1.0 / (1.0 + np.exp(-logit)))


def test_the_range_is_that_of_the_formula() -> None:
    """By hand, of Higgins et al. 2009. Sabotage: t(k - 1); the fixed-effect mean."""
    values, errors = np.array([0.5, 1.0, 1.6, 0.9]), np.array([0.1, 0.2, 0.15, 0.3])
    found = random_effects(values, errors)
    assert found is not None
    w = 1 / errors**2
    q = (w * (values - (w * values).sum() / w.sum()) ** 2).sum()
    tau2 = (q - 3) / (w.sum() - (w**2).sum() / w.sum())
    star = 1 / (errors**2 + tau2)
    mean, se = (star * values).sum() / star.sum(), 1 / np.sqrt(star.sum())
    assert (found.mean, found.tau) == (pytest.approx(mean), pytest.approx(np.sqrt(tau2)))
    half = t.ppf(0.975, 2) * np.sqrt(tau2 + se**2)
    assert (found.new_low, found.new_high) == (
        pytest.approx(mean - half),
        pytest.approx(mean + half),
    )
    assert found.high - found.mean == pytest.approx(1.959964 * se)


def test_alike_hospitals_have_no_spread_and_few_or_sure_ones_no_range() -> None:
    alike = random_effects([1.0, 1.01, 0.99], [0.2, 0.2, 0.2])
    assert alike is not None
    assert alike.tau == 0.0
    assert random_effects([1.0, 2.0], [0.1, 0.1]) is None
    assert random_effects([1.0, 2.0, 3.0], [0.1, 0.0, 0.1]) is None
    assert random_effects([1.0, np.nan, 3.0], [0.1, 0.1, 0.1]) is None


def share_of_new_hospitals_inside(hospitals: int, *, prediction: bool) -> float:
    """In how many of 1,000 studies the range holds the true value of a further hospital."""
    draw = np.random.default_rng(hospitals)
    inside = 0
    for _ in range(1000):
        errors = draw.uniform(0.1, 0.3, hospitals)
        true = draw.normal(1.2, 0.4, hospitals + 1)
        found = random_effects(draw.normal(true[:-1], errors), errors)
        assert found is not None
        low, high = (found.new_low, found.new_high) if prediction else (found.low, found.high)
        inside += low <= true[-1] <= high
    return inside / 1000


@pytest.mark.parametrize("hospitals", [4, 8, 20])
def test_a_further_hospital_is_in_the_range_of_a_new_one_and_not_in_that_of_the_mean(
    hospitals: int,
) -> None:
    def check(*, prediction: bool) -> None:
        assert share_of_new_hospitals_inside(hospitals, prediction=prediction) > 0.92

    check(prediction=True)
    with pytest.raises(AssertionError):
        check(prediction=False)


def test_each_hospital_is_left_out_once() -> None:
    """Sabotage: the mean of the others' AUROCs in place of that of all their images."""
    table = cohort([2.5, 2.0, 0.5])
    told = evaluate(table, resamples=200)["between_hospitals"]
    for row in told["each"]:
        inside = table["hospital"] == row["hospital"]
        for key, rows in (("auroc", table[inside]), ("auroc_without", table[~inside])):
            assert row[key] == pytest.approx(roc_auc_score(rows["label"], rows["score"]))
        for key in ("interval", "interval_without"):
            low, high = row[key]
            assert low < row[key.replace("interval", "auroc")] < high
    assert [row["hospital"] for row in told["each"]] == ["h0", "h1", "h2"]
    assert told["each"][2]["auroc_without"] > told["each"][0]["auroc_without"] + 0.05
    low, high = told["new_hospital"]
    assert 0.0 < low < told["mean"] < high < 1.0
    assert low < min(row["auroc"] for row in told["each"])
    assert told["tau"] > 0.3


def test_hospitals_that_differ_widen_the_range_of_a_new_one() -> None:
    def width(told: dict[str, Any]) -> float:
        low, high = told["between_hospitals"]["new_hospital"]
        return float(high - low)

    def check(first: dict[str, Any], second: dict[str, Any]) -> None:
        assert width(second) > 1.5 * width(first)

    alike = evaluate(cohort([2.0] * 6, 3000), resamples=0)
    unlike = evaluate(cohort([3.0, 2.5, 2.0, 1.5, 1.0, 0.5], 3000), resamples=0)
    check(alike, unlike)
    goes_red(check, unlike, alike)


def test_without_three_hospitals_that_have_numbers_there_is_none() -> None:
    two = cohort([2.0, 1.0], 800)
    few = two.head(12).assign(hospital="h9")
    assert evaluate(pd.concat([two.iloc[12:], few]), resamples=0)["between_hospitals"] is None
    assert evaluate(two.drop(columns="hospital"), resamples=0)["between_hospitals"] is None
    sure = cohort([2.0, 2.0, 2.0], 900)
    perfect = sure["hospital"] == "h1"
    sure.loc[perfect, "score"] = sure.loc[perfect, "label"].astype(float)
    told = evaluate(sure, resamples=0)["between_hospitals"]
    assert (told["new_hospital"], len(told["each"])) == (None, 3)
    assert "nothing varies" in told["note"]


def test_the_terminal_and_each_target_show_it(capsys: pytest.CaptureFixture[str]) -> None:
    table = cohort([2.5, 2.0, 0.5], 900)
    found = evaluate(table, resamples=200)
    show(found, "one")
    printed = capsys.readouterr().out
    low, high = found["between_hospitals"]["new_hospital"]
    assert "one left out at a time" in printed
    assert f"a new one: {low:.3f} to {high:.3f}" in printed
    both = pd.concat([table.assign(target="a"), table.assign(target="b", label=1 - table["label"])])
    several = evaluate(both, resamples=0)
    assert several["between_hospitals"] is None
    assert several["targets"]["a"]["between_hospitals"]["mean"] == pytest.approx(
        found["between_hospitals"]["mean"]
    )
    show(several, "two")
