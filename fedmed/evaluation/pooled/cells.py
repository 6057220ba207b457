"""Measures of score histograms: AUROC with its binning bound, rates at an edge, draws of both.

Arrays end in [label, bin]; every axis before is carried along. Cells may be negative, where noise
was added: products and sums of them stay unbiased, which cutting them at zero would not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from fedmed.evaluation.metrics import SHARES, Counts

Array = npt.NDArray[np.float64]
SEED: Final = 20131  # fixed, so that the same histograms give the same intervals
CHUNK: Final = 2_000_000  # cells drawn at once


def area(cells: Array) -> tuple[Array, Array]:
    """AUROC with the pairs inside one bin counted half, and how far the exact one can be from it.

    Of the pairs of one positive and one negative image, those in different bins are ordered, and
    those in the same bin may be ordered either way: the exact AUROC lies within plus or minus
    1/2 sum_b p_b n_b / (P N), whatever the scores are. NaN where a class has no positive total.
    """
    negative, positive = cells[..., 0, :], cells[..., 1, :]
    pairs = _product(positive.sum(-1), negative.sum(-1))
    ties = (positive * negative).sum(-1)
    below = np.cumsum(negative, axis=-1) - negative / 2
    with np.errstate(invalid="ignore"):
        middle = (positive * below).sum(-1) / pairs
        half = np.maximum(ties, 0) / 2 / pairs
    return np.clip(middle, 0, 1), half


def rates(cells: Array, at: int) -> dict[str, Array]:
    """Metrics of the decision "bin number above ``at``", that is score >= edges[at]; NaN over 0."""
    called = cells[..., at + 1 :].sum(-1)
    totals = cells.sum(-1)
    negatives, positives = totals[..., 0], totals[..., 1]
    fp, tp = called[..., 0], called[..., 1]
    counts = Counts(
        images=negatives + positives, positives=positives, negatives=negatives, tp=tp, fp=fp
    )
    return {name: _share(*share(counts)) for name, share in SHARES.items()}


def measures(cells: Array, at: int | None) -> dict[str, Array]:
    """``auroc``, and the rates where there is a threshold."""
    return {"auroc": area(cells)[0], **({} if at is None else rates(cells, at))}


def youden_edge(cells: Array) -> int | None:
    """Number of the edge with the largest sensitivity + specificity - 1; None for one class.

    Of equal optima the highest. ``cells`` [label, bin] are those of validation images.
    """
    totals = cells.sum(-1)
    if (totals <= 0).any() or cells.shape[-1] < 2:
        return None
    above = np.cumsum(cells[:, ::-1], axis=-1)[:, ::-1][:, 1:] / totals[:, None]
    index = above[1] - above[0]
    return int(len(index) - 1 - np.argmax(index[::-1]))


def specific_edge(cells: Array, specificity: float) -> int | None:
    """Number of the lowest edge at which validation images reach ``specificity``; None if none."""
    negative = cells[0]
    if negative.sum() <= 0 or cells.shape[-1] < 2:
        return None
    below = np.cumsum(negative)[:-1] / negative.sum()
    reached = np.flatnonzero(below >= specificity)
    return int(reached[0]) if reached.size else None


def plausible(cells: Array) -> Array:
    """The nearest cells without negative counts, with each label's total kept (L2 projection).

    Only for how much counts may vary: the measures themselves come from the cells as they are.
    Exact counts are returned unchanged.
    """
    if (cells >= 0).all():
        return cells
    rows = cells.reshape(-1, cells.shape[-1])
    return np.stack([_project(row, max(float(row.sum()), 0.0)) for row in rows]).reshape(
        cells.shape
    )


def _project(row: Array, total: float) -> Array:
    """Onto the counts >= 0 that add up to ``total`` (Duchi et al. 2008, Figure 1)."""
    falling = np.sort(row)[::-1]
    shift = (np.cumsum(falling) - total) / np.arange(1, len(row) + 1)
    last = np.flatnonzero(falling > shift)
    theta = shift[last[-1]] if last.size else float(row.max())
    return np.maximum(row - theta, 0)


def draws(
    cells: Array, *, deviation: float, clustering: float, resamples: int, key: tuple[int, ...] = ()
) -> Array:
    """``resamples`` parametric draws [draw, ..., label, bin] around ``cells``.

    Test sampling: counts are Poisson, times ``clustering`` (c Poisson(n / c) has mean n and
    variance c n), which covers patients with several images. Privacy: Gaussian noise of the known
    ``deviation`` on every cell, once more as it was added; the Poisson's variance is then that of
    the :func:`plausible` cells, in a normal, as counts below zero have no Poisson.
    """
    generator = np.random.default_rng([SEED, *key])
    shape = (resamples, *cells.shape)
    if not deviation:
        drawn = clustering * generator.poisson(cells / clustering, shape)
        return np.asarray(drawn, dtype=np.float64)
    spread = np.sqrt(clustering * plausible(cells) + deviation**2)
    return np.asarray(cells + spread * generator.standard_normal(shape), dtype=np.float64)


def drawn_measures(
    cells: Array,
    at: int | None,
    *,
    deviation: float,
    clustering: float,
    resamples: int,
    expand: Callable[[Array], Array] = lambda drawn: drawn,
) -> dict[str, Array]:
    """:func:`measures` of each draw [draw, ...].

    ``expand`` turns cells into those that are measured: sums of groups beside the groups, say.
    """
    step = max(1, CHUNK // max(cells.size, 1))
    parts = []
    for number, start in enumerate(range(0, resamples, step)):
        drawn = draws(
            cells,
            deviation=deviation,
            clustering=clustering,
            resamples=min(step, resamples - start),
            key=(number,),
        )
        parts.append(measures(expand(drawn), at))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def interval(
    sample: Array, *, level: float = 0.95, low: float = 0.0, high: float = 1.0
) -> list[float] | None:
    """Percentile interval of a number from its draws, cut to [low, high].

    Draws in which it is not defined are left out; None where they are more than half.
    """
    kept = sample[np.isfinite(sample)]
    if kept.size * 2 < sample.size or kept.size < 2:
        return None
    tail = (1 - level) / 2
    return [float(end) for end in np.clip(np.quantile(kept, (tail, 1 - tail)), low, high)]


def _share(top: Array, bottom: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.where(bottom > 0, top / bottom, np.nan)
    return np.clip(found, 0, 1)


def _product(positives: Array, negatives: Array) -> Array:
    return np.where((positives > 0) & (negatives > 0), positives * negatives, np.nan)
