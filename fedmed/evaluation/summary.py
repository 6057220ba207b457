"""All numbers of one run from its predictions table, ready for JSON."""

from __future__ import annotations

import math
from typing import Any, Final

import pandas as pd

from fedmed.evaluation.discrimination import auroc, rates, youden_threshold
from fedmed.evaluation.fairness import SEXES, gaps, group_table
from fedmed.evaluation.groups import age_band, members
from fedmed.evaluation.predictions import validate
from fedmed.evaluation.uncertainty import auroc_interval, clusters

ATTRIBUTES: Final = ("sex", "age", "hospital", "view")


def evaluate(predictions: pd.DataFrame) -> dict[str, Any]:
    """Metrics of one run: discrimination on test rows, by group, and the gaps between groups.

    `predictions` is the table of :mod:`fedmed.evaluation.predictions`. The threshold comes from
    validation rows only; without both classes there, numbers that need it are None and
    `threshold_rule` says why. All values are JSON-ready: None stands for "not defined", never NaN.
    Raises UserError for a table that is not valid.
    """
    table = validate(predictions)
    test, val = table[table["split"] == "test"], table[table["split"] == "val"]
    labels, scores = test["label"].to_numpy(), test["score"].to_numpy()
    threshold, rule = _threshold(val)
    at = None if threshold is None or test.empty else rates(labels, scores, threshold)
    notes: list[str] = []
    if test.empty:
        notes.append("no test rows: nothing is measured on test")
    elif test["label"].nunique() < 2:
        notes.append("test holds one class only: AUROC is not defined")
    if not test.empty and test["score"].nunique() == 1:
        notes.append("every test image has the same score: the model tells none apart")
    prevalence = float(labels.mean()) if len(labels) else math.nan
    low, high = auroc_interval(labels, scores, test["patient_id"])
    groups, fairness = _by_attribute(test, threshold)
    result: dict[str, Any] = {
        "n_test": len(test),
        "n_val": len(val),
        "patients_test": len(set(clusters(test["patient_id"]).tolist())),
        "prevalence": prevalence,
        "auroc": auroc(labels, scores),
        "auroc_interval": None if math.isnan(low) else [low, high],
        "auroc_val": auroc(val["label"], val["score"]),
        "threshold": threshold,
        "threshold_rule": rule,
        "accuracy": None if at is None else at.accuracy,
        "majority_accuracy": max(prevalence, 1.0 - prevalence),
        "sensitivity": None if at is None else at.sensitivity,
        "specificity": None if at is None else at.specificity,
        "groups": groups,
        "fairness": fairness,
        "notes": notes,
    }
    clean: dict[str, Any] = _without_nan(result)
    return clean


def _threshold(val: pd.DataFrame) -> tuple[float | None, str]:
    """Decision threshold from validation rows, and how it was chosen."""
    if val.empty:
        return None, "no threshold: there are no validation rows to choose it on"
    chosen = youden_threshold(val["label"], val["score"])
    if math.isnan(chosen):
        return None, "no threshold: the validation rows hold one class only"
    return chosen, f"largest Youden index on {len(val)} validation images"


def _by_attribute(
    test: pd.DataFrame, threshold: float | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Group rows and gaps for each attribute that is known for at least one test image."""
    tables: dict[str, Any] = {}
    differences: dict[str, Any] = {}
    for attribute in ATTRIBUTES:
        values = age_band(test["age"]) if attribute == "age" else test[attribute]
        if not values.notna().any():
            continue
        group = members(values)
        arguments = (test["label"], test["score"], group, threshold)
        tables[attribute] = group_table(*arguments)
        differences[attribute] = gaps(*arguments, pair=SEXES if attribute == "sex" else None)
    return tables, differences


def _without_nan(value: Any) -> Any:
    """The same nested value with None for NaN and infinities."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
