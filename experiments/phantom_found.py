"""What the evaluation finds on the phantom, beside what is predicted from the truth."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from experiments import phantom_truth
from experiments.phantom_truth import BANDS, OLD, YOUNG, Ill
from fedmed.data.sources.phantom import Effects
from fedmed.evaluation import evaluate, groups
from fedmed.evaluation.estimates import estimate, estimate_gap, estimate_share
from fedmed.evaluation.fairness import compared, counts, gap_quantities
from fedmed.evaluation.gaps import limits
from fedmed.evaluation.intervals import interval
from fedmed.evaluation.measures import Column, Measured, measure
from fedmed.evaluation.resampling import clusters
from fedmed.evaluation.thresholds import choose

PARTS = {"sex": ("F", "M"), "age": tuple(BANDS), "view": ("AP", "PA")}
GAPS = ("auroc_gap", "fnr_gap", "fpr_gap", "statistical_parity_difference")
METRICS = ("auroc", "fnr", "fpr", "sensitivity", "selection_rate", "accuracy", "ece")
NAMES = {"auroc": "AUROC", "fnr": "FNR", "fpr": "FPR", "selection_rate": "selection rate"}
Json = dict[str, Any]


@dataclass(frozen=True)
class Scored:
    """Validation and test rows, and the scores [n] of each seed's model for them."""

    table: pd.DataFrame
    scores: tuple[npt.NDArray[np.float64], ...]

    @property
    def test(self) -> pd.DataFrame:
        """The test rows."""
        return self.table[self.table["split"] == "test"].reset_index(drop=True)

    def columns(self) -> list[Column]:
        """The test scores of each seed, with its threshold from validation (Youden's index)."""
        test = (self.table["split"] == "test").to_numpy()
        found = []
        for seed, scores in enumerate(self.scores):
            rows = self.table.assign(score=scores)[~test]
            found.append(Column(name=str(seed), scores=scores[test], threshold=choose(rows).youden))
        return found


def measured(scored: Scored, resamples: int) -> Measured:
    """All seeds on the test films, by sex, age band and view; patients are resampled."""
    test = scored.test
    members = {name: text for name, text in groups.of(test).items() if name in PARTS}
    return measure(
        scored.columns(),
        test["label"].to_numpy(dtype=np.int64),
        clusters(test["patient_id"]),
        {name: text.to_numpy(dtype=object) for name, text in members.items()},
        resamples=resamples,
        metrics=METRICS,
        threads=1,
    )


def found(by: Measured) -> dict[str, Json]:
    """Estimates, over seeds, of what :func:`phantom_truth.predict` predicts, by the same names."""
    told: dict[str, Json] = {}
    for attribute, first, second in (("sex", "F", "M"), ("view", "AP", "PA"), ("age", OLD, YOUNG)):
        for metric, name in NAMES.items():
            apart = by.quantity(metric, attribute, first) - by.quantity(metric, attribute, second)
            if attribute != "age" or metric == "selection_rate":
                told[f"{name}, {first} minus {second}"] = estimate(apart)
    for metric in ("auroc", "fnr", "fpr"):
        for band in BANDS:
            told[f"{NAMES[metric]}, {band}"] = estimate_share(by.quantity(metric, "age", band))
    for attribute in ("sex", "age"):
        gaps = gap_quantities(by, attribute, PARTS[attribute])
        told |= {f"{name}, {attribute}": estimate_gap(gaps[name]) for name in GAPS}
    return told


def beside(by: Measured, signals: Mapping[str, Ill], effects: Effects, hospitals: int) -> Json:
    """What is found over all films, and a row per quantity: predicted, found, whether it is held.

    The observer of a prediction is fitted to each seed; a row has the mean over seeds. `low` and
    `high`: 95 %, test patients and training together (with one seed: test patients).
    """
    overall = {name: by.quantity(name) for name in ("auroc", "fpr", "sensitivity")}
    each = list(zip(*(overall[name].values for name in overall), strict=True))
    predicted = {
        signal: pd.DataFrame(
            [phantom_truth.predict(ill, effects, hospitals, *one[:2]) for one in each]
        ).mean()
        for signal, ill in signals.items()
    }
    share = pd.DataFrame(
        [phantom_truth.from_prevalence(effects, hospitals, one[2], one[1]) for one in each]
    ).mean()
    rows = []
    for name, told in found(by).items():
        limit = limits_of(told)
        if limit is None:
            continue  # a band with too few films
        low, high = limit
        row: Json = {"name": name, "found": told["value"], "low": low, "high": high}
        row["training_sd"] = told["training_sd"]
        for signal, values in predicted.items():
            row[signal] = float(values[name])
            row[f"{signal} held"] = low <= row[signal] <= high
        if name in share.index:
            row["from prevalence"] = float(share[name])
        rows.append(rounded(row))
    return {
        "overall": {name: rounded(estimate_share(value)) for name, value in overall.items()},
        "auroc by seed": [round(float(value), 4) for value in overall["auroc"].values],
        "test": {"images": by.images, "patients": by.patients, "ill": int(by.labels.sum())},
        "held": {signal: sum(row[f"{signal} held"] for row in rows) for signal in signals},
        "of": len(rows),
        "rows": rows,
    }


def limits_of(told: Json) -> tuple[float, float] | None:
    """The widest interval of an estimate that there is."""
    kind = "" if told["both_low"] is None else "both_"
    low, high = told[f"{kind}low"], told[f"{kind}high"]
    return None if low is None or high is None else (low, high)


def gaps_of_seeds(scored: Scored, resamples: int) -> list[Json]:
    """The gaps of each seed's own metrics, as every run has them, with their intervals."""
    rows = []
    for seed, scores in enumerate(scored.scores):
        fairness = evaluate(scored.table.assign(score=scores), resamples=resamples)["fairness"]
        for attribute in ("sex", "age"):
            row: Json = {"seed": seed, "by": attribute}
            for name in GAPS:
                reach = fairness[attribute]["intervals"][name] or [None, None]
                row[name] = rounded([fairness[attribute][name], *reach])
            rows.append(row)
    return rows


def dealt_again(scored: Scored, times: int, resamples: int, seed: int) -> Iterator[dict[str, bool]]:
    """Age and sex of the test patients dealt at random: which intervals of one model hold zero.

    By sex of the difference, women minus men; by age of the gap between the bands. Patients keep
    their films, diseases and scores, and have one age and one sex, as before.
    """
    test, column = scored.test, scored.columns()[:1]
    labels = test["label"].to_numpy(dtype=np.int64)
    patients = clusters(test["patient_id"])
    first = np.unique(patients, return_index=True)[1]
    known = {"sex": test["sex"], "age": groups.age_band(test["age"])}
    each = {name: text.to_numpy(dtype=object)[first] for name, text in known.items()}
    for stream in np.random.SeedSequence(seed).spawn(times):
        generator = np.random.default_rng(stream)
        order = generator.permutation(first.size)
        members = {name: values[order][patients] for name, values in each.items()}
        by = measure(
            column,
            labels,
            patients,
            members,
            resamples=resamples,
            seed=int(generator.integers(2**31)),
            metrics=METRICS,
            threads=1,
        )
        holds = {}
        for metric, name in NAMES.items():
            apart = by.quantity(metric, "sex", "F") - by.quantity(metric, "sex", "M")
            limit = interval(apart)
            low, high = limit.low, limit.high
            holds[f"{name}, F minus M"] = (
                low is not None and high is not None and low <= 0.0 <= high
            )
        bands = compared(counts(labels, patients, pd.Series(members["age"])))
        for name, gap in gap_quantities(by, "age", bands).items():
            if name in GAPS:
                reach = limits(gap)
                holds[f"{name}, age"] = reach is not None and reach[0] == 0.0
        yield holds


def rounded(value: Any) -> Any:
    """The same nested value with four digits after the point."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value
