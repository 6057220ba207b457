"""What hospitals found where they evaluated the model, and what that cost their patients."""

from __future__ import annotations

from collections.abc import Sequence

from fedmed.report import absent
from fedmed.report.arms import Arm
from fedmed.report.evidence import Estimate
from fedmed.report.reading import Json, Number, mean, number, pair, table, texts


def at_hospitals(arms: Sequence[Arm]) -> list[Json]:
    """A row per arm that hospitals evaluated by histograms; means over seeds.

    `server` is the AUROC on the server's own test images, where the arm was evaluated there too.
    """
    told = []
    for arm in arms:
        alone = absent.from_histograms(arm)
        key = "metrics" if alone else "federated_evaluation"
        evaluations = [table(result, key) for result in arm.results if table(result, key)]
        if not evaluations:
            continue
        noise = [table(one, "noise") for one in evaluations]
        ends = [pair(one.get("auroc_interval")) for one in evaluations]
        bounds = [pair(one.get("auroc_bounds")) for one in evaluations]
        told.append(
            {
                "arm": arm.name,
                "auroc": Estimate(
                    value=mean(one.get("auroc") for one in evaluations),
                    low=mean(low for low, _ in ends),
                    high=mean(high for _, high in ends),
                ),
                "bounds": (mean(low for low, _ in bounds), mean(high for _, high in bounds)),
                "hospital_mean": mean(
                    one.get("within_hospital_auroc", one.get("hospital_auroc_mean"))
                    for one in evaluations
                ),  # the second: as earlier runs have it
                "server": None if alone else arm.auroc,
                "sent": _range([len(texts(one, "hospitals")) for one in evaluations]),
                "missing": sorted({name for one in evaluations for name in table(one, "missing")}),
                "epsilon": _worst([number(one.get("epsilon")) for one in noise]),
                "delta": _worst([number(one.get("delta")) for one in noise]),
                "notes": [] if alone else [n for one in evaluations for n in texts(one, "notes")],
            }
        )
    return told


def _worst(values: Sequence[Number]) -> Number:
    """The largest over seeds; None as soon as one has none."""
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
