"""Do the intervals cover in small groups, of rare events, of few seeds and of mixed patients?

    python -m experiments.interval_grid --replications 2000 --processes 2

Every cell of the grid draws test samples of a known truth and counts how often each printed
interval holds it, or how often the interval of a gap between groups that are equally well served
leaves zero out. Scores are binormal; ``spread`` is the standard deviation of the ill, that of the
healthy is 1. A sample in which there is no interval counts as not covered. Cells that the record
already holds, with as many replications, are not drawn again: a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

import fedmed
from fedmed.evaluation.fairness import gap_quantities
from fedmed.evaluation.intervals.estimates import estimate, estimate_gap
from fedmed.evaluation.measuring.measures import Column, Measured, measure
from fedmed.evaluation.pooled.groups import by_group, gaps_between

RESULT: Final = Path(__file__).parent / "results" / "interval_grid.json"
Floats = npt.NDArray[np.float64]
Held = Iterator[tuple[str, bool]]
"""What is told of one sample: a name, and whether its interval held the truth (or zero)."""
Cell = Callable[[np.random.Generator, int], Held]

ILL: Final = (10, 20, 40, 100, 300)
HEALTHY: Final = 3  # for each ill one
THRESHOLD: Final = 0.5
NEEDED: Final = ("auroc", "fnr", "sensitivity", "fpr", "accuracy", "selection_rate")
ALL: Final = (*NEEDED, "specificity", "ppv", "npv", "auprc", "brier", "calibration_slope")
PRECISION_TRUTH: Final = 400_000  # images from which truths without a formula are computed


def apart(auroc: float, spread: float) -> float:
    """Distance of the ill in standard deviations of the healthy that gives an AUROC."""
    return float(norm.ppf(auroc)) * float(np.hypot(1.0, spread))


def drawn(generator: np.random.Generator, labels: npt.NDArray[np.int64], distance: float) -> Floats:
    """Calibrated scores of images with these labels, one ill to HEALTHY healthy ones."""
    latent = generator.normal(size=labels.size) + distance * labels
    odds = np.exp(distance * (latent - distance / 2.0)) / HEALTHY
    return np.clip(odds / (1.0 + odds), 1e-12, 1.0 - 1e-12)


def measured(
    labels: npt.NDArray[np.int64],
    scores: Floats,
    resamples: int,
    *,
    patients: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    threshold: float = THRESHOLD,
    metrics: tuple[str, ...] = ALL,
) -> Measured:
    """One model's scores, or several [n, models], measured."""
    several = scores[:, None] if scores.ndim == 1 else scores
    return measure(
        [
            Column(name=str(number), scores=column, threshold=threshold)
            for number, column in enumerate(several.T)
        ],
        labels,
        np.arange(labels.size) if patients is None else patients,
        None if groups is None else {"sex": groups},
        resamples=resamples,
        metrics=metrics,
        threads=1,
    )


def holds(told: dict[str, Any], truth: float, source: str = "") -> bool:
    """Whether an estimate's interval (``both_``: of both sources) holds the truth."""
    low, high = told[f"{source}low"], told[f"{source}high"]
    return low is not None and high is not None and low <= truth <= high


# Rates and AUROCs of one group, one image for each patient.


def rate(ill: int, share: float, generator: np.random.Generator, resamples: int) -> Held:
    """The false negative rate of so many ill patients, of whom ``share`` are missed."""
    labels = np.r_[np.ones(ill), np.zeros(HEALTHY * ill)].astype(np.int64)
    missed = generator.uniform(size=labels.size) < share
    scores = np.where(missed, 0.2, 0.8)
    sample = measured(labels, scores, resamples, metrics=("fnr",))
    yield "false negative rate", holds(estimate(sample.quantity("fnr")), share)


def area(
    ill: int, auroc: float, spread: float, generator: np.random.Generator, resamples: int
) -> Held:
    """The AUROC of so many ill patients."""
    labels = np.r_[np.ones(ill), np.zeros(HEALTHY * ill)].astype(np.int64)
    latent = generator.normal(size=labels.size)
    latent = np.where(labels == 1, apart(auroc, spread) + spread * latent, latent)
    sample = measured(labels, norm.cdf(latent - 1.0), resamples, metrics=("auroc",))
    yield "AUROC", holds(estimate(sample.quantity("auroc")), auroc)


# Every printed metric.


@cache
def truths(distance: float, threshold: float) -> dict[str, float]:
    """Values of every metric in as good as endless images."""
    generator = np.random.default_rng(1)
    labels = (np.arange(PRECISION_TRUTH) % (1 + HEALTHY) == 0).astype(np.int64)
    scores = drawn(generator, labels, distance)
    sample = measured(labels, scores, 0, threshold=threshold)
    return {name: float(sample.quantity(name).values[0]) for name in ALL}


def metrics(
    ill: int,
    generator: np.random.Generator,
    resamples: int,
) -> Held:
    """Every metric with an interval, of so many ill patients at an AUROC of .85."""
    distance, threshold = apart(0.85, 1.0), 0.3
    truth = truths(distance, threshold)
    labels = np.r_[np.ones(ill), np.zeros(HEALTHY * ill)].astype(np.int64)
    sample = measured(labels, drawn(generator, labels, distance), resamples, threshold=threshold)
    for name in ALL:
        yield name, holds(estimate(sample.quantity(name)), truth[name])


# Patients with images of both labels: how ill somebody is drives labels and scores.

MIXED: Final = ("auroc", "fnr", "fpr", "accuracy", "selection_rate")


def mixed_sample(
    generator: np.random.Generator, patients: int
) -> tuple[npt.NDArray[np.int64], Floats, npt.NDArray[np.int64]]:
    """Labels, scores and patients of three images each."""
    patient = np.repeat(np.arange(patients), 3)
    severity = generator.normal(size=patients)[patient]
    labels = generator.uniform(size=patient.size) < 1.0 / (1.0 + np.exp(1.0 - 3.0 * severity))
    scores = 1.0 / (1.0 + np.exp(-severity - generator.normal(size=patient.size)))
    return labels.astype(np.int64), scores, patient


@cache
def mixed_truth() -> dict[str, float]:
    """Their true values."""
    labels, scores, _ = mixed_sample(np.random.default_rng(2), PRECISION_TRUTH)
    sample = measured(labels, scores, 0, metrics=MIXED)
    return {name: float(sample.quantity(name).values[0]) for name in MIXED}


def mixed(patients: int, generator: np.random.Generator, resamples: int) -> Held:
    """Metrics of patients with both labels."""
    truth = mixed_truth()
    labels, scores, patient = mixed_sample(generator, patients)
    sample = measured(labels, scores, resamples, patients=patient, metrics=MIXED)
    for name in MIXED:
        yield name, holds(estimate(sample.quantity(name)), truth[name])


# Few seeds: the mean over trainings, with both sources in its interval.


def seeds(count: int, times: float, generator: np.random.Generator, resamples: int) -> Held:
    """The AUROC over ``count`` trainings that vary ``times`` as much as the test sample makes it.

    1,000 ill and 1,000 healthy images; the AUROCs of trainings are normal around .75.
    """
    truth, ill, sampling = 0.75, 1000, 0.011
    trained = np.clip(truth + times * sampling * generator.normal(size=count), 0.51, 0.99)
    effects = np.array([apart(float(auroc), 1.0) for auroc in trained])
    labels = np.r_[np.ones(ill), np.zeros(ill)].astype(np.int64)
    common = generator.normal(size=labels.size)
    own = generator.normal(size=(labels.size, count))
    latent = np.sqrt(0.7) * common[:, None] + np.sqrt(0.3) * own
    scores = norm.cdf(latent + labels[:, None] * effects - 1.0)
    sample = measured(labels, scores, resamples, metrics=("auroc",)).quantity("auroc")
    yield "AUROC, both sources", holds(estimate(sample), truth, "both_")


# Gaps between groups that are equally well served: how often is zero left out?


def gaps(
    sizes: tuple[int, ...], missed: float, generator: np.random.Generator, resamples: int
) -> Held:
    """Gaps of groups with so many ill patients, as many healthy; calibrated scores, AUROC .85."""
    ill = np.concatenate([np.full(size, number) for number, size in enumerate(sizes)])
    group = np.r_[ill, ill]
    labels = np.r_[np.ones(ill.size), np.zeros(ill.size)].astype(np.int64)
    distance = apart(0.85, 1.0)
    latent = generator.normal(size=labels.size) + distance * labels
    scores = 1.0 / (1.0 + np.exp(distance * (distance / 2.0 - latent)))
    cut = norm.ppf(missed) + distance
    threshold = float(1.0 / (1.0 + np.exp(distance * (distance / 2.0 - cut))))
    names = np.array([f"group {number}" for number in range(len(sizes))])
    sample = measured(
        labels,
        scores,
        resamples,
        groups=names[group],
        threshold=threshold,
        metrics=(*NEEDED, "ece", "calibration_slope", "calibration_intercept"),
    )
    for name, gap in gap_quantities(sample, "sex", list(names)).items():
        if gap.sure and gap.contrasts:
            told = estimate_gap(gap)
            yield name, told["low"] is not None and told["low"] <= 0.0 <= told["high"]


def pooled_gaps(
    sizes: tuple[int, ...],
    missed: float,
    deviation: float,
    generator: np.random.Generator,
    resamples: int,
) -> Held:
    """The same gaps from histograms of 32 bins, with noise of that deviation in every cell."""
    distance = apart(0.85, 1.0)
    cut = norm.ppf(missed) + distance
    edges = np.r_[np.linspace(cut - 3.0, cut, 17), np.linspace(cut, cut + 3.0, 16)[1:-1]]
    cells = np.array(
        [
            [
                np.bincount(np.searchsorted(edges, latent, "right"), minlength=edges.size + 1)
                for latent in (generator.normal(size=size), generator.normal(size=size) + distance)
            ]
            for size in sizes
        ],
        dtype=np.float64,
    )
    cells += deviation * generator.normal(size=cells.shape)
    groups = by_group(
        tuple(f"group {number}" for number in range(len(sizes))),
        cells,
        16,
        floor=0.0,
        deviation=deviation,
        clustering=1.0,
        resamples=resamples,
        level=0.95,
    )
    for name, limits in gaps_between(groups, "sex", 0.95)["intervals"].items():
        if limits is not None:
            yield name, limits[0] <= 0.0 <= limits[1]


def grid() -> Iterator[tuple[str, str, Cell]]:
    """Every cell: its part of the grid, its name, and what draws a sample."""
    for ill in ILL:
        for share in (0.0, 0.02, 0.1, 0.3, 0.5, 0.9, 1.0):
            yield "rates", f"{ill} ill, rate {share:g}", partial(rate, ill, share)
    for ill in ILL:
        for auroc in (0.5, 0.7, 0.8, 0.9, 0.95, 0.99):
            for spread in (1.0, 1.6):
                name = f"{ill} ill, AUROC {auroc:g}, spread {spread:g}"
                yield "AUROC", name, partial(area, ill, auroc, spread)
    for ill in ILL:
        yield "metrics", f"{ill} ill", partial(metrics, ill)
    for patients in (60, 150, 400):
        yield "mixed patients", f"{patients} patients", partial(mixed, patients)
    for count in (2, 3, 5):
        for times in (0.0, 1.0, 2.0, 10.0):
            yield "seeds", f"{count} seeds, training {times:g} x", partial(seeds, count, times)
    for missed in (0.02, 0.1, 0.3):
        for sizes in ((12, 300), (20, 300), (40, 300), (100, 300), (40,) * 5, (12, 40, 100, 300)):
            name = f"ill {', '.join(map(str, sizes))}, rate {missed:g}"
            yield "gaps", name, partial(gaps, sizes, missed)
            for deviation in (0.0, 1.0):
                called = f"{name}, noise {deviation:g}"
                yield "gaps from histograms", called, partial(pooled_gaps, sizes, missed, deviation)


def run(number: int, replications: int, resamples: int, seed: int) -> dict[str, float]:
    """Shares of the samples of one cell in which each interval held."""
    _, _, cell = list(grid())[number]
    held: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for stream in np.random.SeedSequence([seed, number]).spawn(replications):
        for name, fine in cell(np.random.default_rng(stream), resamples):
            held[name] += fine
            seen[name] += 1
    return {name: round(held[name] / seen[name], 4) for name in seen}


def main() -> None:
    """Run the cells that are lacking and write the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replications", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=400)
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--part", action="append", help="only these parts of the grid")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    cells = [
        (number, part, name)
        for number, (part, name, _) in enumerate(grid())
        if part in (arguments.part or [part])
    ]
    told = kept(arguments)
    missing = [cell for cell in cells if f"{cell[1]}: {cell[2]}" not in told]
    one = partial(
        run,
        replications=arguments.replications,
        resamples=arguments.resamples,
        seed=arguments.seed,
    )
    with ProcessPoolExecutor(arguments.processes) as pool:
        shares = pool.map(one, [number for number, _, _ in missing])
        for (_, part, name), held in zip(missing, shares, strict=True):
            told[f"{part}: {name}"] = {"replications": arguments.replications, "held": held}
            print(part, name, held, flush=True)
            record(told, arguments)


Told = dict[str, dict[str, Any]]
"""By "part: cell": the replications, and the share of them in which each interval held."""


def kept(arguments: argparse.Namespace) -> Told:
    """Cells of an earlier run of the same draws, with as many replications at least."""
    if not arguments.out.exists():
        return {}
    earlier = json.loads(arguments.out.read_text(encoding="utf-8"))
    if (earlier["resamples"], earlier["seed"]) != (arguments.resamples, arguments.seed):
        raise SystemExit(f"{arguments.out} is of other resamples or another seed; give --out")
    told: Told = earlier["cells"]
    return {n: cell for n, cell in told.items() if cell["replications"] >= arguments.replications}


def record(told: Told, arguments: argparse.Namespace) -> None:
    """Write all cells, in the order of the grid, and the least and the most of each part."""
    ordered = {f"{part}: {name}": part for part, name, _ in grid()}
    extremes: dict[str, list[tuple[float, str]]] = {}
    for cell, part in ordered.items():
        for name, share in told.get(cell, {"held": {}})["held"].items():
            extremes.setdefault(part, []).append((share, f"{cell}: {name}"))
    result = {
        "resamples": arguments.resamples,
        "seed": arguments.seed,
        "least": {part: list(min(of_part)) for part, of_part in extremes.items()},
        "most": {part: list(max(of_part)) for part, of_part in extremes.items()},
        "cells": {cell: told[cell] for cell in ordered if cell in told},
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("numpy", "scipy")}
        | {"fedmed": fedmed.__version__, "python": platform.python_version()},
        "machine": {"system": platform.platform(), "processors": os.cpu_count()},
    }
    temporary = arguments.out.with_suffix(".part")
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    temporary.replace(arguments.out)


if __name__ == "__main__":
    main()
