"""Groups of patients from histograms: one row per group, and the gaps between groups."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fedmed.evaluation.cells import Array, drawn_measures, interval, measures
from fedmed.evaluation.fairness import MINIMUM, PAIRS, TOO_FEW, pearson
from fedmed.evaluation.groups import UNKNOWN

Json = dict[str, Any]
_RATES: Final = ("fnr", "tpr", "fpr", "accuracy", "selection_rate")
_DETECTED: Final = ("auroc", "fnr", "accuracy")
_POWER: Final = 1.959964 + 0.841621  # normal quantiles: 5 % two-sided, 80 % power
_WORK: Final = 50_000_000  # cells drawn for one attribute, at most


@dataclass(frozen=True, kw_only=True)
class Groups:
    """An attribute's rows, and the draws that stand behind their intervals.

    ``values`` and ``sample`` hold the groups first and then, for each group, all other known ones.
    """

    rows: list[Json]
    names: tuple[str, ...]
    values: dict[str, Array]
    sample: dict[str, Array]

    def place(self, name: str) -> int:
        """Position of a group; that of its others is as many further as there are groups."""
        return self.names.index(name)


def by_group(
    names: tuple[str, ...],
    cells: Array,
    at: int | None,
    *,
    floor: float,
    deviation: float,
    clustering: float,
    resamples: int,
    level: float,
) -> Groups:
    """Rows from ``cells`` [group, label, bin] at the edge ``at``; groups without images have none.

    A group has numbers from MINIMUM positives and negatives on, each above what noise alone may
    make (``floor``). Its minimum detectable gap is against all other images of a known group.
    """
    expand = _with_others([name != UNKNOWN for name in names])
    few = max(100, min(resamples, _WORK // max(cells.size, 1)))
    sample = drawn_measures(
        cells, at, deviation=deviation, clustering=clustering, resamples=few, expand=expand
    )
    values = measures(expand(cells), at)
    rows = []
    for place, name in enumerate(names):
        negatives, positives = (float(total) for total in cells[place].sum(-1))
        if not deviation and negatives + positives == 0:
            continue
        row: Json = {
            "group": name,
            "n": max(0, round(negatives + positives)),
            "patients": None,
            "positives": max(0, round(positives)),
            "negatives": max(0, round(negatives)),
            "prevalence": None,
            **dict.fromkeys(("auroc", "auprc", *_RATES, "ece", "calibration_slope", "brier")),
            "intervals": {},
            "minimum_detectable_gap": None,
            "note": TOO_FEW,
        }
        if min(positives, negatives) >= max(MINIMUM, floor):
            row["note"] = None
            row["prevalence"] = positives / (positives + negatives)
            for key in ("auroc", *_RATES):
                if key in values:
                    row[key] = float(values[key][place])
                    row["intervals"][key] = interval(sample[key][:, place], level=level)
            row["minimum_detectable_gap"] = {
                key: _detectable(sample[key], place, len(names))
                for key in _DETECTED
                if key in sample
            }
        rows.append(row)
    return Groups(rows=rows, names=names, values=values, sample=sample)


def gaps_between(groups: Groups, attribute: str, level: float) -> Json:
    """Gaps as :func:`fedmed.evaluation.fairness.gaps` defines them, with intervals.

    The interval of a gap is that of the difference between the two groups that are furthest apart
    in the estimate, cut at 0: under noise, and with many groups, a gap of none looks like some.
    """
    used = [row for row in groups.rows if row["group"] != UNKNOWN and row["note"] is None]
    found: Json = {}
    intervals: Json = {}
    for gap, key in (
        ("auroc_gap", "auroc"),
        ("fnr_gap", "fnr"),
        ("tpr_gap", "tpr"),
        ("fpr_gap", "fpr"),
        ("statistical_parity_difference", "selection_rate"),
    ):
        found[gap], intervals[gap] = _range(groups, used, key, level)
    odds = max(("tpr_gap", "fpr_gap"), key=lambda gap: found[gap] or 0.0)
    either = None in (found["tpr_gap"], found["fpr_gap"])
    found["equalised_odds_difference"] = None if either else found[odds]
    intervals["equalised_odds_difference"] = None if either else intervals[odds]
    accuracy = _accuracy_gaps(groups, used, attribute, level)
    worst = min(used, key=lambda row: float(row["auroc"]), default=None)
    missed = [row for row in used if row["fnr"] is not None]
    most = max(missed, key=lambda row: float(row["fnr"]), default=None)
    largest = max(accuracy, key=lambda name: abs(accuracy[name][0]), default=None)
    intervals["accuracy_gap"] = None if largest is None else accuracy[largest][1]
    return {
        **found,
        "accuracy_gap": None if largest is None else accuracy[largest][0],
        "accuracy_gap_group": largest,
        "accuracy_gaps": {name: gap for name, (gap, _) in accuracy.items()},
        "calibration_gap": None,
        "worst_auroc": None if worst is None else worst["auroc"],
        "worst_group": None if worst is None else worst["group"],
        "worst_fnr": None if most is None else most["fnr"],
        "worst_fnr_group": None if most is None else most["group"],
        "pearson_size_auroc": pearson(
            [float(row["n"]) for row in used], [float(row["auroc"]) for row in used]
        ),
        "intervals": intervals,
        "notes": [
            f"{row['group']} is not compared: {TOO_FEW}"
            for row in groups.rows
            if row["note"] is not None and row["group"] != UNKNOWN
        ],
    }


def _with_others(known: list[bool]) -> Callable[[Array], Array]:
    """Cells [..., group, label, bin] and, behind them, each group's sum of all other known ones."""
    mask = np.asarray(known)

    def expand(cells: Array) -> Array:
        total = cells[..., mask, :, :].sum(-3, keepdims=True)
        return np.concatenate([cells, total - cells * mask[:, None, None]], axis=-3)

    return expand


def _detectable(sample: Array, place: int, groups: int) -> float | None:
    """Gap that 80 of 100 such samples would show at 5 %: 2.80 standard errors."""
    difference = sample[:, place] - sample[:, groups + place]
    kept = difference[np.isfinite(difference)]
    if kept.size * 2 < difference.size or kept.size < 2:
        return None
    return _POWER * float(kept.std(ddof=1))


def _range(
    groups: Groups, used: list[Json], key: str, level: float
) -> tuple[float | None, list[float] | None]:
    known = [row for row in used if row[key] is not None]
    if len(known) < 2:
        return None, None
    high = max(known, key=lambda row: float(row[key]))
    low = min(known, key=lambda row: float(row[key]))
    if high is low:
        high = next(row for row in known if row is not low)
    return _difference(groups, key, high["group"], low["group"], level)


def _difference(
    groups: Groups, key: str, first: str, second: str, level: float
) -> tuple[float, list[float] | None]:
    at, other = groups.place(first), groups.place(second)
    value = float(groups.values[key][at] - groups.values[key][other])
    return value, interval(groups.sample[key][:, at] - groups.sample[key][:, other], level=level)


def _accuracy_gaps(
    groups: Groups, used: list[Json], attribute: str, level: float
) -> dict[str, tuple[float, list[float] | None]]:
    """For sex the first minus the second, else each group's accuracy minus all others'; signed."""
    if "accuracy" not in groups.values:
        return {}
    names = [str(row["group"]) for row in used]
    if attribute in PAIRS:
        first, second = PAIRS[attribute]
        pairs = {first: groups.place(second)} if {first, second} <= set(names) else {}
    else:
        pairs = {name: len(groups.names) + groups.place(name) for name in names}
    found: dict[str, tuple[float, list[float] | None]] = {}
    for name, other in pairs.items():
        at = groups.place(name)
        value = float(groups.values["accuracy"][at] - groups.values["accuracy"][other])
        if math.isfinite(value):
            sample = groups.sample["accuracy"][:, at] - groups.sample["accuracy"][:, other]
            found[name] = value, interval(sample, level=level, low=-1.0)
    return found
