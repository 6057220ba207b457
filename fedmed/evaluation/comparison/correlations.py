"""Pearson correlations of a comparison, those of Tayebi Arasteh et al. 2024, with their points.

Each says "not defined" by r = None and a note; its points (x, y, label) are given all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fedmed.evaluation.fairness import pearson
from fedmed.evaluation.intervals.estimates import mean_value
from fedmed.evaluation.measuring.panel import SinglePanel

LEAST: Final = 3  # points
SEX_GAPS: Final = ("accuracy_gap", "auroc_gap")
Json = dict[str, Any]


def by_target(
    panels: Mapping[str, SinglePanel], runs: Mapping[str, Mapping[int, str]], baseline: str
) -> list[Json]:
    """Per arm over targets: the AUROC it loses against the baseline's AUROC, and positives.

    Label difficulty is the baseline's AUROC of the target. Positives are those of the test images:
    training counts are the hospitals' own.
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
                difficulty.append((reached, lost, target))
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
    r = pearson([x for x, _, _ in points], [y for _, y, _ in points])
    note = None
    if len(points) < LEAST:
        note = f"too few {what}: {len(points)}, {LEAST} needed"
    elif r is None:
        note = "not defined: one side does not vary"
    return {"name": name, "r": r, "n": len(points), "points": list(map(list, points)), **more} | {
        "note": note
    }
