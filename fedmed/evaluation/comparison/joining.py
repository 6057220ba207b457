"""Is it worth joining? A hospital's own model against the federated ones, on its own patients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedmed.evaluation import fairness
from fedmed.evaluation.comparison.alone import ALONE, TOGETHER
from fedmed.evaluation.comparison.changes import change
from fedmed.evaluation.intervals.intervals import holm
from fedmed.evaluation.measuring.panel import Panel
from fedmed.evaluation.tables.pairing import Paired

Json = dict[str, Any]
_SAME = 0.01  # epsilons that differ by less than this share are one


def joining(
    panel: Panel,
    paired: Paired,
    schemes: Mapping[str, str],
    epsilons: Mapping[str, float | None],
    units: Mapping[str, str],
) -> list[Json]:
    """AUROC on one hospital's test images, of a federated arm minus its own model; paired.

    A row for each federated arm and each hospital with enough images. Its own model is that of the
    first arm of each hospital alone with the same epsilon for the same unit, and where there is
    none, of the first without a guarantee. ``p_holm`` adjusts over all rows.
    """
    alone = [arm for arm in paired.runs if schemes.get(arm) == ALONE]
    found: list[Json] = []
    for count in panel.counts.get("hospital", []):
        if count.group not in fairness.compared(panel.counts["hospital"]):
            continue
        quantity = panel.quantity("auroc", "hospital", count.group)
        if not np.isfinite(quantity.values).all():
            continue
        about = {"hospital": count.group, "images": count.n, "positives": count.positives}
        for arm in paired.runs:
            own = _own(arm, alone, epsilons, units)
            if schemes.get(arm) == TOGETHER and own is not None:
                moved = change(quantity, paired, own, arm)
                found.append({**about, "arm": arm, "alone": own, "quantity": "auroc", **moved})
    for row, adjusted in zip(found, holm([row["p"] for row in found]), strict=True):
        row["p_holm"] = adjusted
    return found


def _own(
    arm: str,
    alone: list[str],
    epsilons: Mapping[str, float | None],
    units: Mapping[str, str],
) -> str | None:
    """The arm of hospitals alone that ``arm`` is held against."""

    def alike(other: str) -> bool:
        one, two = epsilons.get(arm), epsilons.get(other)
        same = one is not None and two is not None and math.isclose(one, two, rel_tol=_SAME)
        return same and units.get(arm) == units.get(other)

    free = [other for other in alone if epsilons.get(other) is None]
    return next((other for other in alone if alike(other)), free[0] if free else None)
