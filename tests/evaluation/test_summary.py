import json
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score
from support.tables import rates

from fedmed.evaluation.calibration import ece
from fedmed.evaluation.discrimination import auroc, youden_threshold
from fedmed.evaluation.summary import evaluate


def table(n: int = 500, seed: int = 0, **changes: Any) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    patient = np.arange(n) // 2
    label = draw.integers(0, 2, n)
    columns: dict[str, Any] = {
        "image": [f"i{i}" for i in range(n)],
        "patient_id": [f"p{p}" for p in patient],
        "hospital": [f"hospital-{p % 3 + 1}" for p in patient],
        "split": np.where(patient < n // 8, "val", "test"),
        "label": label,
        "score": 1 / (1 + np.exp(-(1.5 * label - 0.7 + draw.normal(size=n)))),
        "age": draw.uniform(0, 95, n),
        "sex": draw.choice(["F", "M"], n),
        "view": None,
    }
    return pd.DataFrame({**columns, **changes})


def test_numbers_are_those_of_test_at_the_threshold_of_validation() -> None:
    rows = table()
    found = evaluate(rows)
    test, val = rows[rows["split"] == "test"], rows[rows["split"] == "val"]
    threshold = youden_threshold(val["label"], val["score"])
    at = rates(test["label"], test["score"], threshold)
    assert found["n_test"] == len(test)
    assert found["n_val"] == len(val)
    assert found["patients_test"] == test["patient_id"].nunique()
    assert found["auroc"] == pytest.approx(roc_auc_score(test["label"], test["score"]))
    assert found["auroc_val"] == pytest.approx(roc_auc_score(val["label"], val["score"]))
    assert found["threshold"] == threshold
    assert (found["accuracy"], found["sensitivity"]) == (at.accuracy, at.sensitivity)
    assert found["specificity"] == at.specificity
    assert found["prevalence"] == pytest.approx(test["label"].mean())
    assert found["majority_accuracy"] == max(found["prevalence"], 1 - found["prevalence"])
    assert found["auroc_interval"][0] < found["auroc"] < found["auroc_interval"][1]


def test_the_threshold_does_not_see_test_rows() -> None:
    rows = table()
    changed = rows.copy()
    changed.loc[changed["split"] == "test", "score"] **= 3
    assert evaluate(changed)["threshold"] == evaluate(rows)["threshold"]


def test_only_known_attributes_are_reported_and_every_image_is_counted() -> None:
    rows = table()
    rows.loc[rows.index[::4], "sex"] = None
    found = evaluate(rows)
    assert set(found["groups"]) == {"sex", "age", "sex_age", "hospital"}
    assert set(found["fairness"]) == {"sex", "age", "sex_age", "hospital"}
    assert [row["group"] for row in found["groups"]["sex"]] == ["F", "M", "unknown"]
    for groups in found["groups"].values():
        assert sum(row["n"] for row in groups) == found["n_test"]
    assert [row["group"] for row in found["groups"]["age"]] == [
        "0-29",
        "30-59",
        "60-69",
        "70-79",
        "80+",
    ]


def test_without_validation_rows_nothing_needs_a_threshold() -> None:
    rows = table()
    found = evaluate(rows[rows["split"] == "test"])
    assert found["threshold"] is None
    assert "no validation rows" in found["threshold_rule"]
    assert found["accuracy"] is None
    assert found["auroc_val"] is None
    assert found["auroc"] is not None
    assert found["groups"]["sex"][0]["auroc"] is not None
    assert found["groups"]["sex"][0]["fnr"] is None
    json.dumps(found, allow_nan=False)


def test_one_class_gives_null_and_a_note() -> None:
    rows = table()
    rows.loc[rows["split"] == "test", "label"] = 1
    found = evaluate(rows)
    assert found["auroc"] is None
    assert found["auroc_interval"] is None
    assert found["specificity"] is None
    assert found["sensitivity"] is not None
    assert found["notes"] == ["test holds one class only: AUROC is not defined"]
    json.dumps(found, allow_nan=False)


def test_one_class_in_validation_is_explained() -> None:
    rows = table()
    rows.loc[rows["split"] == "val", "label"] = 0
    found = evaluate(rows)
    assert found["threshold"] is None
    assert "one class only" in found["threshold_rule"]


def test_without_test_rows_nothing_is_measured() -> None:
    rows = table()
    found = evaluate(rows[rows["split"] == "val"])
    assert (found["n_test"], found["auroc"], found["groups"]) == (0, None, {})
    assert found["auroc_val"] is not None
    json.dumps(found, allow_nan=False)


def test_evaluation_and_report_need_neither_torch_nor_flower() -> None:
    code = (
        "import sys, fedmed.evaluation, fedmed.report;"
        "print([name for name in ('torch', 'flwr', 'matplotlib.pyplot') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_model_that_tells_nothing_apart_is_noted() -> None:
    found = evaluate(table(score=0.4))
    assert found["auroc"] == 0.5
    assert found["notes"][0] == "every test image has the same score: the model tells none apart"


def long_table(targets: int = 3, **changes: Any) -> pd.DataFrame:
    """The same images for several targets, one harder than the other, rows shuffled."""
    parts = []
    for number in range(targets):
        draw = np.random.default_rng(100 + number)
        part = table(n=400).assign(target=f"t{number}", **changes)
        part["label"] = draw.integers(0, 2, len(part))
        logit = (2.5 - 0.7 * number) * (part["label"] - 0.5) + draw.normal(size=len(part))
        parts.append(part.assign(score=1 / (1 + np.exp(-logit))))
    return pd.concat(parts).sample(frac=1, random_state=1)


def test_every_number_of_the_whole_has_an_interval_that_holds_it() -> None:
    rows = table()
    found = evaluate(rows)
    test = rows[rows["split"] == "test"]
    labels, scores = test["label"].to_numpy(), test["score"].to_numpy()
    assert found["auprc"] == pytest.approx(average_precision_score(labels, scores), abs=1e-9)
    assert found["brier"] == pytest.approx(brier_score_loss(labels, scores), abs=1e-9)
    at = rates(labels, scores, found["threshold"])
    assert (found["ppv"], found["npv"]) == pytest.approx((at.ppv, at.npv))
    for key, (low, high) in found["intervals"].items():
        assert low <= found[key] <= high, key
        assert high - low < 0.5 or key == "calibration_slope"
    assert found["auroc_interval"] == found["intervals"]["auroc"]
    assert found["resampling"] == {
        "method": "bca",
        "gaps": "simultaneous",
        "resamples": 2000,
        "level": 0.95,
        "unit": "patient",
        "strata": None,  # of the two images of a patient one may be ill
        "threshold": "fixed",
    }
    assert evaluate(rows.assign(patient_id=rows["image"]))["resampling"]["strata"] == "label"
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("specificity", [0.9, 0.75])
def test_specificity_is_fixed_on_validation_rows(specificity: float) -> None:
    rows = table(n=2000)
    found = evaluate(rows, resamples=50, specificity=specificity)["at_specificity"]
    val = rows[(rows["split"] == "val") & (rows["label"] == 0)]["score"]
    assert found["specificity_target"] == specificity
    assert float((val < found["threshold"]).mean()) == pytest.approx(specificity, abs=0.02)
    test = rows[rows["split"] == "test"]
    at = rates(test["label"], test["score"], found["threshold"])
    assert found["sensitivity"] == pytest.approx(at.sensitivity)
    assert found["specificity"] == pytest.approx(at.specificity)
    assert found["intervals"]["ppv"][0] < found["ppv"] < found["intervals"]["ppv"][1]


def test_delong_only_where_a_patient_has_one_image() -> None:
    several = evaluate(table(), resamples=50)
    assert several["delong"] is None
    assert any(note.startswith("no DeLong interval") for note in several["notes"])
    one = evaluate(table(patient_id=[f"p{i}" for i in range(500)]), resamples=50)
    low, high = one["delong"]["interval"]
    assert one["delong"]["auroc"] == pytest.approx(one["auroc"])
    assert low < one["auroc"] < high
    assert not any("DeLong" in note for note in one["notes"])


def test_rows_of_groups_hold_calibration_intervals_and_what_can_be_detected() -> None:
    rows = table(n=2000)
    found = evaluate(rows, resamples=200)
    test = rows[rows["split"] == "test"]
    women = test[test["sex"] == "F"]
    row = found["groups"]["sex"][0]
    assert row["patients"] == women["patient_id"].nunique()
    assert row["prevalence"] == pytest.approx(women["label"].mean())
    error = ece(women["label"], women["score"])
    assert row["ece"] == pytest.approx(error, abs=1e-12)
    assert row["tpr"] == pytest.approx(1 - row["fnr"])
    for key, (low, high) in row["intervals"].items():
        assert low <= row[key] <= high, key
    assert 0.01 < row["minimum_detectable_gap"]["auroc"] < 0.15
    gaps = found["fairness"]["sex"]
    assert (
        gaps["intervals"]["auroc_gap"][0] <= gaps["auroc_gap"] <= gaps["intervals"]["auroc_gap"][1]
    )


def test_resamples_may_be_left_out() -> None:
    found = evaluate(table(), resamples=0)
    assert found["auroc"] is not None
    assert found["auroc_interval"] is None
    assert set(found["intervals"].values()) == {None}
    assert found["groups"]["sex"][0]["minimum_detectable_gap"]["auroc"] > 0  # from influence


def test_label_and_score_alone_are_evaluated_and_nothing_is_dropped() -> None:
    rows = table()
    found = evaluate(rows[["label", "score"]], resamples=100)
    assert found["n_test"] == found["patients_test"] == 500
    assert found["auroc"] == pytest.approx(roc_auc_score(rows["label"], rows["score"]))
    assert found["groups"] == {}
    assert [note.split(":")[0] for note in found["notes"]] == [
        "no column split",
        "no column image",
        "no column patient_id",
    ]


def test_several_targets_give_macro_averages_and_each_its_own_metrics() -> None:
    rows = long_table()
    found = evaluate(rows, resamples=300)
    assert found["macro"] is True
    assert list(found["targets"]) == ["t0", "t1", "t2"]
    for name, metrics in found["targets"].items():
        alone = rows[rows["target"] == name].drop(columns="target")
        assert metrics["auroc"] == pytest.approx(evaluate(alone, resamples=0)["auroc"])
        assert "groups" not in metrics
        assert metrics["fairness"]["sex"]["auroc_gap"] is not None
    each = list(found["targets"].values())
    for key in ("auroc", "accuracy", "prevalence", "ece", "sensitivity"):
        assert found[key] == pytest.approx(np.mean([metrics[key] for metrics in each])), key
    gap = np.mean([metrics["fairness"]["sex"]["fnr_gap"] for metrics in each])
    assert found["fairness"]["sex"]["fnr_gap"] == pytest.approx(gap)
    women = rows[(rows["split"] == "test") & (rows["sex"] == "F")]
    by_target = [auroc(part["label"], part["score"]) for _, part in women.groupby("target")]
    assert found["groups"]["sex"][0]["auroc"] == pytest.approx(np.mean(by_target))
    assert found["groups"]["sex"][0]["n"] == len(women) / 3
    assert found["n_test"] == each[0]["n_test"]
    json.dumps(found, allow_nan=False)


def test_a_groups_images_are_counted_once_under_several_targets() -> None:
    rows = long_table().reset_index(drop=True)
    women = (rows["split"] == "test") & (rows["sex"] == "F")
    rare = rows.index[women & (rows["target"] == "t1")]
    rows.loc[rare, "label"] = 0
    rows.loc[rare[:2], "label"] = 1
    found = evaluate(rows, resamples=50)
    told = next(row for row in found["groups"]["sex"] if row["group"] == "F")
    assert told["n"] == len(rare)
    assert told["positives"] == round(rows[women].groupby("target")["label"].sum().mean())
    assert told["positives"] + told["negatives"] == told["n"]
    assert told["note"] == "too few (target t1)"
    assert found["fairness"]["sex"]["notes"][0] == (
        f"F is not compared: too few (target t1: 2 positive, {len(rare) - 2} negative images; "
        "10 of each needed)"
    )


def test_of_a_constant_score_no_gap_can_be_detected() -> None:
    """A gap that cannot move is not one that is seen from 0 on."""
    for row in evaluate(table(score=0.3), resamples=100)["groups"]["sex"]:
        assert row["minimum_detectable_gap"]["auroc"] is None
        assert row["minimum_detectable_gap"]["fnr"] is None


def test_the_macro_interval_knows_that_targets_share_patients() -> None:
    """Three copies of one target say no more than one: the mean's interval is as wide."""
    one = table(n=400)
    copies = pd.concat([one.assign(target=f"t{number}") for number in range(3)])
    found = evaluate(copies, resamples=400)
    low, high = found["intervals"]["auroc"]
    single = found["targets"]["t0"]["intervals"]["auroc"]
    assert (low, high) == pytest.approx(tuple(single), abs=1e-9)


def test_targets_of_different_images_have_means_without_an_interval() -> None:
    rows = long_table(2)
    drop = rows[(rows["target"] == "t1") & (rows["split"] == "test")].index[0]
    found = evaluate(rows[~((rows.index == drop) & (rows["target"] == "t1"))], resamples=50)
    each = [metrics["auroc"] for metrics in found["targets"].values()]
    assert found["auroc"] == pytest.approx(np.mean(each))
    assert found["intervals"]["auroc"] is None
    assert any("different images" in note for note in found["notes"])
    assert found["targets"]["t1"]["intervals"]["auroc"] is not None


def test_a_training_run_is_evaluated_quickly() -> None:
    evaluate(table(), resamples=10)
    start = time.process_time()
    evaluate(table())
    assert time.process_time() - start < 5.0  # 0.5 s on two idle cores
