"""The primary endpoint: one change that an experiment names beforehand, with what would not matter.

Everything else in a comparison explores. Whether an arm "costs little" is asked of the endpoint
alone: by the interval of its change, as a test of non-inferiority or of equivalence (Piaggio et al.
2012, the CONSORT extension).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from fedmed.base.errors import UserError
from fedmed.evaluation.metrics import METRICS, shown

Json = dict[str, Any]
Test = Literal["non-inferiority", "equivalence"]
TESTS: Final = ("non-inferiority", "equivalence")
_KEYS: Final = ("arm", "metric", "margin", "test")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An arm, a metric of comparisons, and the change that would not matter (above 0).

    ``after_results``: it was named, or changed, when results were there already.
    """

    arm: str
    metric: str = "auroc"
    margin: float
    test: Test = "non-inferiority"
    after_results: bool = False

    def to_dict(self) -> Json:
        """What an experiment's record holds."""
        return {**{key: getattr(self, key) for key in _KEYS}, "after_results": self.after_results}


def read(told: Any, where: str) -> Endpoint:
    """An endpoint from a table of an experiment's file or record.

    Raises UserError, which begins with ``where``, for what is not such a table.
    """
    if not isinstance(told, Mapping):
        raise UserError(f"{where}: primary must be a table: arm, metric, margin, test")
    for key in told:
        if key not in (*_KEYS, "after_results"):
            raise UserError(f"{where}: [primary] has no key '{key}'; use {', '.join(_KEYS)}")
    arm, margin = told.get("arm"), told.get("margin")
    if not isinstance(arm, str):
        raise UserError(f"{where}: [primary] arm = {arm!r}; name the arm that the baseline meets")
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0.0 < margin < 1.0:
        raise UserError(
            f"{where}: [primary] margin = {margin!r}; give the largest change that would not "
            "matter, between 0 and 1"
        )
    metric, test = told.get("metric", "auroc"), told.get("test", TESTS[0])
    known = shown("comparison")
    if metric not in known:
        raise UserError(f"{where}: [primary] metric = {metric!r}; use one of {', '.join(known)}")
    if test not in TESTS:
        raise UserError(f"{where}: [primary] test = {test!r}; use {' or '.join(TESTS)}")
    if test == TESTS[0] and METRICS[metric].direction not in ("higher", "lower"):
        raise UserError(
            f"{where}: [primary] of {metric} neither more nor less is better; set test = "
            "'equivalence'"
        )
    return Endpoint(
        arm=arm,
        metric=metric,
        margin=float(margin),
        test=test,
        after_results=told.get("after_results") is True,
    )


def judged(endpoint: Endpoint | None, differences: Sequence[Json]) -> Json | None:
    """What the change of the endpoint says; None without one, or where its arm has not run.

    `low` to `high` is the widest 95 % interval that there is (patients, and trainings where there
    are several). `shown` is whether it keeps within the margin: on the worse side, or on both.
    `worse` is whether all of it lies beyond. Each is null without an interval.
    """
    if endpoint is None:
        return None
    wanted = ("metric", endpoint.arm, endpoint.metric)
    found = [r for r in differences if (r["kind"], r["arm"], r["quantity"]) == wanted]
    if not found:
        return None
    change = found[0]["difference"]
    sides = ("both_low", "both_high") if change["both_low"] is not None else ("low", "high")
    low, high = (change[side] for side in sides)
    told: Json = {
        **endpoint.to_dict(),
        "change": change["value"],
        "low": low,
        "high": high,
        "shown": None,
        "worse": None,
    }
    if low is None or high is None:
        return told
    less_is_better = METRICS[endpoint.metric].direction == "lower"
    worst, best = (-high, -low) if less_is_better else (low, high)
    within = worst > -endpoint.margin
    both = within and best < endpoint.margin
    beyond = best < -endpoint.margin
    if endpoint.test == "equivalence":
        return {**told, "shown": both, "worse": beyond or worst > endpoint.margin}
    return {**told, "shown": within, "worse": beyond}
