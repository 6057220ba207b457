"""What the tables and lists of the report hold, section by section."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fedmed.report import words
from fedmed.report.arms import Arm, mean
from fedmed.report.load import MEGABYTE, Comparison, Json, Run

ATTRIBUTES: Final = {"sex": "sex", "age": "age band", "view": "view", "hospital": "hospital"}
_SCHEMES: Final = {
    "federated": "trained together",
    "pooled": "all data in one place",
    "local-only": "each hospital alone",
}


def facts(comparison: Comparison, arms: Sequence[Arm]) -> list[tuple[str, str]]:
    """The size of the comparison, as label and value."""
    metrics = [(run.result or {}).get("metrics") or {} for arm in arms for run in arm.runs]
    first: Json = metrics[0] if metrics else {}
    prevalence = first.get("prevalence")
    seeds = sorted({run.seed for run in comparison.runs})
    facts = [
        ("Cohort", comparison.cohort),
        ("Test images", plain(first.get("n_test"))),
        ("Test patients", plain(first.get("patients_test"))),
        ("With disease", f"{prevalence:.0%}" if prevalence is not None else ""),
        ("Arms", str(len(comparison.arms))),
        ("Seeds", ", ".join(map(str, seeds))),
    ]
    return [(name, value) for name, value in facts if value and value != words.ABSENT]


def row(arm: Arm, arms: Sequence[Arm], base: Arm | None) -> dict[str, Any]:
    """A row of the table of arms; `strip` holds percentages along the AUROC axis drawn in it."""
    lows = [value for a in arms for value in (a.low, a.auroc) if value is not None]
    start = min([0.5, *lows])
    start = int(start * 20) / 20

    def place(value: float | None) -> float | None:
        return None if value is None else round(100 * (value - start) / (1.0 - start), 2)

    change = None
    if base is not None and arm is not base and arm.auroc is not None and base.auroc is not None:
        change = arm.auroc - base.auroc
    return {
        "arm": arm,
        "scheme": _SCHEMES.get(arm.scheme, arm.scheme),
        "guarantee": words.guarantee(arm),
        "per_pixel": arm.statement.get("epsilon_per_pixel"),
        "neighbouring": arm.statement.get("neighbouring"),
        "replaced": arm.replaced
        if arm.epsilon is not None and arm.replaced != arm.epsilon
        else None,
        "change": change,
        "accuracy": arm.metric("accuracy"),
        "sensitivity": arm.metric("sensitivity"),
        "specificity": arm.metric("specificity"),
        "strip": (
            place(arm.low),
            place(arm.auroc),
            place(arm.high),
            place(base.auroc if base else None),
        ),
        "axis_start": start,
    }


def progress(run: Run) -> tuple[str, str]:
    """An unfinished run and how far it has come."""
    done = max((int(entry["round"]) for entry in run.history), default=None)
    failed = next((entry for entry in run.history if entry.get("failed")), None)
    if failed is not None:
        codes = ", ".join(f"{f['hospital']}: {f['code']}" for f in failed.get("failures") or [])
        return f"{run.arm}, seed {run.seed}", f"failed in round {failed['round']} ({codes})"
    state = "not finished" if done is None else f"not finished, round {done} done"
    return f"{run.arm}, seed {run.seed}", state


def gap_tables(arms: Sequence[Arm], base: Arm | None) -> list[dict[str, Any]]:
    """Per attribute a table of gaps, one row per arm, and what was not compared."""
    tables = []
    for attribute, title in ATTRIBUTES.items():
        rows, notes = [], []
        for arm in arms:
            groups = [row for row in arm.groups(attribute) if row.get("auroc") is not None]
            per_run = [
                (((run.result or {}).get("metrics") or {}).get("fairness") or {}).get(attribute)
                for run in arm.runs
            ]
            found: list[Json] = [gaps for gaps in per_run if gaps]
            if not found:
                continue
            notes += [note for gaps in found for note in gaps.get("notes") or []]
            known = [row for row in groups if row["group"] != "unknown"]
            worst = min(known, key=lambda row: float(row["auroc"]), default=None)
            gap = arm.metric("fairness", attribute, "auroc_gap")
            before = base.metric("fairness", attribute, "auroc_gap") if base else None
            rows.append(
                {
                    "arm": arm.name,
                    "worst": worst,
                    "auroc_gap": gap,
                    "change": gap - before
                    if gap is not None and before is not None and arm is not base
                    else None,
                    **{
                        key: arm.metric("fairness", attribute, key)
                        for key in (
                            "fnr_gap",
                            "statistical_parity_difference",
                            "equalised_odds_difference",
                            "pearson_size_auroc",
                        )
                    },
                    **_accuracy_gap(found),
                }
            )
        if rows:
            tables.append(
                {
                    "attribute": attribute,
                    "title": title,
                    "rows": rows,
                    "notes": list(dict.fromkeys(notes)),
                }
            )
    return tables


def _accuracy_gap(found: Sequence[Json]) -> Json:
    """The accuracy gap that is largest in size after each group's is averaged over seeds."""
    names = dict.fromkeys(name for gaps in found for name in gaps.get("accuracy_gaps") or {})
    means = {
        name: mean((gaps.get("accuracy_gaps") or {}).get(name) for gaps in found) for name in names
    }
    largest = max(means, key=lambda name: abs(means[name] or 0.0), default=None)
    return {
        "accuracy_gap": None if largest is None else means[largest],
        "accuracy_gap_group": largest,
    }


def cost(arm: Arm) -> dict[str, Any]:
    """Seconds by purpose and peak memory in MB, means over seeds."""
    total, other = arm.cost("seconds", "total"), arm.cost("seconds", "other")
    memory = arm.cost("peak_memory_bytes")
    return {
        "arm": arm.name,
        "rounds": arm.cost("rounds"),
        "total": total,
        "training": arm.cost("seconds", "training"),
        "evaluation": arm.cost("seconds", "evaluation"),
        "other": other,
        "share": other / total if total and other is not None else None,
        "memory": None if memory is None else memory / MEGABYTE,
    }


def changes(comparison: Comparison, arms: Sequence[Arm]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Per arm the settings that are not those of the experiment's base."""
    return [
        (
            arm.name,
            [
                (key, value)
                for key, value in sorted(arm.runs[0].config.items())
                if comparison.base.get(key) != value and key not in ("run.seed", "run.out")
            ],
        )
        for arm in arms
    ]


def merged(results: Sequence[Json], key: str) -> list[tuple[str, str]]:
    """Values of a table over all results; several values of one name are listed."""
    values: dict[str, list[str]] = {}
    for result in results:
        for name, value in (result.get(key) or {}).items():
            if str(value) not in values.setdefault(str(name), []):
                values[str(name)].append(str(value))
    return [(name, ", ".join(found)) for name, found in values.items()]


def machines(results: Sequence[Json]) -> list[str]:
    """The machines that the runs were made on, in words."""
    machines = []
    for result in results:
        machine = result.get("machine") or {}
        parts = [
            str(machine.get("cpu") or ""),
            f"{machine['cores']} cores" if machine.get("cores") else "",
            str(machine.get("gpu") or "no GPU") if machine else "",
            str(machine.get("system") or ""),
        ]
        machines.append(", ".join(part for part in parts if part))
    return [machine for machine in dict.fromkeys(machines) if machine]


def notes(arms: Sequence[Arm]) -> list[str]:
    """What the evaluation could not measure, per arm."""
    return list(dict.fromkeys(f"{arm.name}: {note}" for arm in arms for note in arm.notes()))


def plain(value: Any) -> str:
    """A count or a setting as text; a dash for None."""
    if value is None:
        return words.ABSENT
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and value < 1e15):
        return f"{int(value):,}"
    return f"{value:g}" if isinstance(value, float) else str(value)
