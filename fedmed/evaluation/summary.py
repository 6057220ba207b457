"""All numbers of one run from its predictions table, ready for JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from fedmed.base.files import without_nan
from fedmed.evaluation.discrimination import auroc
from fedmed.evaluation.intervals.delong import delong
from fedmed.evaluation.intervals.intervals import LEVEL
from fedmed.evaluation.intervals.resampling import Progress
from fedmed.evaluation.measuring import rows
from fedmed.evaluation.measuring.hospitals import by_hospital
from fedmed.evaluation.measuring.measures import RESAMPLES, SEED, Column
from fedmed.evaluation.measuring.panel import MacroPanel, Panel, SinglePanel, paired_targets, panels
from fedmed.evaluation.measuring.redrawing import redraw
from fedmed.evaluation.measuring.rows import bounds, number
from fedmed.evaluation.measuring.tallies import Redrawn
from fedmed.evaluation.metrics import AT_SPECIFICITY, shown
from fedmed.evaluation.tables import foreign
from fedmed.evaluation.thresholds import SPECIFICITY, Thresholds, choose

NUMBERS: Final = tuple(shown("result"))
WITH_INTERVAL: Final = tuple(name for name, metric in shown("result").items() if metric.interval)
Json = dict[str, Any]


def evaluate(
    predictions: pd.DataFrame,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    specificity: float = SPECIFICITY,
    redraw_threshold: bool = False,
    where: str = "predictions",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Metrics of one run: discrimination and calibration on test rows, by group, and the gaps.

    `predictions` is the table of :mod:`fedmed.evaluation.tables.predictions`, or one from elsewhere
    as ``tables.foreign`` accepts it. Thresholds come from validation rows only; without both
    classes there, numbers that need them are None and `threshold_rule` says why. Intervals
    are bootstrap intervals over patients, 0 `resamples` gives none; a second threshold reaches
    `specificity` there. With `redraw_threshold` each resample chooses its threshold anew, on
    validation patients drawn again (:mod:`redrawing`). With several targets the top numbers are
    unweighted means over them and each has its own below `targets`. All values are JSON-ready: None
    stands for "not defined", never NaN. `progress` is told the share of the resamples that is done.
    Raises UserError for a bad table, which `where` names.
    """
    table, notes = foreign.accept(predictions, where)
    parts = _targets(table)
    thresholds = {
        target: choose(_split(part, "val"), specificity) for target, part in parts.items()
    }
    tests = {target: _split(part, "test") for target, part in parts.items()}
    measured = {}
    if not any(test.empty for test in tests.values()):
        columns = {}
        for target, part in parts.items():
            val, chosen, anew = _split(part, "val"), thresholds[target], None
            if redraw_threshold:
                anew = redraw(val, chosen, resamples=resamples, seed=seed)
            columns[target] = [_column(tests[target], chosen, anew)]
        measured = panels(tests, columns, resamples=resamples, seed=seed, progress=progress)
    found = {
        target: _one(
            part, thresholds[target], measured.get(target), resamples, redrawn=redraw_threshold
        )
        for target, part in parts.items()
    }
    if len(found) == 1:
        result = next(iter(found.values()))
    else:
        several = MacroPanel(measured, paired_targets(tests)) if measured else None
        result = _macro(found, several, resamples, redrawn=redraw_threshold)
    result["notes"] = notes + result["notes"]
    clean: dict[str, Any] = without_nan(result)
    return clean


def _targets(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows by target, in the order of images so that patients agree; one table without targets."""
    if "target" not in table:
        return {"": table}
    ordered = table.sort_values("image", kind="stable")
    return {str(name): part for name, part in ordered.groupby("target", sort=True)}


def _split(table: pd.DataFrame, split: str) -> pd.DataFrame:
    return table[table["split"] == split].reset_index(drop=True)


def _column(test: pd.DataFrame, thresholds: Thresholds, redrawn: Redrawn | None) -> Column:
    return Column(
        name="run",
        scores=test["score"].to_numpy(),
        threshold=thresholds.youden,
        specificity_threshold=thresholds.at_specificity,
        redrawn=redrawn,
    )


def _one(
    table: pd.DataFrame,
    thresholds: Thresholds,
    panel: SinglePanel | None,
    resamples: int,
    *,
    redrawn: bool,
) -> Json:
    """Metrics of one target; without test rows there is no panel, and nothing is measured."""
    test, val = _split(table, "test"), _split(table, "val")
    patients = test["patient_id"]
    prevalence = float(test["label"].mean()) if len(test) else math.nan
    result: Json = {
        "source": "predictions",
        "n_test": len(test),
        "n_val": len(val),
        "patients_test": int(patients.nunique() + patients.isna().sum()),
        "prevalence": prevalence,
        "majority_accuracy": max(prevalence, 1.0 - prevalence),
        "auroc_val": auroc(val["label"], val["score"]),
        "threshold": thresholds.youden,
        "threshold_rule": thresholds.rule,
        **_empty(),
        "notes": _notes(test),
    }
    if panel is None:
        return result
    result |= _measured(panel, resamples, thresholds, redrawn=redrawn)
    result["between_hospitals"] = by_hospital(panel)
    limits = delong(panel.labels, test["score"].to_numpy(), panel.patients)
    if isinstance(limits, str):
        if test["label"].nunique() > 1:
            result["notes"].append(f"no DeLong interval: {limits}")
    else:
        result["delong"] = {
            "auroc": limits.auroc,
            "standard_error": limits.standard_error,
            "interval": [limits.low, limits.high],
        }
    return result


def _measured(
    found: Panel, resamples: int, thresholds: Thresholds | None, *, redrawn: bool
) -> Json:
    """Numbers, intervals, groups and gaps of a panel's first column."""
    overall = {name: found.quantity(name) for name in NUMBERS}
    intervals = {name: bounds(overall[name]) for name in WITH_INTERVAL}
    return {
        **{name: number(quantity) for name, quantity in overall.items()},
        "auroc_interval": intervals["auroc"],
        "intervals": intervals,
        "resampling": {
            "method": "bca",
            "gaps": "simultaneous",
            "resamples": resamples,
            "level": LEVEL,
            "unit": "patient",
            "strata": "label" if found.stratified else None,
            "threshold": "redrawn" if redrawn else "fixed",
        },
        "at_specificity": _at_specificity(found, thresholds),
        "groups": {name: rows.group_rows(found, name) for name in found.counts},
        "fairness": {name: rows.gap_row(found, name) for name in found.counts},
    }


def _at_specificity(found: Panel, thresholds: Thresholds | None) -> Json | None:
    if thresholds is None or thresholds.at_specificity is None:
        return None
    quantities = {
        name: found.quantity(name + AT_SPECIFICITY) for name in shown("result at fixed specificity")
    }
    return {
        "specificity_target": thresholds.specificity,
        "threshold": thresholds.at_specificity,
        **{name: number(quantity) for name, quantity in quantities.items()},
        "intervals": {name: bounds(quantity) for name, quantity in quantities.items()},
    }


def _macro(
    each: Mapping[str, Json], panel: MacroPanel | None, resamples: int, *, redrawn: bool
) -> Json:
    """Means over targets on top, each target's own metrics below, without its group rows."""
    first = next(iter(each.values()))
    result: Json = {
        "source": "predictions",
        "macro": True,
        **{key: max(m[key] for m in each.values()) for key in ("n_test", "n_val", "patients_test")},
        **{
            key: float(np.mean([metrics[key] for metrics in each.values()]))
            for key in ("prevalence", "majority_accuracy", "auroc_val")
        },
        "threshold": None,
        "threshold_rule": f"one threshold per target, each the {first['threshold_rule']}",
        **_empty(),
    }
    if panel is not None:
        result |= _measured(panel, resamples, None, redrawn=redrawn)
    notes = ["the numbers on top are unweighted means over the targets"]
    notes += [f"{name}: {note}" for name, metrics in each.items() for note in metrics["notes"]]
    if panel is not None and not panel.paired:
        notes.append("targets are of different images: their means have no interval")
    for metrics in each.values():
        del metrics["groups"]
    return {**result, "targets": dict(each), "notes": notes}


def _empty() -> Json:
    """What a table without test rows has instead of numbers."""
    return {
        **dict.fromkeys(NUMBERS),
        "auroc_interval": None,
        "intervals": dict.fromkeys(WITH_INTERVAL),
        "resampling": None,
        "delong": None,
        "at_specificity": None,
        "groups": {},
        "fairness": {},
        "between_hospitals": None,
    }


def _notes(test: pd.DataFrame) -> list[str]:
    if test.empty:
        return ["no test rows: nothing is measured on test"]
    notes = []
    if test["label"].nunique() < 2:
        notes.append("test holds one class only: AUROC is not defined")
    if test["score"].nunique() == 1:
        notes.append("every test image has the same score: the model tells none apart")
    return notes
