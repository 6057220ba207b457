"""How a classifier treats groups of patients: one row per group, and the gaps between groups."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedmed.evaluation.discrimination import arrays, auroc, rates
from fedmed.evaluation.groups import AGE_LABELS, UNKNOWN

MINIMUM: Final = 10  # positives and negatives below which a group gets no numbers
TOO_FEW: Final = "too few"
NUMBERS: Final = ("auroc", "fnr", "fpr", "accuracy", "selection_rate")
SEXES: Final = ("F", "M")

Row = dict[str, Any]


def group_table(
    labels: npt.ArrayLike, scores: npt.ArrayLike, groups: pd.Series, threshold: float | None
) -> list[Row]:
    """One row per group: counts, AUROC, and the rates at `threshold` (None: rates are None).

    A group with fewer than MINIMUM positives or negatives has counts, no numbers, and the note
    "too few". `groups` [n] is text with no nulls; age bands and sexes keep their natural order and
    "unknown" comes last.
    """
    truth, values = arrays(labels, scores)
    names = groups.to_numpy(dtype=object)
    table: list[Row] = []
    for name in sorted(set(names), key=_order):
        chosen = names == name
        positives = int(truth[chosen].sum())
        negatives = int(chosen.sum()) - positives
        row: Row = {
            "group": str(name),
            "n": positives + negatives,
            "positives": positives,
            "negatives": negatives,
            **dict.fromkeys(NUMBERS),
            "note": None,
        }
        if min(positives, negatives) < MINIMUM:
            row["note"] = TOO_FEW
        else:
            row["auroc"] = auroc(truth[chosen], values[chosen])
            if threshold is not None:
                at = rates(truth[chosen], values[chosen], threshold)
                row.update({key: getattr(at, key) for key in NUMBERS if key != "auroc"})
        table.append(row)
    return table


def gaps(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    groups: pd.Series,
    threshold: float | None,
    *,
    pair: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """Gaps between the groups that have numbers; "unknown" is listed in tables, not compared.

    `statistical_parity_difference` (largest minus smallest selection rate) and
    `equalised_odds_difference` (the larger of the ranges of true and false positive rates) are
    fairlearn's demographic parity and equalized odds differences. `accuracy_gap` is the quantity
    of Tayebi Arasteh et al. 2024: accuracy of the first minus the second group of `pair` (SEXES
    for sex); without a pair a group's accuracy minus that of all other images, for the group where
    it is largest in size (`accuracy_gap_group`; each group's in `accuracy_gaps`). `auroc_gap` and
    `fnr_gap` are ranges, `pearson_size_auroc` is Pearson's r of group size and AUROC (None below
    three groups). What was left out is in `notes`.
    """
    truth, values = arrays(labels, scores)
    table = group_table(truth, values, groups, threshold)
    used = [row for row in table if row["group"] != UNKNOWN and row["note"] is None]
    worst = min(used, key=lambda row: float(row["auroc"])) if used else None
    odds = (_range(used, "fnr"), _range(used, "fpr"))  # the range of fnr is that of tpr
    by_group: dict[str, float] = {}
    if threshold is not None and pair is not None:
        by_group = _pair_gap(used, pair)
    elif threshold is not None:
        by_group = _accuracy_gaps(truth, values, groups, used, threshold)
    largest = max(by_group, key=lambda name: abs(by_group[name]), default=None)
    return {
        "statistical_parity_difference": _range(used, "selection_rate"),
        "equalised_odds_difference": None
        if None in odds
        else max(o for o in odds if o is not None),
        "accuracy_gap": None if largest is None else by_group[largest],
        "accuracy_gap_group": largest,
        "accuracy_gaps": by_group,
        "auroc_gap": _range(used, "auroc"),
        "fnr_gap": _range(used, "fnr"),
        "worst_auroc": None if worst is None else worst["auroc"],
        "worst_group": None if worst is None else worst["group"],
        "pearson_size_auroc": pearson(
            [float(row["n"]) for row in used], [float(row["auroc"]) for row in used]
        ),
        "notes": _left_out(table),
    }


def pearson(x: list[float], y: list[float]) -> float | None:
    """Pearson's correlation; None below three points or where one side does not vary."""
    if len(x) < 3 or len(set(x)) == 1 or len(set(y)) == 1:
        return None
    r = float(np.corrcoef(x, y)[0, 1])
    return r if math.isfinite(r) else None


def _pair_gap(used: list[Row], pair: tuple[str, str]) -> dict[str, float]:
    """Accuracy of the first group of the pair minus the second's; empty if one has no numbers."""
    accuracy = {str(row["group"]): float(row["accuracy"]) for row in used}
    first, second = pair
    both = first in accuracy and second in accuracy
    return {first: accuracy[first] - accuracy[second]} if both else {}


def _accuracy_gaps(
    truth: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    groups: pd.Series,
    used: list[Row],
    threshold: float,
) -> dict[str, float]:
    """Per group with numbers: its accuracy minus that of all other images of a known group."""
    names = groups.to_numpy(dtype=object)
    correct = ((values >= threshold) == (truth == 1)).astype(np.float64)
    accuracy = {str(row["group"]): float(row["accuracy"]) for row in used}
    result: dict[str, float] = {}
    for name, own in accuracy.items():
        others = (names != name) & (names != UNKNOWN)
        if others.any():
            result[name] = own - float(correct[others].mean())
    return result


def _range(rows: list[Row], key: str) -> float | None:
    """Largest minus smallest of a number over groups; None below two groups."""
    numbers = [float(row[key]) for row in rows if row[key] is not None]
    return max(numbers) - min(numbers) if len(numbers) > 1 else None


def _left_out(table: list[Row]) -> list[str]:
    notes = [
        f"{row['group']} is not compared: {TOO_FEW} ({row['positives']} positive, "
        f"{row['negatives']} negative images; {MINIMUM} of each needed)"
        for row in table
        if row["note"] == TOO_FEW and row["group"] != UNKNOWN
    ]
    return notes + [
        f"{row['n']} images of unknown group are not compared"
        for row in table
        if row["group"] == UNKNOWN
    ]


def _order(name: object) -> tuple[int, int, str]:
    """Age bands by age, "unknown" last, the rest by name with numbers read as numbers."""
    text = str(name)
    if text in AGE_LABELS:
        return 0, AGE_LABELS.index(text), ""
    digits = "".join(ch for ch in text if ch.isdigit())
    return (2 if text == UNKNOWN else 1), int(digits) if digits else 0, text
