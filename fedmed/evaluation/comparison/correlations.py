"""Pearson correlations of a comparison, after Tayebi Arasteh et al. 2024, with their points.

Each has its 95 % interval by Fisher's transformation. Below POINTS points there is none: of three,
two in five are above 0.8 by luck. It says "not defined" by r = None and a note; its points
(x, y, label) are given all the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fedmed.evaluation.fairness import POINTS, pearson
from fedmed.evaluation.intervals.estimates import mean_value
from fedmed.evaluation.measuring.panel import SinglePanel

SEX_GAPS: Final = ("accuracy_gap", "auroc_gap")
Json = dict[str, Any]


def by_target(
    panels: Mapping[str, SinglePanel], runs: Mapping[str, Mapping[int, str]], baseline: str
) -> list[Json]:
    """Per arm over targets: the AUROC it loses against the target's difficulty, and positives.

    Difficulty is the mean of the target's AUROC under the baseline and under the arm: the loss is
    the one less the other, and would correlate with either alone from nothing (Oldham 1962).
    Positives are those of the test images: training counts are the hospitals' own.
    """
    found = []
    for arm in runs:
        if arm == baseline:
            continue
        difficulty, positives = [], []
        for target, panel in panels.items():
            quantity = panel.quantity("auroc")
            reached = mean_value(quantity, list(runs[baseline].values()))
            lost = reached - mean_value(quantity, list(runs[arm].values()))
            if lost == lost:  # not NaN
                difficulty.append((reached - lost / 2.0, lost, target))
                positives.append((float(panel.labels.sum()), lost, target))
        for name, points in (
            ("label difficulty vs AUROC loss", difficulty),
            ("positives vs AUROC loss", positives),
        ):
            found.append(_correlation(name, points, "targets", arm=arm))
    return found


def epsilon_and_gap(
    by_arm: Mapping[str, Json], epsilons: Mapping[str, float | None], units: Mapping[str, str]
) -> list[Json]:
    """Over the arms with an epsilon for the same unit: epsilon and the gap between the sexes.

    Epsilons of different units are different promises, so each unit has its own correlation. The
    accuracy gap is women minus men with its sign.
    """
    by_unit: dict[str, list[str]] = {}
    for arm in by_arm:
        if epsilons.get(arm) is not None:
            by_unit.setdefault(units.get(arm, "not told"), []).append(arm)
    found = []
    for unit, arms in by_unit.items():
        for gap in SEX_GAPS:
            points = []
            for arm in arms:
                epsilon = epsilons[arm]
                told = by_arm[arm]["gaps"].get("sex", {}).get(gap)
                if epsilon is not None and told is not None and told["value"] is not None:
                    points.append((float(epsilon), float(told["value"]), arm))
            what = f"arms with an epsilon (unit: {unit}) and a gap"
            found.append(_correlation("epsilon vs sex gap", points, what, unit=unit, quantity=gap))
    return found


def _correlation(
    name: str, points: Sequence[tuple[float, float, str]], what: str, **more: str
) -> Json:
    r, note = pearson([x for x, _, _ in points], [y for _, y, _ in points]), None
    if len(points) < POINTS:
        note = f"too few {what}: {len(points)}, {POINTS} needed"
    elif r is None:
        note = "not defined: one side does not vary"
    low, high = (None, None) if r is None else _fisher(r, len(points))
    return {
        "name": name,
        "r": r,
        "low": low,
        "high": high,
        "n": len(points),
        "points": list(map(list, points)),
        **more,
        "note": note,
    }


def _fisher(r: float, points: int) -> tuple[float, float]:
    """95 % interval of a correlation (Fisher 1921)."""
    if abs(r) >= 1.0:
        return r, r
    half = 1.959964 / math.sqrt(points - 3)
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)
