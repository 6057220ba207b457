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

from fedmed.evaluation.delong import DeLong, delong
from fedmed.evaluation.intervals import Interval, combined, interval, p_value
from fedmed.evaluation.measures import Column, Measured, Quantity, measure, spread

RESULT = Path(__file__).parent / "results" / "coverage.json"
Floats = npt.NDArray[np.float64]

PATIENTS = 240
SEEDS = 5
SEXES = ("F", "M")
BANDS = ("0-29", "30-59", "60-69", "70-79")
ONLY_NEGATIVE, ONLY_POSITIVE, BOTH = KINDS = (0.55, 0.25, 0.20)  # patients, by their images
PATIENT_SHARE = 0.3  # of the variance of a score
COMMON_SHARE = 0.5  # of the rest: common to arms and seeds
TRAINING_SD = 0.15  # of the disease's effect, between seeds
THRESHOLD = 0.9  # in standard deviations of the negatives
EFFECT = {"plain": {"F": 1.7, "M": 1.9}, "dp": {"F": 1.2, "M": 1.7}}
BAND_EFFECT = np.array([0.3, 0.1, 0.0, -0.4])
METRICS = ("auroc", "fnr", "accuracy")
LOW, HIGH = 0.93, 0.97  # accepted coverage of a 95 % interval


def truth(luck: Mapping[str, Floats] | None) -> dict[str, float]:
    """True value of every quantity, the mean over seeds of what `luck` [seeds] adds to the effect.

    None: over all seeds there might be. Negatives are standard normal in every group; groups are of
    equal size.
    """
    values: dict[tuple[str, str, str], float] = {}  # arm, metric, group
    for arm, by_sex in EFFECT.items():
        extra, variance = (0.0, TRAINING_SD**2) if luck is None else (luck[arm], 0.0)
        sexes = np.array([by_sex[sex] for sex in SEXES])
        effect = sexes[:, None, None] + BAND_EFFECT[None, :, None] + np.atleast_1d(extra)
        prevalence = ONLY_POSITIVE + BOTH / 2.0
        missed = norm.cdf((THRESHOLD - effect) / np.sqrt(1.0 + variance))
        correct = prevalence * (1.0 - missed) + (1.0 - prevalence) * norm.cdf(THRESHOLD)
        areas = norm.cdf(effect / np.sqrt(2.0 + variance))
        for name, cells in zip(METRICS, (areas, missed, correct), strict=True):
            mean = cells.mean(axis=2)
            values[arm, name, ""] = float(mean.mean())
            for index, sex in enumerate(SEXES):
                values[arm, name, sex] = float(mean[index].mean())
            for index, band in enumerate(BANDS):
                values[arm, name, band] = float(mean[:, index].mean())
    result = {}
    for name in METRICS:
        gap, reach = {}, {}
        for arm in EFFECT:
            gap[arm] = values[arm, name, "F"] - values[arm, name, "M"]
            bands = [values[arm, name, band] for band in BANDS]
            reach[arm] = max(bands) - min(bands)
        result[f"{name}"] = values["plain", name, ""]
        result[f"{name} of a group"] = values["dp", name, "F"]
        result[f"{name} gap"] = gap["dp"]
        result[f"{name} change"] = values["dp", name, ""] - values["plain", name, ""]
        result[f"{name} gap change"] = gap["dp"] - gap["plain"]
        result[f"{name} range of four groups"] = reach["dp"]
        result[f"{name} range change"] = reach["dp"] - reach["plain"]
    return result


def estimates(measured: Measured) -> dict[str, Quantity]:
    """The same quantities measured, one column per seed."""
    arms = {arm: [f"{arm}/{seed}" for seed in range(SEEDS)] for arm in EFFECT}
    result = {}
    for name in METRICS:
        overall = measured.quantity(name)
        gap = measured.quantity(name, "sex", "F") - measured.quantity(name, "sex", "M")
        reach = spread([measured.quantity(name, "age", band) for band in BANDS])
        result[f"{name}"] = overall.select(arms["plain"])
        result[f"{name} of a group"] = measured.quantity(name, "sex", "F").select(arms["dp"])
        result[f"{name} gap"] = gap.select(arms["dp"])
        for kind, quantity in (
            (" change", overall),
            (" gap change", gap),
            (" range change", reach),
        ):
            change = quantity.select(arms["dp"]) - quantity.select(arms["plain"])
            result[f"{name}{kind}"] = change
        result[f"{name} range of four groups"] = reach.select(arms["dp"])
    return result


def replicate(generator: np.random.Generator, resamples: int) -> Iterator[tuple[str, str, bool]]:
    """One test sample: (quantity, kind of interval or p-value, whether it held the true value)."""
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
        metrics=METRICS,
        threads=1,
    )
    first, at_hand = truth({arm: extra[:1] for arm, extra in luck.items()}), truth(luck)
    ever = truth(None)
    for name, quantity in estimates(measured).items():
        for method in ("bca", "percentile"):
            yield name, f"one seed, {method}", holds(interval(quantity, method=method), first[name])
            mean = interval(quantity.mean(), method=method)
            yield name, f"mean of seeds, {method}", holds(mean, at_hand[name])
            both = combined(quantity, method=method)
            yield name, f"both sources, {method}", holds(both, ever[name])
        p = p_value(quantity, null=first[name])
        yield name, "one seed, p above 0.05", p is not None and p > 0.05
    # One image per patient, as DeLong's formula asks for.
    chosen = np.unique(patient, return_index=True)[1]
    for scale in ("logit", "plain"):
        found = delong(labels[chosen], columns[0].scores[chosen], logit=scale == "logit")
        if isinstance(found, DeLong):
            yield "auroc", f"one seed, DeLong {scale}", found.low <= first["auroc"] <= found.high


def holds(found: Interval, value: float) -> bool:
    """Whether the interval holds the value; one that does not exist holds nothing."""
    return found.low is not None and found.high is not None and found.low <= value <= found.high


def main() -> None:
    """Run the replications and write the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replications", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    held: Counter[tuple[str, str]] = Counter()
    tried: Counter[tuple[str, str]] = Counter()
    started, busy = time.time(), time.process_time()
    for stream in np.random.SeedSequence(arguments.seed).spawn(arguments.replications):
        for name, kind, fine in replicate(np.random.default_rng(stream), arguments.resamples):
            held[name, kind] += fine
            tried[name, kind] += 1
    coverage: dict[str, dict[str, float]] = {}
    for (name, kind), count in tried.items():
        coverage.setdefault(kind, {})[name] = round(held[name, kind] / count, 4)
    share = 0.95
    result: dict[str, Any] = {
        "replications": arguments.replications,
        "resamples": arguments.resamples,
        "seed": arguments.seed,
        "level": share,
        "standard_error": round((share * (1 - share) / arguments.replications) ** 0.5, 4),
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
        "truth": {name: round(value, 5) for name, value in truth(None).items()},
        "coverage": coverage,
        "outside": sorted(
            f"{kind}: {name} {value}"
            for kind, by_name in coverage.items()
            for name, value in by_name.items()
            if not LOW <= value <= HIGH
        ),
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": round(time.time() - started, 1),
        "processor_seconds": round(time.process_time() - busy, 1),
        "versions": {name: version(name) for name in ("fedmed", "numpy", "scipy")}
        | {"python": platform.python_version()},
        "machine": {"system": platform.platform(), "processors": os.cpu_count()},
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
