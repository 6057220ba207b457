"""What ``comparison.json`` says: estimates with their intervals, and paired differences."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from fedmed.base import files
from fedmed.base.errors import UserError
from fedmed.base.opening import present
from fedmed.report.reading import Json, Number, json_object, number, pair, rows, table, texts

FILE: Final = "comparison.json"
_PREDICTIONS: Final = "predictions.parquet"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its uncertainty; whatever is unknown is None.

    `low` to `high` is the interval over test patients. `both_low` to `both_high` holds the luck
    of training too and needs several seeds.
    """

    value: Number = None
    low: Number = None
    high: Number = None
    both_low: Number = None
    both_high: Number = None
    seeds: int = 0

    def __neg__(self) -> Estimate:
        """The same quantity counted the other way round."""

        def minus(number: Number) -> Number:
            return None if number is None else -number

        return replace(
            self,
            value=minus(self.value),
            low=minus(self.high),
            high=minus(self.low),
            both_low=minus(self.both_high),
            both_high=minus(self.both_low),
        )

    @property
    def outer(self) -> tuple[Number, Number]:
        """The interval with every source of luck that was measured."""
        if self.both_low is not None and self.both_high is not None:
            return self.both_low, self.both_high
        return self.low, self.high

    def reaches(self, chance: float) -> bool:
        """Whether the outer interval is not wholly above this value; False without an interval."""
        low = self.outer[0]
        return low is not None and low <= chance

    @property
    def excludes_zero(self) -> bool | None:
        """Whether the outer interval leaves zero out; None without an interval."""
        low, high = self.outer
        return None if low is None or high is None else low > 0.0 or high < 0.0


@dataclass(frozen=True, kw_only=True)
class Difference:
    """An arm minus the baseline, for one quantity; `detectable` is its smallest visible size."""

    arm: str
    kind: str
    quantity: str
    attribute: str
    group: str
    before: Number
    after: Number
    change: Estimate
    p: Number
    p_holm: Number
    headline: bool
    detectable: Number

    @property
    def sized(self) -> Difference:
        """The same with a change of the gap's size, above 0 where the gap grows.

        The accuracy gap of the sexes has a sign, and its change too: where both gaps point the
        other way the change is turned, and where the gap changes sides only its size is compared,
        for which there is no interval. The p-values are those of the signed change.
        """
        before, after = self.before, self.after
        if before is None or after is None or (before >= 0.0 and after >= 0.0):
            return self
        turned = before <= 0.0 and after <= 0.0
        change = -self.change if turned else Estimate(value=abs(after) - abs(before))
        return replace(self, change=change)

    @property
    def distinguishable(self) -> bool:
        """Whether it differs from zero by Holm's p, else by p, else by its interval."""
        for p in (self.p_holm, self.p):
            if p is not None:
                return p < 0.05
        return bool(self.change.excludes_zero)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A comparison of arms on the same images; `by_arm` and `correlations` are as in the file."""

    baseline: str
    resamples: Number
    method: str
    unit: str
    by_arm: Json
    differences: list[Difference]
    family: Json
    correlations: list[Json]
    notes: list[str]
    splits: list[Json] = field(default_factory=list)  # as in the file
    alone: list[Difference] = field(default_factory=list)  # from hospitals alone, not the baseline
    joining: list[Json] = field(default_factory=list)  # as in the file
    places: list[Json] = field(default_factory=list)  # as in the file
    primary: Json = field(default_factory=dict)  # as in the file

    def estimate(self, arm: str, *path: str) -> Estimate | None:
        """An arm's estimate under ``by_arm``; None where there is no number."""
        arm_estimate = estimate(table(self.by_arm, arm, *path))
        return None if arm_estimate.value is None else arm_estimate

    def difference(
        self, arm: str, kind: str, quantity: str, attribute: str = "", group: str = ""
    ) -> Difference | None:
        """The difference of one arm in one quantity, where it was measured."""
        wanted = (arm, kind, quantity, attribute, group)
        for one in self.differences:
            if (one.arm, one.kind, one.quantity, one.attribute, one.group) == wanted:
                return one
        return None

    def headline(self, arm: str) -> Difference | None:
        """An arm's difference in the metric that it is compared by.

        That is AUROC, or the mean of it within hospitals where the arm trains by another scheme.
        """
        for one in self.differences:
            if one.arm == arm and one.kind == "metric" and one.headline:
                return one
        return self.difference(arm, "metric", "auroc")


def read(directory: Path, finished: Iterable[str], problems: list[str]) -> Evidence | None:
    """``comparison.json`` of a run directory; None where absent, damaged or out of date.

    `finished` are the runs with a result, as ARM/seed-N. What is wrong is added to `problems`.
    """
    comparison = json_object(directory / FILE, directory, problems)
    if not comparison:
        return None
    inputs = table(comparison, "inputs")
    stale = [
        run
        for run, digest in inputs.items()
        if present(path := directory / run / _PREDICTIONS) and _digest(path) != digest
    ]
    if stale:
        problems.append(
            f"{FILE} was made from other predictions of {', '.join(stale)}: it is left out; "
            "make it again with fedmed report"
        )
        return None
    missing = [run for run in finished if inputs and run not in inputs]
    if missing:
        problems.append(f"{FILE} does not hold {', '.join(missing)}, finished after it was made")
    return _evidence(comparison)


def estimate(value: Json) -> Estimate:
    """An estimate as the file writes it."""
    low, high = pair([value.get("low"), value.get("high")])
    both_low, both_high = pair([value.get("both_low"), value.get("both_high")])
    return Estimate(
        value=number(value.get("value")),
        low=low,
        high=high,
        both_low=both_low,
        both_high=both_high,
        seeds=int(number(value.get("seeds")) or 0),
    )


def _evidence(comparison: Json) -> Evidence:
    return Evidence(
        baseline=str(comparison.get("baseline") or ""),
        resamples=number(comparison.get("resamples")),
        method=str(comparison.get("method") or ""),
        unit=str(comparison.get("unit") or "patient"),
        by_arm=table(comparison, "by_arm"),
        differences=[_difference(row) for row in rows(comparison, "differences")],
        family=table(comparison, "family"),
        correlations=rows(comparison, "correlations"),
        notes=texts(comparison, "notes"),
        splits=rows(comparison, "splits"),
        alone=[change_from(row) for row in rows(comparison, "alone")],
        joining=rows(comparison, "joining"),
        places=rows(comparison, "places"),
        primary=table(comparison, "primary"),
    )


def _difference(row: Json) -> Difference:
    def text(key: str) -> str:
        value: Any = row.get(key)
        return "" if value is None else str(value)

    return Difference(
        arm=text("arm"),
        kind=text("kind"),
        quantity=text("quantity"),
        attribute=text("attribute"),
        group=text("group"),
        before=number(row.get("baseline_value")),
        after=number(row.get("value")),
        change=estimate(table(row, "difference")),
        p=number(row.get("p")),
        p_holm=number(row.get("p_holm")),
        headline=bool(row.get("headline")),
        detectable=number(row.get("minimum_detectable")),
    )


def change_from(row: Json) -> Difference:
    """A change from another arm than the baseline, as the file writes it."""
    return _difference(
        {**row, "kind": "metric", "baseline_value": row.get("before"), "value": row.get("after")}
    )


def _digest(path: Path) -> str:
    try:
        return files.digest(path)
    except (OSError, UserError):
        return ""
