"""What all runs of a comparison together cost the same data: every one of them touched it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from fedmed.config import ARMS
from fedmed.privacy import accounting
from fedmed.privacy.mechanisms.step import Mechanism, gaussian, group_gaussian
from fedmed.privacy.statement import facts
from fedmed.privacy.statement.contents import Total
from fedmed.privacy.statement.facts import Changes, Facts, Relation

POOLED: Final = "pooled"
UNITS: Final[tuple[Literal["patient", "image", "hospital"], ...]] = (
    "patient",
    "image",
    "hospital",
)
EVALUATION: Final = "evaluation"
_RELATIONS: Final[dict[str, Relation]] = {
    EVALUATION: "add-or-remove",
    "patient": "add-or-remove",
    "image": "replace",
    "hospital": "replace",
}


def totals(
    statements: Mapping[str, Mapping[str, Any]],
    *,
    not_counted: Sequence[str] = (),
    extended: bool = False,
) -> list[Total]:
    """Totals per unit over the statements of a comparison's runs, by ``ARM/seed-N``.

    What a comparison runs is fixed in its file before the first run, so the privacy loss
    distributions of its runs compose; where it was ``extended`` after results were seen, no single
    theorem of composition holds, and the total is an odometer's (:func:`accounting.odometer`).
    ``not_counted`` are runs that may have spent and have no statement. Each hospital's own runs and
    the pooled runs, which hold its data too, are added up; the largest hospital's total is given,
    at the smallest delta above 0 of the runs in it. Runs that bound nothing for a unit (no privacy,
    a seed that is known, labels in the clear) are named instead. Evaluation patients have a total
    of their own: a comparison has one split, so nobody is in both.
    """
    per_unit = []
    for unit in (*UNITS, EVALUATION):
        told = dict(statements)
        if unit == EVALUATION:
            records = {run: s.get("evaluation") for run, s in statements.items()}
            told = {
                run: record for run, record in records.items() if record and record["hospitals"]
            }
            costs = {run: _evaluated(s) for run, s in told.items()}
        else:
            costs = {run: _costs(s, unit) for run, s in told.items()}
        added = [run for run, cost in costs.items() if cost]
        if not added:
            continue
        deltas = [float(told[run]["delta"] or 0.0) for run in added]
        delta = min((value for value in deltas if value), default=0.0)
        members = {m for run in added for m in costs[run]} - {POOLED} or {POOLED}
        evaluation = unit == EVALUATION
        about = f"{EVALUATION} patient" if evaluation else unit
        changes = _changes(unit, [statements[run] for run in added])
        per_unit.append(
            Total(
                unit="patient" if unit not in UNITS else unit,
                relation=_RELATIONS[unit],
                neighbouring=facts.neighbours(about, _RELATIONS[unit], changes),
                of="evaluation" if evaluation else "training",
                epsilon=max(_epsilon(costs, m, delta, extended) for m in members),
                delta=delta,
                theorem="odometer" if extended and delta else "composition",
                runs=added,
                not_bounded_by=[run for run, cost in costs.items() if not cost],
                not_counted=list(not_counted),
            )
        )
    return per_unit


def _changes(unit: str, added: Sequence[Mapping[str, Any]]) -> Changes:
    """What of a unit is replaced: of volumes voxels, of other images pixels."""
    if unit != "image":
        return "data"
    about = [Facts.model_validate(m["facts"]) for s in added for m in s["hospitals"]]
    return "voxels" if any(one.changes == "voxels" for one in about) else "pixels"


def _epsilon(
    costs: Mapping[str, Mapping[str, list[tuple[Mechanism, int]]]],
    member: str,
    delta: float,
    extended: bool,
) -> float:
    spent: dict[Mechanism, int] = {}
    pure: dict[tuple[str, Mechanism], int] = {}
    for run, cost in costs.items():
        # The noise of an image is drawn once for all seeds of an arm.
        arm = run.partition("/")[0]
        for name in dict.fromkeys((member, POOLED)):
            for step, count in cost.get(name, []):
                if step.kind == "laplace":
                    pure[arm, step] = max(pure.get((arm, step), 0), count)
                else:
                    spent[step] = spent.get(step, 0) + count
    releases: dict[Mechanism, int] = {}
    for (_, step), count in pure.items():
        releases[step] = releases.get(step, 0) + count
    everything = tuple(spent.items()) + tuple(releases.items())
    pure_sum = sum(step.pure_epsilon() * count for step, count in everything)
    if delta == 0:
        return pure_sum
    if extended:
        return min(pure_sum, accounting.odometer(accounting.rdp(everything), delta))
    return accounting.composed_epsilon(tuple(sorted(everything, key=str)), delta)


def _evaluated(record: Mapping[str, Any]) -> dict[str, list[tuple[Mechanism, int]]]:
    """Per hospital, what a run's histograms cost one evaluation patient; empty if unbounded."""
    if record["unit"] == "none" or record["epsilon"] is None:
        return {}
    spent = [(Mechanism.from_json(i["step"]), int(i["count"])) for i in record["spent"]]
    return {str(name): spent for name in record["hospitals"]}


def _costs(statement: Mapping[str, Any], unit: str) -> dict[str, list[tuple[Mechanism, int]]]:
    """Per member, what a run cost one ``unit``; empty where it bounds nothing for it."""
    if not ARMS[statement["arm"]].protects or statement["epsilon"] is None:
        return {}
    costs = {}
    for member in statement["hospitals"]:
        spent = [(Mechanism.from_json(i["step"]), int(i["count"])) for i in member["spent"]]
        seen = [(_seen(member, step, unit), count) for step, count in spent]
        if any(step is None for step, _ in seen):
            return {}
        costs[str(member["hospital"])] = [(step, count) for step, count in seen if step is not None]
    return costs


def _seen(member: Mapping[str, Any], step: Mechanism, unit: str) -> Mechanism | None:
    """A member's step as it looks from ``unit``; None where it bounds nothing for it."""
    about = Facts.model_validate(member["facts"])
    if about.unit == "hospital":
        # Replacing a hospital's data covers every patient and image in it; zeroing out is half.
        return gaussian(step.noise / 2) if about.relation == "zero-out" else step
    # Images are replaced, in a total: one that is added or removed says less.
    if about.unit == unit and (unit != "image" or about.relation == "replace"):
        return step
    cap = member["images_per_patient"]
    if about.unit == "image" and unit == "patient" and step.kind == "replace-gaussian" and cap:
        return group_gaussian(step.noise, step.rate, int(cap))
    return None
