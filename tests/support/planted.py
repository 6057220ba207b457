"""Results planted by their numbers alone, for what the report says of them.

An arm is planted with the AUROC and intervals that a case needs, without predictions or training.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]
Values = tuple[float, float, float]
"""A value with the two ends of its 95 % interval."""


@dataclass(frozen=True, kw_only=True)
class Planted:
    """One arm: `auroc` with its interval; `outer` is the interval with the luck of training.

    `groups` are AUROCs by attribute and group; `change` is the AUROC's difference from the
    baseline and `gaps` those of gaps by "attribute quantity": value, low, high, p, p after Holm.
    `alone` is that from hospitals alone, who reach 0.75 within hospitals.
    `films` is the cap of images per patient; `images` those of the 100 test patients.
    """

    name: str
    kind: str = "none"
    scheme: str = "federated"
    unit: str = "none"
    epsilon: float | None = None
    delta: float | None = None
    replaced: float | None = None
    of_patient: float | None = None
    trust: str = "everyone"
    auroc: Values | float = (0.8, 0.75, 0.85)
    outer: tuple[float, float] | None = None
    seeds: int = 1
    images: int = 100
    films: int | None = None
    groups: Mapping[str, Mapping[str, Values]] = field(default_factory=dict)
    change: Sequence[float | None] = ()
    gaps: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    alone: Sequence[float | None] = ()
    sensitivity: Values | None = None
    hospitals: Sequence[Json] = ()
    source: str = "predictions"

    @property
    def values(self) -> tuple[float, float | None, float | None]:
        """The AUROC and its interval, None where there is none."""
        return self.auroc if isinstance(self.auroc, tuple) else (self.auroc, None, None)


def plant(
    folder: Path,
    arms: Sequence[Planted],
    *,
    baseline: str = "none",
    places: Sequence[Json] = (),
) -> Path:
    """Write the results of these arms; with ``comparison.json`` where `baseline` names one.

    `places` are its differences between places of noise, guarantee by guarantee.
    """
    for arm in arms:
        for seed in range(arm.seeds):
            write(folder / arm.name / f"seed-{seed}" / "result.json", _result(arm, seed))
            write(folder / arm.name / f"seed-{seed}" / "privacy.json", _statement(arm))
    about = {"arms": [arm.name for arm in arms], "seeds": [0], "title": "Planted"}
    write(folder / "experiment.json", about)
    if baseline:
        compared = {**_comparison(arms, baseline), "places": list(places)}
        write(folder / "comparison.json", compared)
    return folder


def write(path: Path, value: Json) -> None:
    """Write one JSON file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def _result(arm: Planted, seed: int) -> Json:
    value, low, high = arm.values
    between = None if low is None else [low, high]
    return {
        "name": arm.name,
        "arm": arm.kind,
        "scheme": arm.scheme,
        "seed": seed,
        "epsilon": arm.epsilon,
        "delta": arm.delta,
        "unit": arm.unit,
        "trust": arm.trust,
        "metrics": {
            "source": arm.source,
            "auroc": value,
            "auroc_interval": between,
            "intervals": {"auroc": between},
            "n_test": arm.images,
            "patients_test": 100,
            "groups": {
                attribute: [_group(name, values) for name, values in groups.items()]
                for attribute, groups in arm.groups.items()
            },
            "fairness": {
                attribute: {"auroc_gap": _spread(groups), "notes": []}
                for attribute, groups in arm.groups.items()
            },
        },
    }


def _group(name: str, values: Values) -> Json:
    value, low, high = values
    return {
        "group": name,
        "n": 100,
        "positives": 40,
        "note": None,
        "auroc": value,
        "intervals": {"auroc": [low, high]},
    }


def _spread(groups: Mapping[str, Values]) -> float:
    values = [value for value, _, _ in groups.values()]
    return max(values) - min(values)


def _statement(arm: Planted) -> Json:
    return {
        "version": 3,
        "unit": arm.unit,
        "epsilon": arm.epsilon,
        "delta": arm.delta,
        "epsilon_replace_one": arm.replaced if arm.replaced is not None else arm.epsilon,
        "epsilon_patient": arm.of_patient,
        "images_per_patient": arm.films,
        "trust": arm.trust,
        "hospitals": list(arm.hospitals),
    }


def _comparison(arms: Sequence[Planted], baseline: str) -> Json:
    base = next(arm for arm in arms if arm.name == baseline)
    rows = [_row(arm, base, "metric", None, "auroc", arm.change) for arm in arms if arm.change]
    for arm in arms:
        for name, told in arm.gaps.items():
            attribute, quantity = name.split(" ")
            rows.append(_row(arm, base, "gap", attribute, quantity, told))
    return {
        "baseline": baseline,
        "unit": "patient",
        "resamples": 2000,
        "method": "bca",
        "by_arm": {arm.name: _by_arm(arm) for arm in arms},
        "differences": rows,
        "family": {"method": "Holm", "size": len(rows)},
        "alone": [_alone(arm) for arm in arms if arm.alone],
    }


def _alone(arm: Planted) -> Json:
    value, low, high, p, p_holm = arm.alone
    return {
        "arm": arm.name,
        "alone": "local-only",
        "quantity": "within_hospital_auroc",
        "before": 0.75,
        "after": 0.75 + (value or 0.0),
        "difference": {"value": value, "low": low, "high": high, "seeds": arm.seeds},
        "p": p,
        "p_holm": p_holm,
    }


def _by_arm(arm: Planted) -> Json:
    value, low, high = arm.values
    both = arm.outer or (None, None)
    told = {"value": value, "low": low, "high": high, "seeds": arm.seeds}
    metrics: Json = {"auroc": {**told, "both_low": both[0], "both_high": both[1]}}
    if arm.sensitivity is not None:
        metrics["sensitivity"] = dict(zip(("value", "low", "high"), arm.sensitivity, strict=True))
    return {"seeds": list(range(arm.seeds)), "metrics": metrics}


def _row(
    arm: Planted,
    base: Planted,
    kind: str,
    attribute: str | None,
    quantity: str,
    told: Sequence[float | None],
) -> Json:
    value, low, high, p, p_holm = told
    before, after = base.values[0], arm.values[0]
    if attribute is not None:
        before, after = (_spread(one.groups[attribute]) for one in (base, arm))
    return {
        "arm": arm.name,
        "baseline": base.name,
        "kind": kind,
        "attribute": attribute,
        "group": None,
        "quantity": quantity,
        "baseline_value": before,
        "value": after,
        "difference": {"value": value, "low": low, "high": high, "seeds": arm.seeds},
        "p": p,
        "p_holm": p_holm,
        "headline": True,
        "minimum_detectable": None,
    }
