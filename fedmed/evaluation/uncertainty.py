"""How far the test patients' luck moves a metric: the bootstrap over patients."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedmed.evaluation.discrimination import arrays

RESAMPLES: Final = 1000
SEED: Final = 20131  # fixed, so that a table computed again has the same interval
LEVEL: Final = 0.95
CELLS: Final = 4_000_000  # weights held at once: bounds memory on large test sets


def clusters(patients: pd.Series) -> npt.NDArray[np.int64]:
    """Index of the patient of each image; an image without a known patient is its own cluster."""
    codes, known = pd.factorize(patients)
    index = codes.astype(np.int64)
    absent = index < 0
    index[absent] = len(known) + np.arange(int(absent.sum()))
    return index


def patient_weights(
    cluster: npt.NDArray[np.int64], resamples: int, generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Weight of each image [resamples, n]: how often its patient was drawn with replacement."""
    count = int(cluster.max()) + 1
    drawn = generator.multinomial(count, np.full(count, 1.0 / count), size=resamples)
    return drawn[:, cluster].astype(np.float64)


def weighted_auroc(
    labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """AUROC under each row of `weights` [resamples, n]; NaN where a class has no weight."""
    truth, values = arrays(labels, scores)
    order = np.argsort(values, kind="stable")
    rising = values[order]
    starts = np.flatnonzero(np.append(True, rising[1:] != rising[:-1]))
    sorted_weights = weights[:, order]
    diseased = truth[order] == 1
    positive = np.add.reduceat(sorted_weights * diseased, starts, axis=1)
    negative = np.add.reduceat(sorted_weights * ~diseased, starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2.0
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    wins = np.einsum("rt,rt->r", positive, below)
    area = np.full(pairs.shape, np.nan)
    np.divide(wins, pairs, out=area, where=pairs > 0)
    return area


def auroc_interval(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    patients: pd.Series,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the AUROC, patients drawn with replacement.

    Covers the luck of the test patients only, not of training or its noise. Resamples without one
    of the classes are left out; (NaN, NaN) if they are more than half or there is one patient.
    """
    truth, values = arrays(labels, scores)
    cluster = clusters(patients)
    if truth.size == 0 or int(cluster.max()) == 0:
        return float("nan"), float("nan")
    generator = np.random.default_rng(SEED)
    step = max(1, CELLS // truth.size)
    drawn = [
        weighted_auroc(
            truth, values, patient_weights(cluster, min(step, resamples - start), generator)
        )
        for start in range(0, resamples, step)
    ]
    sample = np.concatenate(drawn)
    sample = sample[np.isfinite(sample)]
    if sample.size * 2 < resamples:
        return float("nan"), float("nan")
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(sample, (tail, 1.0 - tail))
    return float(low), float(high)
