"""One arm over its seeds: the means that tables, figures and sentences use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fedmed.report.load import Comparison, Json, Run

Number = float | None


@dataclass(frozen=True, kw_only=True)
class Arm:
    """An arm with at least one finished seed.

    `low` and `high` are the 95 % interval over test patients, averaged over seeds; `seed_aurocs`
    are the single seeds' AUROCs. `epsilon` is the largest over seeds and holds for `unit`; None
    means that no differential privacy is claimed.
    """

    name: str
    kind: str
    scheme: str
    unit: str
    epsilon: Number
    delta: Number
    trust: str
    runs: list[Run]
    auroc: Number
    low: Number
    high: Number
    seed_aurocs: list[float]

    @property
    def private(self) -> bool:
        """Whether noise or another treatment entered, with or without a claim."""
        return self.kind != "none"

    @property
    def element(self) -> str:
        """What its images are made of."""
        return "voxel" if self.runs[0].config.get("data.dimensions") == 3 else "pixel"

    @property
    def replaced(self) -> Number:
        """Epsilon where one unit's data are replaced, where the statement gives it."""
        value: Number = self.statement.get("epsilon_replace_one")
        return value

    @property
    def axis_epsilon(self) -> Number:
        """Epsilon on the axis of its unit: one neighbouring relation for all arms there.

        Patients are added or removed under every arm; images and hospitals are not, so that there
        the figure for replacement counts.
        """
        if self.epsilon is None or self.unit == "patient" or self.replaced is None:
            return self.epsilon
        return self.replaced

    @property
    def statement(self) -> Json:
        """The privacy statement of the seed whose guarantee is weakest; empty without any."""
        told = [run.privacy for run in self.runs if run.privacy]
        unclaimed = [one for one in told if one.get("epsilon") is None]
        if unclaimed or not told:
            return next(iter(unclaimed), {})
        return max(told, key=lambda one: float(one["epsilon"]))

    def metric(self, *path: str) -> Number:
        """Mean over seeds of a number in the metrics, None where no seed has it."""
        return mean(_dig(_result(run).get("metrics"), path) for run in self.runs)

    def cost(self, *path: str) -> Number:
        """Mean over seeds of a number in the result."""
        return mean(_dig(_result(run), path) for run in self.runs)

    def groups(self, attribute: str) -> list[Json]:
        """Rows of the subgroup table, their numbers averaged over seeds."""
        tables = [
            ((_result(run).get("metrics") or {}).get("groups") or {}).get(attribute) or []
            for run in self.runs
        ]
        merged: dict[str, list[Json]] = {}
        for row in (row for table in tables for row in table):
            merged.setdefault(str(row.get("group")), []).append(row)
        return [
            {
                **same[0],
                **{
                    key: mean(row.get(key) for row in same)
                    for key in ("auroc", "fnr", "fpr", "accuracy", "selection_rate")
                },
            }
            for same in merged.values()
        ]

    def notes(self) -> list[str]:
        """Notes of the evaluation: what could not be measured, what was not compared."""
        notes: list[str] = []
        for run in self.runs:
            metrics = _result(run).get("metrics") or {}
            notes += metrics.get("notes") or []
            if metrics.get("threshold") is None and metrics.get("threshold_rule"):
                notes.append(str(metrics["threshold_rule"]))
        return list(dict.fromkeys(notes))


def summarise(comparison: Comparison) -> list[Arm]:
    """Arms with at least one finished seed, in the experiment's order."""
    arms = []
    for name in comparison.arms:
        runs = [run for run in comparison.runs if run.arm == name and run.result is not None]
        if runs:
            arms.append(_arm(name, runs))
    return arms


def reference(arms: list[Arm]) -> Arm | None:
    """The federated arm without privacy, which private arms are compared with."""
    return next((arm for arm in arms if not arm.private and arm.scheme == "federated"), None)


def mean(values: Iterable[Any]) -> Number:
    """Mean of the numbers that are there; None where there is none."""
    present = [float(value) for value in values if isinstance(value, int | float)]
    return sum(present) / len(present) if present else None


def _arm(name: str, runs: list[Run]) -> Arm:
    first = _result(runs[0])
    metrics = [_result(run).get("metrics") or {} for run in runs]
    intervals = [m["auroc_interval"] for m in metrics if m.get("auroc_interval")]
    aurocs = [float(m["auroc"]) for m in metrics if m.get("auroc") is not None]
    return Arm(
        name=name,
        kind=str(first.get("arm") or name),
        scheme=str(first.get("scheme") or "federated"),
        unit=str(first.get("unit") or "none"),
        epsilon=_largest(runs, "epsilon"),
        delta=_largest(runs, "delta"),
        trust=str(first.get("trust") or "not recorded"),
        runs=runs,
        auroc=mean(aurocs),
        low=mean(interval[0] for interval in intervals),
        high=mean(interval[1] for interval in intervals),
        seed_aurocs=aurocs,
    )


def _largest(runs: list[Run], key: str) -> Number:
    """The weakest guarantee over seeds: None (no claim) as soon as one seed has none."""
    values = [_result(run).get(key) for run in runs]
    numbers = [float(value) for value in values if value is not None]
    return max(numbers) if len(numbers) == len(values) and numbers else None


def _result(run: Run) -> Json:
    return run.result or {}


def _dig(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
