"""Statistics of so many images that a block of weights leaves the cache: from FROM images on.

Weights are [r, patients] whole numbers, as ``Design.whole_counts`` draws them, and are worked on
one resample at a time: a cumulative sum over the images by falling score, which are sorted once.
Sums of whole numbers are exact, so AUROC and what follows from counts have the values that blocks
give, to the last bit. The other features are added up by patient beforehand, since all images of a
patient have the same weight; sums of these, and average precision, may differ from those of blocks
in their last digits. The draws are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fedmed.evaluation.calibration import Recalibration
from fedmed.evaluation.measuring.cells import cells_of
from fedmed.evaluation.measuring.ranking import Cells, Pairs, Ranking
from fedmed.evaluation.measuring.scratch import scratch
from fedmed.evaluation.measuring.tallies import (
    FIT,
    SHARED,
    Scored,
    Tallies,
    common_features,
    fit_features,
)
from fedmed.evaluation.measuring.threads import in_threads

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Counts = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]

FROM: Final = 50_000
PATIENTS: Final = 2048  # whose features are worked on at once, so that they stay in the cache


class ByPatient:
    """Features of some images, added up by patient: `made` gives them [height, n] for n images."""

    def __init__(
        self, chosen: Integers, patient: Integers, height: int, made: Callable[[Integers], Floats]
    ) -> None:
        ordered = chosen[np.argsort(patient[chosen], kind="stable")]
        self.rows, starts = np.unique(patient[ordered], return_index=True)
        ends = np.append(starts, ordered.size)
        self.height = height
        self.parts = []
        for first in range(0, self.rows.size, PATIENTS):
            own = ends[first : first + PATIENTS + 1]
            each = made(ordered[own[0] : own[-1]])
            self.parts.append(np.add.reduceat(each, own[:-1] - own[0], axis=1))

    def sums(self, weights: Counts) -> Floats:
        """Sums of the features [height, r] by row of `weights` [r, patients]."""
        result = np.zeros((self.height, len(weights)))
        for index, part in enumerate(self.parts):
            rows = self.rows[index * PATIENTS :][:PATIENTS]
            drawn = scratch("drawn", len(weights), rows.size)
            drawn[:] = np.take(weights, rows, axis=1)
            result += part @ drawn.T
        return result


class LargeTallies(Tallies):
    """Features of every group: those that no group changes are added up once, by cell.

    A cell is the images that are in the same group of every partition.
    """

    def __init__(
        self,
        labels: Integers,
        columns: Sequence[Scored],
        fits: Sequence[Sequence[Sequence[Recalibration]]],
        groups: Sequence[Sequence[Integers]],
        patient: Integers,
        threads: int | None = None,
    ) -> None:
        self.columns = len(columns)
        cell, self.inside = cells_of(labels.size, groups)
        height = SHARED + len(columns) * FIT.start
        by_cell = np.argsort(cell, kind="stable")
        self.cells = in_threads(
            lambda images: ByPatient(
                images, patient, height, lambda some: common_features(labels, columns, some)
            ),
            np.split(by_cell, np.cumsum(np.bincount(cell))[:-1]),
            threads,
        )
        height = len(columns) * (FIT.stop - FIT.start)
        own = [
            (fit, images)
            for of_partition, chosen in zip(fits, groups, strict=True)
            for fit, images in zip(of_partition, chosen, strict=True)
        ]
        self.fitted = in_threads(
            lambda each: ByPatient(
                each[1],
                patient,
                height,
                lambda some: fit_features(labels, columns, each[0], some),
            ),
            own,
            threads,
        )

    def sums(self, weights: Any) -> list[list[Floats]]:
        """Those of ``Tallies``, by row of `weights` [r, patients] whole numbers."""
        common = np.stack([of_cell.sums(weights) for of_cell in self.cells])
        fitted = iter(self.fitted)
        return [
            [
                self._joined(np.tensordot(member, common, 1), next(fitted).sums(weights))
                for member in of_partition
            ]
            for of_partition in self.inside
        ]

    def _joined(self, common: Floats, fitted: Floats) -> Floats:
        """Rows in the order of ``features``."""
        count = common.shape[1]
        by_column = np.concatenate(
            [
                common[SHARED:].reshape(self.columns, -1, count),
                fitted.reshape(self.columns, -1, count),
            ],
            axis=1,
        )
        return np.concatenate([common[:SHARED], by_column.reshape(-1, count)])


class LargeRanking(Ranking):
    """The chosen images by falling score, under one weighting after the other."""

    @cached_property
    def apart(self) -> bool:
        """Whether no two positives score the same."""
        return bool(np.array_equal(self.through, np.arange(1, self.through.size + 1)))

    def pairs(self, weights: Counts, *, precision: bool = True) -> Pairs:
        """What AUROC and average precision are made of, by row of `weights` [r, patients]."""
        each = [self._of_one(row, precision and self.defined) for row in weights]
        return Pairs(*np.array(each).reshape(-1, 4).T)

    def pairs_and_losses(
        self, weights: Counts, cells: Cells, *, precision: bool = True
    ) -> tuple[Pairs, tuple[Floats, Floats]]:
        """:meth:`pairs`, and :meth:`losses_by_cell` of the same sums over the images."""
        pairs, lost = [], []
        for row in weights:
            by_cell: list[Floats] = []
            pairs.append(self._of_one(row, precision and self.defined, cells, by_cell))
            lost.append(by_cell)
        told = np.array(lost)  # [r, 2, cells]
        return Pairs(*np.array(pairs).reshape(-1, 4).T), (told[:, 0].T, told[:, 1].T)

    def losses_by_cell(self, weights: Counts, cells: Cells) -> tuple[Floats, Floats]:
        """Lost pairs of the positives and of the negatives, summed by cell [cells, r] each."""
        return self.pairs_and_losses(weights, cells, precision=False)[1]

    def _of_one(
        self,
        weights: Counts,
        precision: bool,
        cells: Cells | None = None,
        by_cell: list[Floats] | None = None,
    ) -> tuple[float, float, float, float]:
        """Lost pairs, positives, negatives, average precision; into `by_cell` losses by cell."""
        positive = _taken("positive", weights, self.positive_rows)
        negative = _taken("negative", weights, self.negative_rows)
        false = _sums("false", negative)
        weight = _floats("weight", positive)
        higher = _floats("higher", _taken("above", false, self.above))
        level = _floats("level", _taken("as high", false, self.level)) if self.tied else higher
        lost = float(weight @ higher)
        if self.tied:
            lost = 0.5 * (lost + float(weight @ level))
        hits = _sums("hits", positive)
        if cells is not None and by_cell is not None:
            by_cell.append(cells.positives @ self._own(weight, higher, level))
            by_cell.append(cells.negatives @ self._over(negative, hits))
        positives, negatives = float(hits[-1]), float(false[-1])
        if not (precision and positives and negatives):
            return lost, positives, negatives, np.nan
        true = _floats("true", hits[1:] if self.apart else _taken("through", hits, self.through))
        level += true
        np.maximum(level, 1.0, out=level)  # nothing drawn up to here: 0 / 0
        np.divide(true, level, out=true)
        return lost, positives, negatives, float(weight @ true) / positives

    def _own(self, weight: Floats, higher: Floats, level: Floats) -> Floats:
        """Weight of the pairs that each positive loses."""
        if not self.tied:
            return np.multiply(higher, weight, out=scratch("own", weight.size))
        own = np.add(higher, level, out=scratch("own", weight.size))
        own *= 0.5
        own *= weight
        return own

    def _over(self, negative: Counts, hits: Sums) -> Floats:
        """Weight of the pairs in which each negative scores higher."""
        lower = _floats("lower", _taken("before", hits, self.before))
        if self.tied:
            lower += _taken("until", hits, self.until)
            lower *= 0.5
        np.subtract(float(hits[-1]), lower, out=lower)
        lower *= negative
        return lower


def _taken(name: str, values: npt.NDArray[Any], places: Integers) -> npt.NDArray[Any]:
    """Values at some places, in the scratch memory `name`; all must be places of it."""
    result = scratch(name, places.size).view(values.dtype)[: places.size]
    return np.take(values, places, out=result, mode="clip")  # see scratch.gathered


def _sums(name: str, values: Counts) -> Sums:
    """Sums of the first 0, 1, ... n values, in the scratch memory `name`.

    Of four bytes each, half as many to move: a table has at most 5,000,000 rows, and 255 times that
    fit.
    """
    result = scratch(name, values.size + 1).view(np.int32)[: values.size + 1]
    result[0] = 0
    np.cumsum(values, dtype=np.int32, out=result[1:])
    return result


def _floats(name: str, values: Counts | Sums) -> Floats:
    result = scratch(name, values.size)
    result[:] = values
    return result
