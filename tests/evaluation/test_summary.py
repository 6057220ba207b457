import json
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from fedmed.evaluation import evaluate
from fedmed.evaluation.discrimination import rates, youden_threshold


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
    assert set(found["groups"]) == {"sex", "age", "hospital"}
    assert set(found["fairness"]) == {"sex", "age", "hospital"}
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
    assert found["notes"] == ["every test image has the same score: the model tells none apart"]
