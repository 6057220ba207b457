"""What an arm loses against the baseline, step by step over the arms that lie between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from fedmed.evaluation.comparison.changes import change
from fedmed.evaluation.intervals.quantity import Quantity
from fedmed.evaluation.measuring.panel import Panel
from fedmed.evaluation.metrics import Place, shown
from fedmed.evaluation.tables.pairing import Paired

STEPS: Final = ("recipe", "clipping", "noise")
Json = dict[str, Any]


def split(
    panel: Panel,
    paired: Paired,
    baseline: str,
    between: Mapping[str, Sequence[str]],
    headlines: Mapping[str, Place | None],
) -> list[Json]:
    """Each arm's change from the baseline in the metric it is compared by, and each step of it.

    `between` names, by arm, the arms that lie between it and the baseline. All steps are paired on
    the same resamples; where all arms have the same seeds they add up to `total`. An arm without
    them, or that is the baseline, is left out.
    """
    found = []
    for arm, names in between.items():
        path = [baseline, *names, arm]
        place = headlines.get(arm)
        if place is None or arm == baseline or not all(name in paired.runs for name in path):
            continue
        (metric,) = shown(place)
        quantity = panel.quantity(metric)
        found.append(
            {
                "arm": arm,
                "quantity": metric,
                "steps": [
                    {"step": step, **_step(quantity, paired, one, other)}
                    for step, (one, other) in zip(STEPS, pairwise(path), strict=True)
                ],
                "total": _step(quantity, paired, baseline, arm),
            }
        )
    return found


def _step(quantity: Quantity, paired: Paired, one: str, other: str) -> Json:
    return {"from": one, "to": other, **change(quantity, paired, one, other)}
