"""Do the intervals cover? A simulation in which the true values are known.

    python -m experiments.coverage --replications 2000

Patients have one to three images. Scores are binormal with an effect of the patient; the disease
moves them by an amount that depends on sex, age band, arm (with noise: less, and least for one sex)
and training seed. Each replication draws a test sample and computes every interval as a comparison
does. Recorded is how often an interval holds the true value: for one seed and for the mean over
seeds that of the models at hand, for both sources together that of training again as well.
"""

import argparse
import json
import os
import platform
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

import fedmed
from fedmed.evaluation.fairness import gap_quantities
from fedmed.evaluation.intervals.delong import DeLong, delong
from fedmed.evaluation.intervals.estimates import (
    estimate,
    estimate_change,
    estimate_gap,
    p_change,
    p_value,
)
from fedmed.evaluation.intervals.gaps import Gap, without_gap
from fedmed.evaluation.intervals.intervals import both_sources, interval
from fedmed.evaluation.measuring.measures import Column, Measured, Quantity, measure

RESULT = Path(__file__).parent / "results" / "coverage.json"
Floats = npt.NDArray[np.float64]
Pair = tuple[Gap, Gap]

PATIENTS = 240
SEEDS = 5
SEXES = ("F", "M")
BANDS = ("0-29", "30-59", "60-69", "70-79")
GROUPS = {"sex": SEXES, "age": BANDS}
ONLY_NEGATIVE, ONLY_POSITIVE, BOTH = KINDS = (0.55, 0.25, 0.20)  # patients, by their images
PATIENT_SHARE = 0.3  # of the variance of a score
COMMON_SHARE = 0.5  # of the rest: common to arms and seeds
TRAINING_SD = 0.15  # of the disease's effect, between seeds
THRESHOLD = 0.9  # in standard deviations of the negatives
EFFECT = {"plain": {"F": 1.7, "M": 1.9}, "dp": {"F": 1.2, "M": 1.7}}
BAND_EFFECT = np.array([0.3, 0.1, 0.0, -0.4])
METRICS = ("auroc", "fnr", "accuracy")
NEEDED = (*METRICS, "sensitivity", "fpr", "selection_rate", "ece")
LOW, HIGH = 0.93, 0.97  # accepted coverage of a 95 % interval


def truth(luck: Mapping[str, Floats] | None, prevalence: float) -> dict[str, float]:
    """True value of every quantity, the mean over seeds of what `luck` [seeds] adds to the effect.

    None: over all seeds there might be. Negatives are standard normal in every group; groups are of
    equal size. Resamples keep the number of patients with and without disease, so that accuracy is
    that at the sample's own `prevalence`.
    """
    arms: dict[str, dict[str, Floats]] = {}  # [sexes, bands, seeds] by arm and metric
    variance = 0.0 if luck is not None else TRAINING_SD**2
    for arm, by_sex in EFFECT.items():
        sexes = np.array([by_sex[sex] for sex in SEXES])
        extra = np.zeros(1) if luck is None else luck[arm]
        effect = sexes[:, None, None] + BAND_EFFECT[None, :, None] + extra
        missed = norm.cdf((THRESHOLD - effect) / np.sqrt(1.0 + variance))
        arms[arm] = {
            "auroc": norm.cdf(effect / np.sqrt(2.0 + variance)),
            "fnr": missed,
            "accuracy": prevalence * (1.0 - missed) + (1.0 - prevalence) * norm.cdf(THRESHOLD),
        }
    result = {}
    for name in METRICS:
        plain, dp = arms["plain"][name].mean(axis=2), arms["dp"][name].mean(axis=2)
        result[name] = plain.mean()
        result[f"{name} of a group"] = dp[0].mean()
        result[f"{name} change"] = dp.mean() - plain.mean()
        result[f"{name} of F minus M"] = dp[0].mean() - dp[1].mean()
        result[f"{name} of F minus M, change"] = (dp[0] - dp[1]).mean() - (
            plain[0] - plain[1]
        ).mean()
        for attribute, other in (("sex", 1), ("age", 0)):
            gaps = {arm: _gap(cells[name].mean(axis=other), name, attribute)
                    for arm, cells in arms.items()}  # fmt: skip
            result[f"{name}_gap of {attribute}"] = gaps["dp"].mean()
            result[f"{name}_gap of {attribute}, change"] = (gaps["dp"] - gaps["plain"]).mean()
    return {name: float(value) for name, value in result.items()}


def _gap(groups: Floats, name: str, attribute: str) -> Floats:
    """Gap by seed [seeds] from true values [groups, seeds], as fairness.gap_quantities has it."""
    if name != "accuracy":
        return np.asarray(np.ptp(groups, axis=0))
    if attribute == "sex":
        return np.asarray(groups[0] - groups[1])
    others = (groups.sum(axis=0) - groups) / (len(groups) - 1)
    return np.asarray(np.abs(groups - others).max(axis=0))


def sample(
    generator: np.random.Generator, resamples: int
) -> tuple[Measured, dict[str, Floats], npt.NDArray[np.int64]]:
    """One test sample, measured; what the seeds' luck adds to the effect; each image's patient."""
    patient = np.repeat(np.arange(PATIENTS), generator.integers(1, 4, PATIENTS))
    n = patient.size
    sex = generator.integers(0, len(SEXES), PATIENTS)[patient]
    band = generator.integers(0, len(BANDS), PATIENTS)[patient]
    kind = generator.choice(3, PATIENTS, p=KINDS)[patient]
    labels = np.where(kind == 2, generator.integers(0, 2, n), kind)
    shared = np.sqrt(PATIENT_SHARE) * generator.normal(size=PATIENTS)[patient]
    rest = 1.0 - PATIENT_SHARE
    shared = shared + np.sqrt(rest * COMMON_SHARE) * generator.normal(size=n)
    luck = {arm: TRAINING_SD * generator.normal(size=SEEDS) for arm in EFFECT}
    columns = []
    for arm, by_sex in EFFECT.items():
        effect = np.array([by_sex[name] for name in SEXES])[sex] + BAND_EFFECT[band]
        for seed in range(SEEDS):
            own = np.sqrt(rest * (1.0 - COMMON_SHARE)) * generator.normal(size=n)
            score = norm.cdf(labels * (effect + luck[arm][seed]) + shared + own - THRESHOLD)
            columns.append(Column(name=f"{arm}/{seed}", scores=score, threshold=0.5))
    measured = measure(
        columns,
        labels,
        patient,
        {"sex": np.array(SEXES)[sex], "age": np.array(BANDS)[band]},
        resamples=resamples,
        seed=int(generator.integers(2**31)),
        metrics=NEEDED,
        threads=1,
    )
    return measured, luck, patient


def estimates(measured: Measured) -> Iterator[tuple[str, Quantity, Gap | None, Pair | None]]:
    """Name, quantity with a column per seed, the gap if it is one, both if a change of two."""
    plain, dp = ([f"{arm}/{seed}" for seed in range(SEEDS)] for arm in EFFECT)
    gaps = {name: gap_quantities(measured, name, groups) for name, groups in GROUPS.items()}
    for name in METRICS:
        overall = measured.quantity(name)
        apart = measured.quantity(name, "sex", "F") - measured.quantity(name, "sex", "M")
        yield name, overall.select(plain), None, None
        yield f"{name} of a group", measured.quantity(name, "sex", "F").select(dp), None, None
        yield f"{name} of F minus M", apart.select(dp), None, None
        for what, quantity in ((name, overall), (f"{name} of F minus M,", apart)):
            yield f"{what} change", quantity.select(dp) - quantity.select(plain), None, None
        for attribute in GROUPS:
            gap = gaps[attribute][f"{name}_gap"]
            called = f"{name}_gap of {attribute}"
            yield called, gap.quantity.select(dp), gap.select(dp), None
            change = gap.quantity.select(dp) - gap.quantity.select(plain)
            both = (gap.select(plain), gap.select(dp)) if gap.contrasts else None
            yield f"{called}, change", change, None, both


def replicate(generator: np.random.Generator, resamples: int) -> Iterator[tuple[str, str, bool]]:
    """One test sample: (quantity, kind of interval or p-value, whether it held the true value)."""
    measured, luck, patient = sample(generator, resamples)
    labels = measured.labels
    prevalence = float(labels.mean())
    first = truth({arm: extra[:1] for arm, extra in luck.items()}, prevalence)
    at_hand, ever = truth(luck, prevalence), truth(None, prevalence)
    for name, quantity, gap, changed in estimates(measured):
        one = quantity.select(quantity.columns[:1])
        if gap is not None:
            told, single = estimate_gap(gap), estimate_gap(gap.select(one.columns))
        else:
            told, single = _told(quantity, changed), _told(one, changed)
        yield name, "one seed", _holds(single["low"], single["high"], first[name])
        yield name, "mean of seeds", _holds(told["low"], told["high"], at_hand[name])
        both = both_sources(quantity, told["low"], told["high"])
        yield name, "both sources", both is not None and _holds(*both, ever[name])
        if gap is None or not gap.contrasts:
            moved = _minus(one, first[name])
            p = p_change(moved, _null(one, changed)) if changed else p_value(moved)
            yield name, "one seed, p above 0.05", p is not None and p > 0.05
            if not changed:
                percentile = interval(one, method="percentile")
                fine = _holds(percentile.low, percentile.high, first[name])
                yield name, "one seed, percentile", fine
    # One image per patient, as DeLong's formula asks for.
    chosen = np.unique(patient, return_index=True)[1]
    for scale in ("logit", "plain"):
        area = delong(labels[chosen], measured.scored[0].scores[chosen], logit=scale == "logit")
        fine = isinstance(area, DeLong) and area.low <= first["auroc"] <= area.high
        yield "auroc", f"one seed, DeLong, {scale} scale", fine


def _told(quantity: Quantity, changed: Pair | None) -> dict[str, Any]:
    return estimate_change(quantity, _null(quantity, changed)) if changed else estimate(quantity)


def _null(quantity: Quantity, changed: Pair) -> Floats:
    """Of the first columns of both gaps, as many as the change has."""
    plain, dp = (gap.select(gap.quantity.columns[: len(quantity.columns)]) for gap in changed)
    return without_gap(dp) - without_gap(plain)


def _minus(quantity: Quantity, value: float) -> Quantity:
    """The quantity less its true value, so that a test of zero is a test of the truth."""
    return Quantity(
        quantity.columns,
        quantity.values - value,
        quantity.samples - value,
        lambda: quantity.influence,
    )


def _holds(low: float | None, high: float | None, value: float) -> bool:
    """Whether the interval holds the value; one that does not exist holds nothing."""
    return low is not None and high is not None and low <= value <= high


def main() -> None:
    """Run the replications and write the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replications", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    held: Counter[tuple[str, str]] = Counter()
    started, busy = time.time(), time.process_time()
    for stream in np.random.SeedSequence(arguments.seed).spawn(arguments.replications):
        for name, kind, fine in replicate(np.random.default_rng(stream), arguments.resamples):
            held[name, kind] += fine
    coverage: dict[str, dict[str, float]] = {}
    for (name, kind), count in held.items():
        coverage.setdefault(kind, {})[name] = round(count / arguments.replications, 4)
    outside: dict[str, list[str]] = {"below": [], "above": []}
    for kind, by_name in coverage.items():
        for name, value in by_name.items():
            if not LOW <= value <= HIGH:
                side = "below" if value < LOW else "above"
                outside[side].append(f"{kind}: {name} {value}")
    result: dict[str, Any] = {
        "replications": arguments.replications,
        "resamples": arguments.resamples,
        "seed": arguments.seed,
        "level": 0.95,
        "standard_error": round((0.95 * 0.05 / arguments.replications) ** 0.5, 4),
        "accepted": [LOW, HIGH],
        "settings": {
            "patients": PATIENTS,
            "images_per_patient": [1, 3],
            "seeds": SEEDS,
            "patients_by_kind": dict(zip(("negative", "positive", "both"), KINDS, strict=True)),
            "patient_share": PATIENT_SHARE,
            "common_share": COMMON_SHARE,
            "training_sd": TRAINING_SD,
            "threshold": THRESHOLD,
            "effect": EFFECT,
            "band_effect": dict(zip(BANDS, BAND_EFFECT.tolist(), strict=True)),
        },
        "truth": {
            name: round(value, 5) for name, value in truth(None, ONLY_POSITIVE + BOTH / 2.0).items()
        },
        "coverage": coverage,
        "outside": outside,
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": round(time.time() - started, 1),
        "processor_seconds": round(time.process_time() - busy, 1),
        "versions": {name: version(name) for name in ("numpy", "scipy")}
        | {"fedmed": fedmed.__version__, "python": platform.python_version()},
        "machine": {"system": platform.platform(), "processors": os.cpu_count()},
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
