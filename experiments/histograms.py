"""How well pooled score histograms tell the AUROC: error, bound and coverage, by simulation.

    python -m experiments.histograms --replications 2000 --json

Scores are binormal (positives one standard deviation above negatives, 30 % of the images), dealt to
four hospitals of equal size; the true AUROC is that of the distributions, 0.760. Patients have one
image, or two that agree (correlation 0.8). Each replication draws new images and new noise and asks
``fedmed.evaluation`` for the estimate and its intervals.
"""

import argparse
import json
import math
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from fedmed.base import machine
from fedmed.evaluation.pooled.cells import area, drawn_measures, interval
from fedmed.evaluation.pooled.histograms import Spec, around
from fedmed.privacy import accounting

HOSPITALS = 4
SHIFT = 1.0
TRUTH = float(norm.cdf(SHIFT / math.sqrt(2)))
DELTA = 1e-5
CASES = [
    (images, epsilon, bins, 1)
    for images in (1000, 4000)
    for epsilon, sizes in ((0.0, (32, 256)), (8.0, (16, 32)), (4.0, (16, 32)), (1.0, (16, 32)))
    for bins in sizes
] + [(1000, 0.0, 256, 2), (1000, 8.0, 32, 2)]


@dataclass(frozen=True)
class CaseResult:
    """What the replications of one case showed; ``epsilon`` 0 is without noise."""

    images: int
    epsilon: float
    bins: int
    films: int
    deviation: float
    bias: float
    standard_error: float
    half_bound: float
    width: float
    coverage: float
    coverage_widened: float


def cells_of(
    rng: np.random.Generator, images: int, films: int, edges: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Exact pooled cells [label, bin] of new patients with ``films`` images each."""
    patients = images // films
    positives = rng.binomial(patients, 0.3)
    rows = []
    for count, mean in ((patients - positives, 0.0), (positives, SHIFT)):
        own = rng.normal(0, 1, (count, 1))
        other = rng.normal(0, 1, (count, films))
        logit = mean + (own if films == 1 else math.sqrt(0.8) * own + math.sqrt(0.2) * other)
        place = np.searchsorted(edges, 1 / (1 + np.exp(-logit.ravel())), "right")
        rows.append(np.bincount(place, minlength=len(edges) + 1))
    return np.stack(rows).astype(np.float64)


def simulate(images: int, epsilon: float, bins: int, films: int, replications: int) -> CaseResult:
    """One case; the noise is that of two attributes beside everybody, at each of the hospitals."""
    rng = np.random.default_rng([images, round(epsilon * 10), bins, films])
    edges = around(0.3, 0.8, bins)
    deviation = 0.0
    if epsilon:
        spec = Spec(edges=edges, attributes=("sex", "age"), cap=films)
        noise = accounting.noise_multiplier(epsilon, DELTA, 1.0, 1)
        deviation = noise * spec.sensitivity * math.sqrt(HOSPITALS)
    estimates, halves, widths = [], [], []
    hits = wide = 0
    for _ in range(replications):
        cells = cells_of(rng, images, films, np.asarray(edges))
        cells = cells + rng.normal(0, deviation, cells.shape) if deviation else cells
        middle, half = (float(value) for value in area(cells))
        drawn = drawn_measures(
            cells, None, deviation=deviation, clustering=float(films), resamples=1000
        )
        low, high = interval(drawn["auroc"]) or (0.0, 1.0)
        estimates.append(middle)
        halves.append(half)
        widths.append(high - low)
        hits += low <= TRUTH <= high
        wide += low - half <= TRUTH <= high + half
    return CaseResult(
        images,
        epsilon,
        bins,
        films,
        deviation,
        float(np.mean(estimates)) - TRUTH,
        float(np.std(estimates)),
        float(np.mean(halves)),
        float(np.mean(widths)),
        hits / replications,
        wide / replications,
    )


def main(arguments: list[str] | None = None) -> None:
    """Simulate every case and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replications", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    cases = [simulate(*case, given.replications) for case in CASES]
    if given.json:
        record = {
            "truth": TRUTH,
            "hospitals": HOSPITALS,
            "delta": DELTA,
            "replications": given.replications,
            "cases": [asdict(case) for case in cases],
            "machine": machine.describe(),
            "versions": machine.versions(),
        }
        print(json.dumps(record, indent=2))
        return
    print(
        "| images | epsilon | bins | films | noise | bias | error | bound | width | cover | wide |"
    )
    print("|" + "---|" * 11)
    for case in cases:
        epsilon = f"{case.epsilon:g}" if case.epsilon else "exact"
        print(
            f"| {case.images} | {epsilon} | {case.bins} | {case.films} | {case.deviation:.1f} "
            f"| {case.bias:+.4f} | {case.standard_error:.4f} | ±{case.half_bound:.4f} "
            f"| {case.width:.3f} | {case.coverage:.3f} | {case.coverage_widened:.3f} |"
        )


if __name__ == "__main__":
    main()
