"""Does training together reach more at a hospital than that hospital does alone?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from fedmed.evaluation.comparison.changes import change
from fedmed.evaluation.intervals.intervals import holm
from fedmed.evaluation.measuring.panel import Panel
from fedmed.evaluation.metrics import shown
from fedmed.evaluation.tables.pairing import Paired

Json = dict[str, Any]

ALONE: Final = "local-only"
TOGETHER: Final = "federated"


def against_alone(
    panel: Panel,
    paired: Paired,
    schemes: Mapping[str, str],
    epsilons: Mapping[str, float | None],
) -> list[Json]:
    """Each federated arm's mean AUROC within hospitals minus that of hospitals alone, paired.

    Alone is the first arm of that scheme without a guarantee; without it, or without hospitals that
    have numbers, the list is empty. ``p_holm`` adjusts over these differences.
    """
    alone = next(
        (arm for arm in paired.runs if schemes.get(arm) == ALONE and epsilons.get(arm) is None),
        None,
    )
    (metric,) = shown("headline between schemes")
    quantity = panel.quantity(metric)
    if alone is None or not np.isfinite(quantity.values).all():
        return []
    found = [
        {"arm": arm, "alone": alone, "quantity": metric, **change(quantity, paired, alone, arm)}
        for arm in paired.runs
        if schemes.get(arm) == TOGETHER
    ]
    for row, adjusted in zip(found, holm([row["p"] for row in found]), strict=True):
        row["p_holm"] = adjusted
    return found
