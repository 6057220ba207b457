"""Thresholds that are chosen anew in every resample, on validation patients who are drawn again.

A threshold from few validation images would be another one on other images. With the threshold held
fixed an interval leaves that out; here each resample of the test patients has its own, from a
resample of the validation patients that is independent of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedmed.evaluation.intervals.resampling import SEED, Design, clusters, for_each_block
from fedmed.evaluation.measuring.batch import ROW, Batch, Partition
from fedmed.evaluation.measuring.tallies import Redrawn, Scored
from fedmed.evaluation.metrics import AT_SPECIFICITY
from fedmed.evaluation.thresholds import Thresholds

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def redraw(
    val: pd.DataFrame,
    chosen: Thresholds,
    *,
    resamples: int,
    seed: int = SEED,
    threads: int | None = None,
) -> Redrawn:
    """Thresholds by the rules of ``discrimination`` on resamples of the validation patients.

    Patients with and without disease are drawn apart, as those of the test are. `val` has the
    columns of the schema; runs of the same validation patients, in the order of images, have the
    same draws. The result does not depend on `threads`.
    """
    if chosen.youden is None:
        return Redrawn(None, None)
    ordered = val if val["image"].isna().any() else val.sort_values("image", kind="stable")
    labels = ordered["label"].to_numpy(dtype=np.int64)
    scores = ordered["score"].to_numpy(dtype=np.float64)
    design = Design.of(clusters(ordered["patient_id"]), labels)
    falling = np.argsort(-scores, kind="stable")
    distinct, first = np.unique(-scores[falling], return_index=True)
    last = np.append(first[1:], scores.size) - 1
    youden, specific = np.full(resamples, np.nan), np.full(resamples, np.nan)

    def work(where: slice, weights: Floats) -> None:
        drawn = weights[design.patient[falling]]
        ill = labels[falling][:, None] * drawn
        tp = np.cumsum(ill, axis=0)[last]
        fp = np.cumsum(drawn - ill, axis=0)[last]
        there = np.diff(tp + fp, axis=0, prepend=0.0) > 0.0  # a score that was drawn
        index = np.where(there, tp * fp[-1] - fp * tp[-1], -np.inf)
        youden[where] = -distinct[np.argmax(index, axis=0)]
        slack = chosen.specificity * fp[-1] * (1.0 - 1e-12)
        fine = there & (fp[-1] - fp >= slack)
        best = np.argmax(np.where(fine, tp, -1.0), axis=0)
        specific[where] = np.where(fine.any(axis=0), -distinct[best], np.nan)

    # Another seed than that of the test patients, of whom these are independent.
    for_each_block(design, resamples, seed + 1, work, threads=threads)
    return Redrawn(youden, None if chosen.at_specificity is None else specific)


def replace_calls(
    statistics: list[Floats],
    batch: Batch,
    labels: Integers,
    patient: Integers,
    where: slice,
    weights: Any,
) -> None:
    """Put the calls at each resample's own threshold in the place of those at the fixed one.

    `statistics` and `weights` are those of :meth:`Batch.statistics`, `where` the resamples that
    they are of; the full sample keeps the fixed threshold.
    """
    if where.start < 0 or batch.tallies is None:
        return
    for partition, result in zip(batch.partitions, statistics, strict=True):
        for place, column in enumerate(batch.columns):
            redrawn = column.redrawn
            if redrawn is None:
                continue
            for at, thresholds in (("", redrawn.youden), (AT_SPECIFICITY, redrawn.at_specificity)):
                if thresholds is not None:
                    row = ROW["true_positives" + at]
                    for group, counted in enumerate(
                        _called(
                            column, partition, labels, patient, thresholds[where], weights, batch
                        )
                    ):
                        result[row : row + 2, group, place] = counted


def _called(
    column: Scored,
    partition: Partition,
    labels: Integers,
    patient: Integers,
    thresholds: Floats,
    weights: Any,
    batch: Batch,
) -> list[Floats]:
    """True and false positives [2, r] of each group, at one threshold per resample."""
    found = []
    for images in partition.images:
        inside = np.zeros(labels.size, dtype=bool)
        inside[images] = True
        order = column.order[inside[column.order]]
        above = np.searchsorted(-column.scores[order], -thresholds, side="right")
        rows, truth = patient[order], labels[order].astype(np.float64)
        counted = np.full((2, thresholds.size), np.nan)
        for resample in np.flatnonzero(~np.isnan(thresholds)):
            first = slice(0, int(above[resample]))
            of_one = weights[resample] if batch.large else weights[:, resample]
            drawn = of_one[rows[first]].astype(np.float64)
            ill = float(drawn @ truth[first])
            counted[:, resample] = ill, float(drawn.sum()) - ill
        found.append(counted)
    return found
