"""Rows of JSON from a panel: one per group, and the gaps of an attribute."""

from __future__ import annotations

import math
from typing import Any, Final

from fedmed.evaluation import fairness
from fedmed.evaluation.fairness import PAIRS, Count
from fedmed.evaluation.group_gaps import GAPS
from fedmed.evaluation.intervals.gaps import Gap, limits, limits_of_one
from fedmed.evaluation.intervals.intervals import detectable, interval, standard_error
from fedmed.evaluation.measuring.measures import Quantity
from fedmed.evaluation.measuring.panel import Panel
from fedmed.evaluation.metrics import shown

# Names in a row, and the metric that each is.
NUMBERS: Final = {metric.group_key: metric.name for metric in shown("groups").values()}
WITH_INTERVAL: Final = tuple(metric.group_key for metric in shown("intervals of groups").values())
DETECTABLE: Final = tuple(shown("detectable in groups"))

Row = dict[str, Any]


def group_rows(panel: Panel, attribute: str) -> list[Row]:
    """One row per group: counts, numbers of the first column, intervals, what can be detected.

    `minimum_detectable_gap` is the smallest true gap between the group and all others that a
    two-sided 5 % test finds with 80 % power. A group with too few has counts and its note.
    """
    found = panel.counts[attribute]
    several = len(fairness.compared(found)) > 1
    return [_row(panel, attribute, count, several) for count in found]


def gap_row(panel: Panel, attribute: str) -> Row:
    """Gaps between the groups of an attribute with intervals, and the group that fares worst.

    `accuracy_gap` keeps its sign: of another attribute than sex it is that of the group
    `accuracy_gap_group` where it is largest in size, and its interval allows for that choice.
    """
    counts = panel.counts[attribute]
    names = fairness.compared(counts)
    gaps = panel.gaps(attribute)
    signed = panel.accuracy_gaps(attribute)
    by_group = {name: number(gap) for name, gap in signed.items()}
    known = {name: value for name, value in by_group.items() if value is not None}
    largest = max(known, key=lambda name: abs(known[name]), default=None)
    intervals = {name: _gap_bounds(gaps[name]) if name in gaps else None for name in GAPS}
    if largest is not None and attribute not in PAIRS:
        intervals["accuracy_gap"] = _listed(
            limits_of_one(list(signed.values()), list(signed).index(largest))
        )
    auroc = {name: number(panel.quantity("auroc", attribute, name)) for name in names}
    fnr = {name: number(panel.quantity("fnr", attribute, name)) for name in names}
    weakest = min(_known(auroc), key=_known(auroc).__getitem__, default=None)
    missed = max(_known(fnr), key=_known(fnr).__getitem__, default=None)
    sizes = {count.group: float(count.n) for count in counts}
    return {
        **{name: number(gaps[name].quantity) if name in gaps else None for name in GAPS},
        "accuracy_gap": None if largest is None else known[largest],
        "accuracy_gap_group": largest,
        "accuracy_gaps": known,
        "worst_auroc": None if weakest is None else auroc[weakest],
        "worst_group": weakest,
        "worst_fnr": None if missed is None else fnr[missed],
        "worst_fnr_group": missed,
        "pearson_size_auroc": fairness.pearson(
            [sizes[name] for name in _known(auroc)], list(_known(auroc).values())
        ),
        "intervals": intervals,
        "notes": fairness.left_out(counts),
    }


def number(quantity: Quantity, column: int = 0) -> float | None:
    """The value of one column, None where it is not defined."""
    value = float(quantity.values[column])
    return value if math.isfinite(value) else None


def bounds(quantity: Quantity, column: int = 0) -> list[float] | None:
    """The interval of one column as [low, high], None where there is none."""
    found = interval(quantity, column=column)
    return None if found.low is None or found.high is None else [found.low, found.high]


def _row(panel: Panel, attribute: str, count: Count, several: bool) -> Row:
    row: Row = {
        "group": count.group,
        "n": count.n,
        "patients": count.patients,
        "positives": count.positives,
        "negatives": count.negatives,
        "prevalence": count.prevalence,
        **dict.fromkeys(NUMBERS),
        "intervals": dict.fromkeys(WITH_INTERVAL),
        "minimum_detectable_gap": dict.fromkeys(DETECTABLE),
        "note": count.note,
    }
    if count.note is not None:
        return row
    quantities = {
        name: panel.quantity(metric, attribute, count.group) for name, metric in NUMBERS.items()
    }
    row |= {name: number(quantity) for name, quantity in quantities.items()}
    row["intervals"] = {name: bounds(quantities[name]) for name in WITH_INTERVAL}
    if several and count.group in fairness.compared([count]):
        row["minimum_detectable_gap"] = {
            name: detectable(standard_error(panel.against_others(name, attribute, count.group)))
            for name in DETECTABLE
        }
    return row


def _gap_bounds(gap: Gap) -> list[float] | None:
    if not gap.contrasts:
        return bounds(gap.quantity)
    return _listed(limits(gap))


def _listed(found: tuple[float, float] | None) -> list[float] | None:
    return None if found is None else list(found)


def _known(values: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}
