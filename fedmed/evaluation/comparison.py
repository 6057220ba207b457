"""Arms against a baseline on the same test images: what each changes, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.stats import norm

from fedmed.errors import UserError
from fedmed.evaluation import correlations, fairness
from fedmed.evaluation.delong import covariances, delong
from fedmed.evaluation.estimates import (
    difference,
    estimate,
    estimate_change,
    estimate_gap,
    p_change,
    p_value,
)
from fedmed.evaluation.gaps import Gap
from fedmed.evaluation.intervals import LEVEL, detectable, holm, standard_error
from fedmed.evaluation.measures import RESAMPLES, SEED
from fedmed.evaluation.pairing import Paired, Tables, pair
from fedmed.evaluation.panel import MacroPanel, Panel, SinglePanel, paired_targets, panels
from fedmed.evaluation.quantity import Quantity

METRICS: Final = ("auroc", "auprc", "sensitivity", "specificity", "accuracy", "ece", "brier")
GROUP_METRICS: Final = ("auroc", "fnr", "fpr", "accuracy")
HEADLINE_ATTRIBUTES: Final = ("sex", "age")
HEADLINE_GAPS: Final = (
    "auroc_gap",
    "fnr_gap",
    "statistical_parity_difference",
    "equalised_odds_difference",
    "accuracy_gap",
)
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One quantity of every run: a metric, a group's metric, or a gap."""

    kind: str
    attribute: str | None
    group: str | None
    name: str
    quantity: Quantity
    gap: Gap | None = None

    @property
    def largest(self) -> bool:
        """Whether it is a largest difference, whose resamples are biased."""
        return self.gap is not None and len(self.gap.contrasts) > 0

    @property
    def headline(self) -> bool:
        """Whether its difference is one of the family that p-values are adjusted over."""
        if self.kind == "gap":
            return self.attribute in HEADLINE_ATTRIBUTES and self.name in HEADLINE_GAPS
        return self.kind == "metric" and self.name == "auroc"


def compare(
    tables: Tables,
    baseline: str,
    epsilons: Mapping[str, float | None],
    *,
    units: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Json:
    """Compare the runs of several arms on one set of test images, ready for JSON.

    `tables` holds a predictions table per arm and seed. Every run keeps the threshold of its own
    validation rows; all see the same resamples of patients. `epsilons` by arm (None: no guarantee)
    and `units` (whose data an epsilon protects) serve the correlation with gaps, which is taken
    within a unit. Raises UserError for an unknown baseline, for runs with different test images,
    labels or patients, and for bad tables.
    """
    if baseline not in tables:
        raise UserError(f"no arm '{baseline}' to compare with; use one of {', '.join(tables)}")
    paired = pair(tables)
    by_target = panels(paired.tests, paired.columns, resamples=resamples, seed=seed)
    first = next(iter(by_target.values()))
    panel: Panel = first
    if len(by_target) > 1:
        panel = MacroPanel(by_target, paired_targets(paired.tests))
    items = list(_items(panel))
    by_arm = {arm: _arm(panel, items, runs, by_target) for arm, runs in paired.runs.items()}
    found, notes = _differences(items, paired, baseline, by_target)
    epsilon = correlations.epsilon_and_gap(by_arm, epsilons, units or {})
    return {
        "baseline": baseline,
        "arms": list(paired.runs),
        "level": LEVEL,
        "resamples": resamples,
        "method": "bca",
        "unit": "patient",
        "images": len(first.labels),
        "patients": len(set(first.patients.tolist())),
        "positives": int(first.labels.sum()) if len(by_target) == 1 else None,
        "by_arm": by_arm,
        "differences": found,
        "family": {
            "method": "Holm",
            "size": sum(row["headline"] and row["p"] is not None for row in found),
            "members": "the headline differences",
        },
        "correlations": [*correlations.by_target(by_target, paired.runs, baseline), *epsilon],
        "notes": [*paired.notes, *notes, *_left_out(panel)],
    }


def _items(panel: Panel) -> Iterator[Item]:
    for name in METRICS:
        quantity = panel.quantity(name)
        yield Item(kind="metric", attribute=None, group=None, name=name, quantity=quantity)
    for attribute, counts in panel.counts.items():
        for count in counts:
            for name in GROUP_METRICS if count.note is None else ():
                quantity = panel.quantity(name, attribute, count.group)
                yield Item(
                    kind="group",
                    attribute=attribute,
                    group=count.group,
                    name=name,
                    quantity=quantity,
                )
        for name, gap in panel.gaps(attribute).items():
            yield Item(
                kind="gap",
                attribute=attribute,
                group=None,
                name=name,
                quantity=gap.quantity,
                gap=gap,
            )


def _arm(
    panel: Panel,
    items: list[Item],
    runs: Mapping[int, str],
    by_target: Mapping[str, SinglePanel],
) -> Json:
    names = list(runs.values())
    groups: Json = {
        attribute: {
            count.group: {
                "n": count.n,
                "positives": count.positives,
                "negatives": count.negatives,
                "note": count.note,
                **dict.fromkeys(GROUP_METRICS),
            }
            for count in counts
        }
        for attribute, counts in panel.counts.items()
    }
    gaps: Json = {attribute: dict.fromkeys(fairness.GAPS) for attribute in panel.counts}
    metrics: Json = {}
    for item in items:
        place = metrics
        if item.attribute is not None:
            of = groups if item.kind == "group" else gaps
            place = of[item.attribute] if item.group is None else of[item.attribute][item.group]
        place[item.name] = (
            estimate(item.quantity.select(names))
            if item.gap is None
            else estimate_gap(item.gap.select(names))
        )
    result = {"seeds": list(runs), "metrics": metrics, "groups": groups, "gaps": gaps}
    if len(by_target) > 1:
        result["targets"] = {
            target: {"auroc": estimate(single.quantity("auroc").select(names))}
            for target, single in by_target.items()
        }
    return result


def _differences(
    items: list[Item], paired: Paired, baseline: str, by_target: Mapping[str, SinglePanel]
) -> tuple[list[Json], list[str]]:
    """Every item of every arm minus the baseline's, p-values adjusted over the headline ones."""
    theirs = paired.runs[baseline]
    found: list[Json] = []
    notes: list[str] = []
    for arm, runs in paired.runs.items():
        if arm == baseline:
            continue
        common = [seed for seed in runs if seed in theirs]
        if not common:
            notes.append(f"{arm} and {baseline} have no seed in common: means are subtracted")
        elif set(runs) != set(theirs):
            listed = ", ".join(str(seed) for seed in common)
            notes.append(f"differences of {arm} and {baseline} are over common seeds ({listed})")
        for item in items:
            change, (value, base) = difference(item.quantity, runs, theirs)
            found.append(
                {
                    "arm": arm,
                    "baseline": baseline,
                    "kind": item.kind,
                    "attribute": item.attribute,
                    "group": item.group,
                    "quantity": item.name,
                    "baseline_value": base,
                    "value": value,
                    "difference": estimate_change(change) if item.largest else estimate(change),
                    "p": p_change(change) if item.largest else p_value(change),
                    "p_holm": None,
                    "delong_p": None,
                    "headline": item.headline,
                    "minimum_detectable": detectable(standard_error(change.mean())),
                }
            )
            if item.kind == "metric" and item.name == "auroc" and len(by_target) == 1:
                tested = _delong(paired, runs, theirs, next(iter(by_target.values())))
                if isinstance(tested, str):
                    notes.append(f"no DeLong test: {tested}")
                else:
                    found[-1]["delong_p"] = tested
    headline = [row for row in found if row["headline"]]
    for row, adjusted in zip(headline, holm([row["p"] for row in headline]), strict=True):
        row["p_holm"] = adjusted
    return found, list(dict.fromkeys(notes))


def _delong(
    paired: Paired, runs: Mapping[int, str], theirs: Mapping[int, str], panel: SinglePanel
) -> float | str | None:
    """DeLong's p-value of equal mean AUROC over common seeds, or why there is none.

    A contrast of correlated AUROCs (DeLong et al. 1988, section 3). None where they do not differ.
    """
    common = [seed for seed in runs if seed in theirs]
    if not common:
        return "the arms have no seed in common"
    scores = {column.name: column.scores for column in next(iter(paired.columns.values()))}
    names = [side[seed] for side in (runs, theirs) for seed in common]
    refused = delong(panel.labels, scores[names[0]], panel.patients)
    if isinstance(refused, str):
        return refused
    areas, covariance = covariances(panel.labels, np.array([scores[name] for name in names]))
    weights = np.repeat([1.0, -1.0], len(common)) / len(common)
    variance = float(weights @ covariance @ weights)
    if variance <= 1e-14 * float(np.trace(covariance)):  # equal rankings, up to rounding
        return None
    return 2.0 * float(norm.sf(abs(float(weights @ areas)) / math.sqrt(variance)))


def _left_out(panel: Panel) -> list[str]:
    return [
        f"{attribute}: {note}"
        for attribute, counts in panel.counts.items()
        for note in fairness.left_out(counts)
    ]
