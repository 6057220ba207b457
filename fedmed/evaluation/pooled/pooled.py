"""All numbers of one run from the hospitals' histograms: pooled, with every error inside them.

The AUROC is that of all hospitals' images together, which is not the mean of the hospitals' AUROCs
(pitfall: pairs of a positive at one hospital and a negative at another count too). What the
histograms do not hold (order within a bin) is bounded; what noise and the choice of test patients
add is in the intervals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fedmed.base.files import without_nan
from fedmed.evaluation.metrics import SHARES, shown
from fedmed.evaluation.pooled.cells import (
    Array,
    area,
    drawn_measures,
    interval,
    measures,
    specific_edge,
    youden_edge,
)
from fedmed.evaluation.pooled.few import reaches, with_few
from fedmed.evaluation.pooled.groups import by_group, gaps_between
from fedmed.evaluation.pooled.histograms import EVERYBODY, Spec

LEVEL: Final = 0.95
VAL, TEST = 0, 1
_NOISED: Final = "counts and rates hold the hospitals' noise; so do their intervals"
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """What the hospitals sent: counts [split, group, label, bin] by hospital and family.

    ``deviation`` is the standard deviation of the noise that each hospital added to each cell (0:
    none); ``clustering`` the most by which several images of a patient inflate a count's variance.
    """

    spec: Spec
    counts: Mapping[str, Mapping[str, Array]]
    deviation: float = 0.0
    clustering: float = 1.0

    def cells(self, family: str = EVERYBODY) -> Array:
        """Sum over the hospitals, [split, group, label, bin]."""
        total: Array = np.sum([own[family] for own in self.counts.values()], axis=0)
        return total

    @property
    def pooled_deviation(self) -> float:
        """Of the noise in one cell of the sum."""
        return self.deviation * math.sqrt(len(self.counts))


def evaluate_histograms(
    pooled: Pooled, *, specificity: float = 0.9, resamples: int = 2000, level: float = LEVEL
) -> Json:
    """Metrics of one run from at least one hospital's histograms; None where not defined.

    Thresholds are edges, chosen on the pooled validation histograms. Intervals hold for the images
    of further patients like these and cover the noise; that of the AUROC is widened by the binning
    bound. Under noise the ends of the bound are estimates themselves, and totals are not whole.
    """
    spec, deviation = pooled.spec, pooled.pooled_deviation
    val, test = pooled.cells()[VAL, 0], pooled.cells()[TEST, 0]
    floor = noise_floor(deviation, spec.bins)
    enough = _enough(test, floor)
    at = youden_edge(val) if _enough(val, floor) else None
    sample = drawn_measures(
        test, at, deviation=deviation, clustering=pooled.clustering, resamples=resamples
    )
    own = _of_all(reaches(test[None], at, deviation=deviation, clustering=pooled.clustering))
    overall = _overall(test, sample, own, level, enough=enough)
    rates, intervals = _rates(test, at, sample, own, level, enough=enough)
    rows, gaps = _by_attribute(pooled, at, resamples, level)
    within, within_interval = _within(pooled, rows["hospital"], resamples, level)
    notes = [] if enough else [_why_none("test", floor)]
    notes += _left_out(rows["hospital"]) + ([_NOISED] if deviation else [])
    result: Json = {
        "source": "histograms",
        "n_test": _whole(test.sum()),
        "n_val": _whole(val.sum()),
        "patients_test": None,
        **dict.fromkeys(shown("result")),  # a histogram tells neither precision nor calibration
        **overall,
        **within,
        "auroc_val": float(area(val)[0]) if _enough(val, floor) else None,
        "threshold": None if at is None else spec.edges[at],
        "threshold_rule": _rule(at, val, _enough(val, floor), floor),
        **rates,
        "intervals": {
            "auroc": overall["auroc_interval"],
            **dict.fromkeys(within, within_interval),
            **intervals,
        },
        "resampling": {
            "method": "parametric",
            "resamples": resamples,
            "level": level,
            "unit": "patient",
            "strata": None,
        },
        "delong": None,
        "at_specificity": _at_specificity(pooled, specificity, floor, resamples, level),
        "groups": rows,
        "fairness": gaps,
        "binning": {"bins": spec.bins, "edges": list(spec.edges)},
        "notes": notes,
    }
    clean: Json = without_nan(result)
    return clean


def _of_all(groups: Mapping[str, Array]) -> dict[str, Array]:
    """The first group's, where all images are one group."""
    return {name: each[0] for name, each in groups.items()}


def _overall(
    test: Array,
    sample: Mapping[str, Array],
    own: Mapping[str, Array],
    level: float,
    *,
    enough: bool,
) -> Json:
    """Prevalence and AUROC of all test images together, with the bounds of the binning."""
    middle, half = (float(number) for number in area(test))
    if not enough:
        middle = math.nan
    totals = test.sum(-1)
    prevalence = float(totals[1] / totals.sum()) if enough else math.nan
    drawn = interval(sample["auroc"], level=level) if enough else None
    narrow = with_few(middle, own["auroc"], drawn)
    wide = None if narrow is None else [max(narrow[0] - half, 0.0), min(narrow[1] + half, 1.0)]
    return {
        "prevalence": prevalence,
        "majority_accuracy": max(prevalence, 1 - prevalence),
        "auroc": middle,
        "auroc_bounds": [max(middle - half, 0.0), min(middle + half, 1.0)] if enough else None,
        "auroc_interval": wide,
    }


def _rates(
    test: Array,
    at: int | None,
    sample: Mapping[str, Array],
    own: Mapping[str, Array],
    level: float,
    *,
    enough: bool,
) -> tuple[dict[str, float], Json]:
    """Rates of the test images at the threshold, and their intervals."""
    values = {name: float(number) for name, number in measures(test, at).items()}
    called = [name for name in shown("result") if name in SHARES]
    found = {name: values.get(name, math.nan) if enough else math.nan for name in called}
    intervals = {
        name: with_few(found[name], own[name], interval(sample[name], level=level))
        if math.isfinite(found[name])
        else None
        for name in called
    }
    return found, intervals


def _left_out(rows: list[Json]) -> list[str]:
    """A note of the hospitals that the mean within hospitals leaves out."""
    without = [row["group"] for row in rows if row["note"] is not None]
    if not without or len(without) == len(rows):
        return []
    return [f"the mean of hospital AUROCs leaves out {', '.join(without)}: too few"]


def _within(
    pooled: Pooled, rows: list[Json], resamples: int, level: float
) -> tuple[dict[str, float], list[float] | None]:
    """The mean of the hospitals' own AUROCs and its interval, widened by the binning bound."""
    (name,) = shown("headline between schemes")
    names = sorted(row["group"] for row in rows if row["note"] is None)
    if not names:
        return {name: math.nan}, None
    own = np.stack([pooled.counts[hospital][EVERYBODY][TEST, 0] for hospital in names])
    sample = drawn_measures(
        own,
        None,
        deviation=pooled.deviation,
        clustering=pooled.clustering,
        resamples=resamples,
    )
    middle, half = (float(each.mean()) for each in area(own))
    found = interval(sample["auroc"].mean(axis=1), level=level)
    wide = None if found is None else [max(found[0] - half, 0.0), min(found[1] + half, 1.0)]
    return {name: middle}, wide


def noise_floor(deviation: float, bins: int) -> float:
    """Totals of ``bins`` cells below it are not told apart from the noise in them."""
    return 2 * deviation * math.sqrt(bins)


def _by_attribute(
    pooled: Pooled, at: int | None, resamples: int, level: float
) -> tuple[Json, Json]:
    """Rows and gaps of each attribute; a hospital's rows come from its own histogram."""
    rows: Json = {}
    gaps: Json = {}
    own = np.stack([counts[EVERYBODY][TEST, 0] for counts in pooled.counts.values()])
    families: dict[str, tuple[tuple[str, ...], Array, float]] = {
        name: (groups, pooled.cells(name)[TEST], pooled.pooled_deviation)
        for name, groups in pooled.spec.families.items()
        if name != EVERYBODY
    }
    families["hospital"] = (tuple(pooled.counts), own, pooled.deviation)
    for attribute, (groups, cells, deviation) in families.items():
        estimate = by_group(
            groups,
            cells,
            at,
            floor=noise_floor(deviation, pooled.spec.bins),
            deviation=deviation,
            clustering=pooled.clustering,
            resamples=resamples,
            level=level,
        )
        rows[attribute] = estimate.rows
        gaps[attribute] = gaps_between(estimate, attribute, level)
    return rows, gaps


def _at_specificity(
    pooled: Pooled, target: float, floor: float, resamples: int, level: float
) -> Json | None:
    val, test = pooled.cells()[VAL, 0], pooled.cells()[TEST, 0]
    at = specific_edge(val, target) if _enough(val, floor) else None
    if at is None or not _enough(test, floor):
        return None
    sample = drawn_measures(
        test,
        at,
        deviation=pooled.pooled_deviation,
        clustering=pooled.clustering,
        resamples=resamples,
    )
    values = measures(test, at)
    own = reaches(test[None], at, deviation=pooled.pooled_deviation, clustering=pooled.clustering)
    names = tuple(shown("result at fixed specificity"))
    return {
        "specificity_target": target,
        "threshold": pooled.spec.edges[at],
        **{name: float(values[name]) for name in names},
        "intervals": {
            name: with_few(float(values[name]), own[name][0], interval(sample[name], level=level))
            for name in names
        },
    }


def _enough(cells: Array, floor: float) -> bool:
    return bool((cells.sum(-1) > floor).all())


def _why_none(split: str, floor: float) -> str:
    if floor:
        return f"{split}: the totals are not told apart from the noise: nothing is measured"
    return f"{split} holds one class only, or nothing: AUROC is not defined"


def _rule(at: int | None, val: Array, enough: bool, floor: float) -> str:
    if at is not None:
        about = "about " if floor else ""
        images = _whole(val.sum())
        return f"edge with the largest Youden index on {about}{images} pooled validation images"
    if not enough and floor:
        return "no threshold: too few validation images for the noise"
    return "no threshold: there are no validation images, or images of one class only"


def _whole(count: float) -> int:
    return max(0, round(float(count)))
