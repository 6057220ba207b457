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
from fedmed.evaluation.fairness import compared, counts, gap_quantities
from fedmed.evaluation.intervals.estimates import estimate, estimate_gap, estimate_share
from fedmed.evaluation.intervals.gaps import limits
from fedmed.evaluation.intervals.intervals import interval
from fedmed.evaluation.intervals.quantity import Quantity
from fedmed.evaluation.intervals.resampling import SEED, Design, clusters, for_each_block
from fedmed.evaluation.measuring.measures import Column, Measured, measure
from fedmed.evaluation.summary import evaluate
from fedmed.evaluation.tables import groups
from fedmed.evaluation.thresholds import choose

PARTS = {"sex": ("F", "M"), "age": tuple(BANDS), "view": ("AP", "PA")}
GAPS = ("auroc_gap", "fnr_gap", "fpr_gap", "statistical_parity_difference")
METRICS = ("auroc", "fnr", "fpr", "sensitivity", "selection_rate", "accuracy", "ece")
NAMES = {"auroc": "AUROC", "fnr": "FNR", "fpr": "FPR", "selection_rate": "selection rate"}
Json = dict[str, Any]
Floats = npt.NDArray[np.float64]


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
        columns = []
        for seed, scores in enumerate(self.scores):
            rows = self.table.assign(score=scores)[~test]
            columns.append(
                Column(name=str(seed), scores=scores[test], threshold=choose(rows).youden)
            )
        return columns


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


def estimates(by: Measured) -> dict[str, Json]:
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


def at_one_fpr(scored: Scored, resamples: int) -> dict[str, Json]:
    """FNR of groups whose thresholds are their own: each has the false positive rate of all films.

    What is left when healthy films of one group look more ill than those of another, which the
    observer does not know, is taken away. Rates and thresholds are those of the test films, found
    again in each resample; intervals are percentiles. Added after the first table had been seen.
    """
    test = scored.test
    labels = test["label"].to_numpy(dtype=np.int64)
    design = Design.of(clusters(test["patient_id"]), labels)
    columns = scored.columns()
    members = {"sex": test["sex"], "age": groups.age_band(test["age"])}
    chosen = {
        name: (members[attribute] == name).to_numpy(dtype=bool)
        for attribute in members
        for name in PARTS[attribute]
    }
    missed = {name: np.empty((1 + resamples, len(columns))) for name in chosen}

    def work(where: slice, weights: Floats) -> None:
        of_images = weights[design.patient]
        for number, column in enumerate(columns):
            scores = np.asarray(column.scores)
            healthy = labels == 0
            called = healthy & (scores >= column.threshold)
            fpr = of_images[called].sum(axis=0) / of_images[healthy].sum(axis=0)
            for name, rows in chosen.items():
                rate = missed_at(scores, labels, rows, of_images, fpr)
                missed[name][where.start + 1 : where.stop + 1, number] = rate

    work(slice(-1, 0), np.ones((design.patients, 1)))
    for_each_block(design, resamples, SEED, work, threads=1)
    nobody = np.zeros((design.patients, len(columns)))
    names = tuple(column.name for column in columns)
    each = {n: Quantity(names, v[0], v[1:], lambda: nobody) for n, v in missed.items()}
    told = {f"FNR, {band}": estimate_share(each[band]) for band in BANDS}
    return {"FNR, F minus M": estimate(each["F"] - each["M"]), **told}


def missed_at(
    scores: Floats,
    labels: npt.NDArray[np.int64],
    rows: npt.NDArray[np.bool_],
    weights: Floats,
    fpr: Floats,
) -> Floats:
    """Share [resamples] of the ill among `rows` below the score that `fpr` of their healthy reach.

    `weights` [n, resamples]: how often each film is drawn; `fpr` [resamples].
    """
    healthy, ill = (np.flatnonzero(rows & (labels == label)) for label in (0, 1))
    healthy, ill = (which[np.argsort(-scores[which])] for which in (healthy, ill))
    drawn, ill_drawn = weights[healthy].cumsum(axis=0), weights[ill].cumsum(axis=0)
    reached = (drawn <= fpr * drawn[-1]).sum(axis=0)  # healthy films that are called ill
    above = np.searchsorted(-scores[ill], -scores[healthy])  # ill films above each healthy one
    last = above[np.minimum(reached, healthy.size - 1)]
    called = np.where(last > 0, ill_drawn[last - 1, np.arange(fpr.size)], 0.0)
    return np.asarray(1.0 - called / ill_drawn[-1])


def beside(
    by: Measured,
    scored: Scored,
    signals: Mapping[str, Ill],
    effects: Effects,
    hospitals: int,
) -> Json:
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
    rows = _rows(estimates(by), predicted)
    for row in rows:
        if row["name"] in share.index:
            row["from prevalence"] = rounded(float(share[row["name"]]))
    return {
        "overall": {name: rounded(estimate_share(value)) for name, value in overall.items()},
        "auroc by seed": [round(float(value), 4) for value in overall["auroc"].values],
        "test": {"images": by.images, "patients": by.patients, "ill": int(by.labels.sum())},
        "held": {signal: sum(row[f"{signal} held"] for row in rows) for signal in signals},
        "of": len(rows),
        "rows": rows,
        "at one fpr": _rows(at_one_fpr(scored, by.resamples), predicted),
    }


def _rows(told: Mapping[str, Json], predicted: Mapping[str, pd.Series]) -> list[Json]:
    rows = []
    for name, one in told.items():
        limit = limits_of(one)
        if limit is None:
            continue  # a band with too few films
        low, high = limit
        row: Json = {"name": name, "found": one["value"], "low": low, "high": high}
        row["training_sd"] = one["training_sd"]
        for signal, values in predicted.items():
            row[signal] = float(values[name])
            row[f"{signal} held"] = low <= row[signal] <= high
        rows.append(rounded(row))
    return rows


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
        without = [band for band in bands if band != YOUNG]  # of all bands the smallest
        for names, called in ((bands, "age"), (without, f"age without {YOUNG}")):
            for name, gap in gap_quantities(by, "age", names).items():
                if name in GAPS:
                    reach = limits(gap)
                    holds[f"{name}, {called}"] = reach is not None and reach[0] == 0.0
        yield holds


def rounded(value: Any) -> Any:
    """The same nested value with four digits after the point."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value
