"""Thresholds of a run, chosen on its validation rows only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import pandas as pd

from fedmed.evaluation.discrimination import specificity_threshold, youden_threshold

SPECIFICITY: Final = 0.9


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """The threshold of every rate, the one that reaches a specificity, and how they were chosen."""

    youden: float | None
    at_specificity: float | None
    rule: str
    specificity: float = SPECIFICITY


def choose(val: pd.DataFrame, specificity: float = SPECIFICITY) -> Thresholds:
    """Thresholds from validation rows of one target; None, with the reason, without both classes.

    Chosen on test rows, a threshold flatters every rate that follows from it.
    """
    if val.empty:
        rule = "no threshold: there are no validation rows to choose it on"
        return Thresholds(youden=None, at_specificity=None, rule=rule, specificity=specificity)
    youden = youden_threshold(val["label"], val["score"])
    if math.isnan(youden):
        rule = "no threshold: the validation rows hold one class only"
        return Thresholds(youden=None, at_specificity=None, rule=rule, specificity=specificity)
    reached = specificity_threshold(val["label"], val["score"], specificity)
    return Thresholds(
        youden=youden,
        at_specificity=reached if math.isfinite(reached) else None,
        rule=f"largest Youden index on {len(val)} validation images",
        specificity=specificity,
    )
