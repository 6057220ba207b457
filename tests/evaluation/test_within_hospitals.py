"""The mean AUROC within hospitals: its value, its interval, and that schemes are compared by it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from support import goes_red
from support.tables import images, scored, write_run

from fedmed.cli.progress import describe
from fedmed.evaluation.comparison.compare import from_directory
from fedmed.evaluation.comparison.comparison import compare
from fedmed.evaluation.intervals.intervals import standard_error
from fedmed.evaluation.measuring.measures import Column
from fedmed.evaluation.measuring.panel import SinglePanel, panels
from fedmed.evaluation.summary import evaluate
from fedmed.report.arms import summarise
from fedmed.report.load import load, summary_table
from fedmed.report.sections import headings, row

WITHIN = "within_hospital_auroc"
SHIFTS = (-1.6, -0.5, 0.5, 1.6)  # of the hospitals' scales, in standard deviations of a score


def hospitals_alone(
    shifts: tuple[float, ...], n: int = 4000, seed: int = 0, model: int = 0
) -> pd.DataFrame:
    """Test images of as many hospitals, each scored by its own model of true AUROC 0.80."""
    draw = np.random.default_rng(seed + 1000)
    table = images(n, seed=seed).assign(split="test")
    place = draw.integers(0, len(shifts), n)
    apart = 1.190  # of ill and healthy in standard deviations: Phi(1.19 / sqrt 2) = 0.80
    noise = np.random.default_rng([seed, model, 7]).normal(size=n)
    logit = noise + apart * table["label"] + np.array(shifts)[place]
    return table.assign(
        hospital=[f"hospital-{p + 1}" for p in place], score=1.0 / (1.0 + np.exp(-logit))
    )


def true_within(found: dict[str, Any], key: str) -> None:
    assert found[key] == pytest.approx(0.80, abs=0.015)


def test_four_models_of_080_on_scales_of_their_own_have_080_within_and_less_pooled() -> None:
    """Pooled scores of several models flatter whatever trains one model for all."""
    found = evaluate(hospitals_alone(SHIFTS), resamples=0)
    true_within(found, WITHIN)
    goes_red(true_within, found, "auroc")
    assert 0.69 < found["auroc"] < 0.73
    alike = evaluate(hospitals_alone((0.0,) * 4), resamples=0)
    true_within(alike, WITHIN)
    true_within(alike, "auroc")


def test_it_is_the_mean_of_the_hospitals_that_have_enough_and_are_known() -> None:
    """Sabotage: weights by size, a hospital of nine ill images, the images of no hospital."""
    table = hospitals_alone((0.0, 1.0), 900)
    small = table[table["label"] == 1].head(9).assign(hospital="small")
    few = pd.concat([small, table[table["label"] == 0].tail(40).assign(hospital="small")])
    lost = table.iloc[200:300].assign(hospital=None)
    rest = table.drop(index=[*few.index, *lost.index])
    rest = rest.drop(index=rest[rest["hospital"] == "hospital-1"].index[150:])
    whole = pd.concat([rest, few, lost])
    found = evaluate(whole, resamples=200)
    each = [
        roc_auc_score(own["label"], own["score"])
        for name, own in whole[whole["hospital"] != "small"].groupby("hospital")
    ]
    assert found[WITHIN] == pytest.approx(np.mean(each), abs=1e-12)
    low, high = found["intervals"][WITHIN]
    assert low < found[WITHIN] < high
    assert "small is not compared" in found["fairness"]["hospital"]["notes"][0]


def test_one_hospital_has_its_own_and_no_hospital_none() -> None:
    table = hospitals_alone((0.0,), 600)
    one = evaluate(table, resamples=200)
    assert one[WITHIN] == one["auroc"]
    assert one["intervals"][WITHIN] == one["intervals"]["auroc"]
    for unknown in (table.drop(columns="hospital"), table.assign(hospital=None)):
        none = evaluate(unknown, resamples=200)
        assert (none[WITHIN], none["intervals"][WITHIN]) == (None, None)


def panel_of(table: pd.DataFrame, resamples: int) -> SinglePanel:
    test = table.reset_index(drop=True)
    column = Column(name="run", scores=test["score"].to_numpy())
    return panels({"": test}, {"": [column]}, resamples=resamples, seed=1)[""]


def test_its_standard_error_is_that_of_drawing_patients_again() -> None:
    """Of influence values and of resamples, and of other patients altogether."""
    quantity = panel_of(hospitals_alone(SHIFTS, 600), 2000).quantity(WITHIN)
    error = standard_error(quantity)
    assert error == pytest.approx(float(quantity.samples.std()), rel=0.08)
    others = [
        evaluate(hospitals_alone(SHIFTS, 600, seed), resamples=0)[WITHIN] for seed in range(1, 121)
    ]
    assert error == pytest.approx(float(np.std(others)), rel=0.2)


def test_several_targets_have_the_mean_over_targets() -> None:
    table = hospitals_alone(SHIFTS, 1200)
    other = scored(table, 1.0, 3)
    both = pd.concat([table.assign(target="a"), other.assign(target="b")])
    found = evaluate(both, resamples=200)
    wanted = [evaluate(one, resamples=0)[WITHIN] for one in (table, other)]
    assert found[WITHIN] == pytest.approx(np.mean(wanted), abs=1e-12)
    assert found["targets"]["a"][WITHIN] == pytest.approx(wanted[0], abs=1e-12)


def compared(schemes: dict[str, str] | None, *, known: bool = True) -> dict[str, dict[str, Any]]:
    """Differences of one model for all and of hospitals alone, by metric."""
    alone = hospitals_alone(SHIFTS, 1600)
    together = hospitals_alone((0.0,) * 4, 1600, model=1)
    if not known:
        alone, together = (t.assign(hospital=None) for t in (alone, together))
    together["hospital"] = alone["hospital"]
    tables = {"none": {0: together}, "local-only": {0: alone}}
    found = compare(tables, "none", {}, schemes=schemes, resamples=300)
    return {r["quantity"]: r for r in found["differences"] if r["kind"] == "metric"}


def test_schemes_are_compared_within_hospitals_and_arms_of_one_scheme_by_auroc() -> None:
    between = compared({"none": "federated", "local-only": "local-only"})
    assert between[WITHIN]["headline"]
    assert not between["auroc"]["headline"]
    assert between[WITHIN]["p_holm"] is not None
    assert between["auroc"]["p_holm"] is None
    # Both rank each hospital's patients with 0.80; pooled, one seems to lose a tenth.
    assert between["auroc"]["difference"]["high"] < -0.05
    change = between[WITHIN]["difference"]
    assert change["low"] < 0.0 < change["high"]
    assert change["high"] - change["low"] < 0.08
    for same in (None, {"none": "pooled", "local-only": "pooled"}):
        within = compared(same)
        assert within["auroc"]["headline"]
        assert not within[WITHIN]["headline"]


def test_where_no_hospital_is_known_schemes_are_compared_by_auroc() -> None:
    unknown = compared({"none": "federated", "local-only": "local-only"}, known=False)
    assert unknown["auroc"]["headline"]
    assert not unknown[WITHIN]["headline"]
    assert unknown[WITHIN]["difference"]["value"] is None


def test_every_table_of_arms_has_it_and_the_change_is_of_it(tmp_path: Path) -> None:
    tables = {
        "none": hospitals_alone((0.0,) * 4, 800, model=1),
        "local-only": hospitals_alone(SHIFTS, 800),
    }
    tables["none"]["hospital"] = tables["local-only"]["hospital"]
    for arm, scheme in (("none", "federated"), ("local-only", "local-only")):
        metrics = evaluate(tables[arm], resamples=200)
        write_run(tmp_path, arm, 0, tables[arm], arm="none", scheme=scheme, metrics=metrics)
    found = from_directory(tmp_path, resamples=200)
    assert next(r["quantity"] for r in found["differences"] if r["headline"]) == WITHIN
    (tmp_path / "comparison.json").write_text(json.dumps(found), encoding="utf-8")
    arms = summarise(load(tmp_path))
    shown = {arm.name: row(arm, arms, arms[1]) for arm in arms}
    assert headings()["beside"][0] == "Accuracy"
    assert "within-hospital" not in headings()["taken"].lower()
    alone = shown["local-only"]
    ((title, below),) = alone["under"]  # the AUROC
    assert title == "within-hospital AUROC"
    assert below.value == pytest.approx(found["by_arm"]["local-only"]["metrics"][WITHIN]["value"])
    assert alone["changed"] == "within-hospital AUROC"
    apart = [arm.auroc or 0.0 for arm in arms]
    assert abs(alone["change"].value) < 0.05 < abs(apart[0] - apart[1])
    summary = summary_table(tmp_path).set_index("arm")[WITHIN]
    assert summary["local-only"] == below.value


def test_the_line_of_a_finished_run_has_both() -> None:
    result = {"metrics": {"auroc": 0.7, WITHIN: 0.8}, "epsilon": None, "rounds": 1}
    told = describe("local-only", 0, {**result, "rounds_planned": 1}, cached=True)
    assert "test AUROC 0.700 (0.800 within hospitals)" in told
