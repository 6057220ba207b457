"""Groups of patients from histograms: one row per group, and the gaps between groups."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np

from fedmed.evaluation.fairness import MINIMUM, PAIRS, TOO_FEW, pearson
from fedmed.evaluation.group_gaps import RANGES
from fedmed.evaluation.intervals.gaps import simultaneous
from fedmed.evaluation.metrics import METRICS, shown
from fedmed.evaluation.pooled.cells import Array, drawn_measures, interval, measures
from fedmed.evaluation.pooled.few import reaches, with_few
from fedmed.evaluation.tables.groups import UNKNOWN

Json = dict[str, Any]
_SHOWN: Final = shown("groups")
_DETECTED: Final = tuple(shown("detectable in groups"))
_POWER: Final = 1.959964 + 0.841621  # normal quantiles: 5 % two-sided, 80 % power
_WORK: Final = 50_000_000  # cells drawn for one attribute, at most


@dataclass(frozen=True, kw_only=True)
class Groups:
    """An attribute's rows, and the draws that stand behind their intervals.

    ``values`` and ``sample`` hold the groups first and then, for each group, all other known ones;
    ``own`` too, as :func:`few.reaches` gives it.
    """

    rows: list[Json]
    names: tuple[str, ...]
    values: dict[str, Array]
    sample: dict[str, Array]
    own: dict[str, Array]

    def place(self, name: str) -> int:
        """Position of a group; that of its others is as many further as there are groups."""
        return self.names.index(name)


@dataclass(frozen=True)
class Contrasts:
    """Signed differences of groups by name: values [contrasts], sample [draws, contrasts].

    ``own`` [contrasts, 2] are standard deviations down and up where events are few.
    """

    names: tuple[str, ...]
    values: Array
    sample: Array
    own: Array

    @classmethod
    def of(cls, groups: Groups, key: str, places: dict[str, tuple[int, int]]) -> Contrasts:
        """A measure of one place less that of another, which has no image in common with it."""
        first, second = (np.array([pair[side] for pair in places.values()], int) for side in (0, 1))
        values, sample, own = groups.values[key], groups.sample[key], groups.own[key]
        return cls(
            tuple(places),
            values[first] - values[second],
            sample[:, first] - sample[:, second],
            np.hypot(own[first], own[second][:, ::-1]),  # down from a difference: up of the second
        )


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
    own = reaches(expand(cells), at, deviation=deviation, clustering=clustering)
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
            **dict.fromkeys(metric.group_key for metric in _SHOWN.values()),
            "intervals": {},
            "minimum_detectable_gap": None,
            "note": TOO_FEW,
        }
        if min(positives, negatives) >= max(MINIMUM, floor):
            row["note"] = None
            row["prevalence"] = positives / (positives + negatives)
            for name, metric in _SHOWN.items():
                if name in values:
                    key = metric.group_key
                    row[key] = float(values[name][place])
                    row["intervals"][key] = with_few(
                        row[key], own[name][place], interval(sample[name][:, place], level=level)
                    )
            row["minimum_detectable_gap"] = {
                key: _detectable(sample[key], own[key], place, len(names))
                for key in _DETECTED
                if key in sample
            }
        rows.append(row)
    return Groups(rows=rows, names=names, values=values, sample=sample, own=own)


def gaps_between(groups: Groups, attribute: str, level: float) -> Json:
    """Gaps as :func:`fedmed.evaluation.fairness.gaps` defines them, with intervals.

    The interval of a gap is made from simultaneous intervals of all the differences that it is the
    largest of (:mod:`gaps`): under noise, and with many groups, a gap of none
    looks like some.
    """
    used = [row for row in groups.rows if row["group"] != UNKNOWN and row["note"] is None]
    names = [str(row["group"]) for row in used]
    pairs = {
        gap: _pairs(groups, names, metric)
        for gap, metric in RANGES.items()
        if METRICS[metric].kind in ("ranking", "calls")  # no histogram tells calibration
    }
    pairs["equalised_odds_difference"] = _either(pairs["tpr_gap"], pairs["fpr_gap"])
    found: Json = {}
    intervals: Json = {}
    for gap, of in pairs.items():
        found[gap], intervals[gap] = (None, None) if of is None else _largest(of, level)
    accuracy = _accuracy_gaps(groups, names, attribute)
    signed = dict(zip(accuracy.names, map(float, accuracy.values), strict=True))
    largest = max(signed, key=lambda name: abs(signed[name]), default=None)
    intervals["accuracy_gap"] = None
    if largest is not None:
        intervals["accuracy_gap"] = _limits_of(accuracy, accuracy.names.index(largest), level)
    worst = min(used, key=lambda row: float(row["auroc"]), default=None)
    missed = [row for row in used if row["fnr"] is not None]
    most = max(missed, key=lambda row: float(row["fnr"]), default=None)
    return {
        **dict.fromkeys(RANGES),
        **found,
        "accuracy_gap": None if largest is None else signed[largest],
        "accuracy_gap_group": largest,
        "accuracy_gaps": signed,
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


def _detectable(sample: Array, own: Array, place: int, groups: int) -> float | None:
    """Gap that 80 of 100 such samples would show at 5 %: 2.80 standard errors."""
    difference = sample[:, place] - sample[:, groups + place]
    kept = difference[np.isfinite(difference)]
    if kept.size * 2 < difference.size or kept.size < 2:
        return None
    few = float(np.hypot(own[place], own[groups + place][::-1]).mean())
    error = max(float(kept.std(ddof=1)), few)
    return _POWER * error if error > 1e-12 else None


def _pairs(groups: Groups, names: list[str], key: str) -> Contrasts | None:
    """Differences of all pairs of the groups in which a measure is known; None below two."""
    if key not in groups.values:
        return None
    values = groups.values[key]
    known = [name for name in names if math.isfinite(float(values[groups.place(name)]))]
    pairs = {
        f"{one} - {two}": (groups.place(one), groups.place(two))
        for one, two in combinations(known, 2)
    }
    return Contrasts.of(groups, key, pairs) if pairs else None


def _either(first: Contrasts | None, second: Contrasts | None) -> Contrasts | None:
    """All contrasts of both; None where one has none."""
    if first is None or second is None:
        return None
    return Contrasts(
        first.names + second.names,
        np.concatenate([first.values, second.values]),
        np.concatenate([first.sample, second.sample], axis=1),
        np.concatenate([first.own, second.own]),
    )


def _largest(of: Contrasts, level: float) -> tuple[float, list[float] | None]:
    """The largest size of a contrast and its interval, as :func:`gaps.limits`."""
    largest = float(np.abs(of.values).max())
    found = simultaneous([of.values], [of.sample], [of.own], level=level)
    if found is None:
        return largest, None
    low, high = (
        float(np.maximum(one, -other).max())
        for one, other in ((found[0].low, found[0].high), (found[0].high, found[0].low))
    )
    return largest, [max(0.0, low), min(1.0, high)]


def _limits_of(of: Contrasts, which: int, level: float) -> list[float] | None:
    """Interval of the contrast that was picked because it is the largest."""
    if len(of.names) == 1:
        drawn = interval(of.sample[:, 0], level=level, low=-1.0)
        return with_few(float(of.values[0]), of.own[0], drawn, low=-1.0)
    found = simultaneous([of.values], [of.sample], [of.own], level=level)
    if found is None:
        return None
    return [max(-1.0, float(found[0].low[which])), min(1.0, float(found[0].high[which]))]


def _accuracy_gaps(groups: Groups, names: list[str], attribute: str) -> Contrasts:
    """For sex the first minus the second, else each group's accuracy minus all others'; signed."""
    if "accuracy" not in groups.values:
        return Contrasts((), np.empty(0), np.empty((0, 0)), np.empty((0, 2)))
    pairs = {name: len(groups.names) + groups.place(name) for name in names}
    if attribute in PAIRS:
        first, second = PAIRS[attribute]
        pairs = {first: groups.place(second)} if {first, second} <= set(names) else {}
    values = groups.values["accuracy"]
    known = {
        name: (groups.place(name), other)
        for name, other in pairs.items()
        if math.isfinite(float(values[groups.place(name)] - values[other]))
    }
    return Contrasts.of(groups, "accuracy", known)
