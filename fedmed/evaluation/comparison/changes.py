"""The change of one quantity from one arm to another, on the same resamples of patients."""

from __future__ import annotations

from typing import Any

from fedmed.evaluation.intervals.estimates import cut_difference, difference, estimate, p_value
from fedmed.evaluation.intervals.intervals import (
    detectable,
    p_both,
    standard_error,
    training_error,
)
from fedmed.evaluation.intervals.quantity import Quantity
from fedmed.evaluation.tables.pairing import Paired

Json = dict[str, Any]


def change(
    quantity: Quantity, paired: Paired, one: str, other: str, *, level: float | None = None
) -> Json:
    """From `one` arm to the `other`: both values, their difference with its interval, a p-value.

    With several seeds the test is of training as well. No other comparison adjusts the p-value.
    With a `level` there is also the smallest difference that a test at it would have shown.
    """
    moved, (after, before) = difference(quantity, paired.runs[other], paired.runs[one])
    told = estimate(moved)
    p = p_value(moved)
    if told["both_low"] is not None:
        p = p_both(moved, told["low"], told["high"])
    row = {"before": before, "after": after, "difference": cut_difference(told), "p": p}
    if level is not None:
        row["minimum_detectable"] = detectable(
            standard_error(moved.mean()),
            training=training_error(moved),
            seeds=moved.values.size,
            level=level,
        )
    return row
