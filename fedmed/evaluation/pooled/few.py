"""Intervals from histograms where few events are seen, as :mod:`intervals.terms` has them.

Counts of nobody are drawn as nobody again: draws are certain of what was not seen. Here rates and
AUROCs of few events get the reach that their own number of images gives, with the hospitals' noise
added to its square.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from fedmed.evaluation.intervals import areas, rates
from fedmed.evaluation.metrics import SHARES, Counts
from fedmed.evaluation.pooled.cells import Array, area, plausible

_NORMAL: Final = 1.959964


def reaches(
    cells: Array, at: int | None, *, deviation: float, clustering: float
) -> dict[str, Array]:
    """Standard deviations [group, 2], down and up, by measure; 0 where events are many.

    ``cells`` [group, label, bin]; ``at``, ``deviation`` and ``clustering`` are those of
    :func:`cells.drawn_measures`. They are the reach of a 95 % interval over 1.96.
    """
    found = {"auroc": np.array([_of_area(one, deviation, clustering) for one in cells])}
    if at is not None:
        for name in SHARES:
            each = [_of_rate(name, one, at, deviation, clustering) for one in cells]
            found[name] = np.array(each)
    return {name: both.reshape(len(cells), 2) / _NORMAL for name, both in found.items()}


def with_few(
    value: float, own: Array, drawn: list[float] | None, *, low: float = 0.0, high: float = 1.0
) -> list[float] | None:
    """The interval of few events where there is one (``own`` [2] above 0), else that of draws."""
    if drawn is None or not own.any():
        return drawn
    down, up = (_NORMAL * float(side) for side in own)
    return [max(low, value - down), min(high, value + up)]


def _of_rate(
    name: str, cells: Array, at: int, deviation: float, clustering: float
) -> tuple[float, float]:
    """How far the interval of a rate goes down and up; 0 and 0 where events are many."""
    share = SHARES[name]
    called = np.broadcast_to(np.arange(cells.shape[-1]) > at, cells.shape).astype(np.float64)
    ill = np.zeros_like(cells)
    ill[1] = 1.0
    tops, bottoms = (
        np.broadcast_to(side, cells.shape) for side in share(Counts.of_each(ill, called))
    )
    images = float((bottoms * cells).sum())
    if images <= 0.0:
        return 0.0, 0.0
    value = min(1.0, max(0.0, float((tops * cells).sum()) / images))
    if images / clustering * min(value, 1.0 - value) >= rates.FEW:
        return 0.0, 0.0
    noise = deviation * math.sqrt(float(np.square(tops - value * bottoms).sum())) / images
    return _with_noise(rates.agresti_coull(value, images / clustering, _NORMAL), noise)


def _of_area(cells: Array, deviation: float, clustering: float) -> tuple[float, float]:
    """How far the interval of an AUROC goes down and up; 0 and 0 where wrong pairs are many."""
    negatives, positives = (float(total) for total in cells.sum(-1))
    value = float(area(cells)[0])
    if not math.isfinite(value):
        return 0.0, 0.0
    if min(positives, negatives) / clustering * min(value, 1.0 - value) >= areas.FEW:
        return 0.0, 0.0
    lower = np.cumsum(cells[0]) - cells[0] / 2.0  # negatives below each positive
    higher = positives - np.cumsum(cells[1]) + cells[1] / 2.0  # positives above each negative
    slopes = np.stack([higher / positives - value, lower / negatives - value])
    slopes /= np.array([[negatives], [positives]])
    noise = deviation * math.sqrt(float(np.square(slopes).sum()))
    ill, healthy = positives / clustering, negatives / clustering
    seen = clustering * float((np.square(slopes) * plausible(cells)).sum())
    share = areas.share(value, ill, healthy, seen)
    reach = areas.newcombe(value, share * ill, share * healthy, _NORMAL)
    return _with_noise(reach, noise)


def _with_noise(reach: tuple[float, float], noise: float) -> tuple[float, float]:
    down, up = (math.hypot(side, _NORMAL * noise) for side in reach)
    return down, up
