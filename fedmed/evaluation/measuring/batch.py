"""The statistics of a few columns, overall and by group, under many weightings of the images.

The full sample is the weighting by ones, so that values and resamples come from the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from fedmed.evaluation.calibration import Recalibration, recalibrate
from fedmed.evaluation.measuring import tallies
from fedmed.evaluation.measuring.cells import cells_of
from fedmed.evaluation.measuring.large import LargeRanking, LargeTallies
from fedmed.evaluation.measuring.ranking import Cells, Pairs, Ranking, ratio
from fedmed.evaluation.measuring.threads import in_threads
from fedmed.evaluation.metrics import AT_SPECIFICITY, LOSSES, OF_OTHERS, of_kind
from fedmed.evaluation.tables.groups import UNKNOWN

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Made = TypeVar("Made")

# What is kept of every group, column and resample; metrics at thresholds follow from the counts.
STATISTICS: Final = (
    "images",
    "positives",
    *(what + at for at in ("", AT_SPECIFICITY) for what in ("true_positives", "false_positives")),
    *of_kind("loss"),  # their sums
    *of_kind("calibration"),
    *of_kind("ranking"),
    *("others_" + name for name in OF_OTHERS),
)
ROW: Final = {name: index for index, name in enumerate(STATISTICS)}


@dataclass(frozen=True)
class Partition:
    """Images by group of one attribute; `attribute` None is all images as one group."""

    attribute: str | None
    groups: tuple[str, ...]
    images: tuple[Integers, ...]  # positions of each group's images

    @property
    def known(self) -> tuple[int, ...]:
        """Indices of the groups that are compared: all but "unknown"."""
        return tuple(index for index, group in enumerate(self.groups) if group != UNKNOWN)

    def others(self, group: int) -> Integers:
        """Positions of the images of all other known groups, rising."""
        chosen = [self.images[index] for index in self.known if index != group]
        return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *chosen]))


class Batch:
    """Everything about a few columns that does not depend on the weights.

    Weights are [patients, r], or with `large` [r, patients] whole numbers: see
    :mod:`fedmed.evaluation.measuring.large`.
    """

    def __init__(
        self,
        labels: Integers,
        patient: Integers,
        columns: list[tallies.Scored],
        partitions: Sequence[Partition],
        *,
        ranked: bool = True,
        precision: bool = True,
        tallied: bool = True,
        large: bool = False,
        threads: int | None = None,
    ) -> None:
        self.columns, self.partitions, self.large = columns, partitions, large
        self.precision = precision
        groups = [partition.images for partition in partitions]
        self.fits: list[list[list[Recalibration]]] = []  # by partition, group, column
        self.tallies: tallies.Tallies | None = None
        if tallied:

            def fitted(chosen: Integers) -> list[Recalibration]:
                return [recalibrate(labels[chosen], column.scores[chosen]) for column in columns]

            self.fits = _in_threads(fitted, groups, threads)
            self.tallies = (
                LargeTallies(labels, columns, self.fits, groups, patient, threads)
                if large
                else tallies.Tallies(labels, columns, self.fits, groups, patient)
            )
        kind = LargeRanking if large else Ranking

        def ranked_by(chosen: Integers) -> list[Ranking]:
            return [kind(labels, c.scores, chosen, patient, c.order) for c in columns]

        self.rankings = _in_threads(ranked_by, groups if ranked else [], threads)
        made = {
            chosen.tobytes(): of_group
            for images, of_partition in zip(groups, self.rankings, strict=False)
            for chosen, of_group in zip(images, of_partition, strict=True)
        }
        self.comparisons = [
            Comparison(made.get(known.tobytes()) or ranked_by(known), labels.size, members)
            for known, members in (_comparable(partitions) if ranked else ())
        ]

    def statistics(self, weights: Any) -> list[Floats]:
        """Per partition [STATISTICS, groups, columns, r] by resample of `weights`.

        NaN where a statistic is not defined or was not asked for.
        """
        shape = (len(self.columns), weights.shape[0 if self.large else 1])
        results = [
            np.full((len(STATISTICS), len(partition.groups), *shape), np.nan)
            for partition in self.partitions
        ]
        for index, sums in enumerate(self.tallies.sums(weights) if self.tallies else []):
            self._tally(index, sums, results[index])
        pairs, losses = self._pairs(weights)
        for of_partition, result in zip(pairs, results, strict=False):  # no pairs: AUROC not asked
            for group, of_group in enumerate(of_partition):
                for column, found in enumerate(of_group):
                    result[ROW["auroc"], group, column] = found.auroc
                    result[ROW["auprc"], group, column] = found.precision
        for comparison, lost in zip(self.comparisons, losses, strict=True):
            comparison.fill(lost, pairs, results)
        return results

    def _pairs(
        self, weights: Any
    ) -> tuple[list[list[list[Pairs]]], list[list[tuple[Floats, Floats]]]]:
        """Pairs by partition, group and column; of each comparison losses by column.

        A comparison of the same images as a group, usually all of them, shares its sums.
        """
        losses: list[list[tuple[Floats, Floats]]] = [[] for _ in self.comparisons]
        together = {
            id(ranking): (place, comparison.cells[column])
            for place, comparison in enumerate(self.comparisons)
            for column, ranking in enumerate(comparison.rankings)
        }

        def of(ranking: Ranking) -> Pairs:
            if id(ranking) not in together:
                return ranking.pairs(weights, precision=self.precision)
            place, cells = together.pop(id(ranking))
            pairs, lost = ranking.pairs_and_losses(weights, cells, precision=self.precision)
            losses[place].append(lost)
            return pairs

        pairs = [
            [[of(ranking) for ranking in of_group] for of_group in of_partition]
            for of_partition in self.rankings
        ]
        for place, comparison in enumerate(self.comparisons):
            for ranking, cells in zip(comparison.rankings, comparison.cells, strict=True):
                if id(ranking) in together:
                    losses[place].append(ranking.losses_by_cell(weights, cells))
        return pairs, losses

    def _tally(self, index: int, by_group: Sequence[Floats], result: Floats) -> None:
        partition = self.partitions[index]
        rows_of_all = []
        for group, sums in enumerate(by_group):
            rows = sums[tallies.SHARED :].reshape(len(self.columns), tallies.ROWS, -1)
            rows_of_all.append((sums[0], rows))
            result[ROW["images"], group] = sums[0]
            result[ROW["positives"], group] = sums[1]
            for column, scored in enumerate(self.columns):
                for first, where, called in zip(
                    ("true_positives", "true_positives" + AT_SPECIFICITY),
                    (tallies.AT, tallies.AT_SPECIFICITY),
                    scored.called,
                    strict=True,
                ):
                    if called is not None:
                        at = ROW[first]
                        result[at : at + 2, group, column] = rows[column, where]
                result[
                    ROW["calibration_slope"] : ROW["calibration_intercept"] + 1, group, column
                ] = tallies.recalibrated(rows[column], self.fits[index][group][column])
            for place, name in enumerate(LOSSES, start=tallies.LOST.start):
                result[ROW[name], group] = rows[:, place]
            result[ROW["ece"], group] = tallies.ece(rows, sums[0])
        for group in range(len(partition.groups)):
            others = [rows_of_all[other] for other in partition.known if other != group]
            if others:
                images = sum((count for count, _ in others), np.zeros(result.shape[-1]))
                rows = sum((rows for _, rows in others), np.zeros(rows_of_all[0][1].shape))
                result[ROW["others_ece"], group] = tallies.ece(rows, images)


class Comparison:
    """AUROC of all others than each group, for the attributes that are known on the same images.

    Of all pairs those with a group's positive or a group's negative are taken away, and those with
    both given back: one pass over the images instead of one per group. `rankings` are those of the
    known images by column, `members` the partitions with their places in the batch, `images` the
    number of all images.
    """

    def __init__(
        self, rankings: Sequence[Ranking], images: int, members: Sequence[tuple[int, Partition]]
    ) -> None:
        self.rankings = rankings
        cell, inside = cells_of(images, [partition.images for _, partition in members])
        self.members = [
            (index, partition, matrix)
            for (index, partition), matrix in zip(members, inside, strict=True)
        ]
        self.cells = [Cells.of(ranking, cell) for ranking in rankings]

    def fill(
        self,
        losses: Sequence[tuple[Floats, Floats]],
        pairs: list[list[list[Pairs]]],
        results: list[Floats],
    ) -> None:
        """Write the AUROCs into `results`, as :meth:`Batch.statistics` returns them.

        `losses` are by column what ``losses_by_cell`` gives.
        """
        for column, (by_positive, by_negative) in enumerate(losses):
            for index, partition, inside in self.members:
                lost = by_positive.sum(axis=0) - inside @ (by_positive + by_negative)
                own = [of_group[column] for of_group in pairs[index]]
                known = partition.known
                positives = sum(own[group].positives for group in known)
                negatives = sum(own[group].negatives for group in known)
                for group, found in enumerate(own):
                    there = group in known  # the group "unknown" has no part in the totals
                    area = 1.0 - ratio(
                        lost[group] + there * found.lost,
                        (positives - there * found.positives)
                        * (negatives - there * found.negatives),
                    )
                    results[index][ROW["others_auroc"], group, column] = area


def _in_threads(
    work: Callable[[Integers], Made], groups: Sequence[Sequence[Integers]], threads: int | None
) -> list[list[Made]]:
    """`work` of the images of every group, by partition."""
    every = iter(in_threads(work, [images for each in groups for images in each], threads))
    return [[next(every) for _ in each] for each in groups]


def _comparable(
    partitions: Sequence[Partition],
) -> list[tuple[Integers, list[tuple[int, Partition]]]]:
    """Partitions with their places, by the images whose groups they know."""
    found: dict[bytes, tuple[Integers, list[tuple[int, Partition]]]] = {}
    for index, partition in enumerate(partitions):
        if len(partition.known) < 2 and len(partition.groups) < 2:
            continue  # there are no others
        known = partition.others(-1)
        found.setdefault(known.tobytes(), (known, []))[1].append((index, partition))
    return list(found.values())
