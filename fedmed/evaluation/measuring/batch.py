"""The statistics of a few columns, overall and by group, under many weightings of the images.

The full sample is the weighting by ones, so that values and resamples come from the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fedmed.evaluation.calibration import Recalibration, recalibrate
from fedmed.evaluation.measuring import tallies
from fedmed.evaluation.measuring.ranking import Pairs, Ranking, ratio
from fedmed.evaluation.measuring.scratch import gathered
from fedmed.evaluation.metrics import AT_SPECIFICITY, LOSSES, OF_OTHERS, of_kind
from fedmed.evaluation.tables.groups import UNKNOWN

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

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
    """Everything about a few columns that does not depend on the weights."""

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
    ) -> None:
        self.columns, self.partitions = columns, partitions
        self.rows = [[patient[chosen] for chosen in p.images] for p in partitions]
        self.precision, self.tallied = precision, tallied
        self.fits: list[list[list[Recalibration]]] = []  # by partition, group, column
        self.features: list[list[Floats]] = []
        for partition in partitions if tallied else ():
            fits = [
                [recalibrate(labels[chosen], column.scores[chosen]) for column in columns]
                for chosen in partition.images
            ]
            self.fits.append(fits)
            self.features.append(
                [
                    tallies.features(labels, columns, fit, chosen)
                    for fit, chosen in zip(fits, partition.images, strict=True)
                ]
            )
        self.rankings = [
            [
                [Ranking(labels, column.scores, chosen, patient) for column in columns]
                for chosen in partition.images
            ]
            for partition in (partitions if ranked else ())
        ]
        self.comparisons = _comparisons(labels, patient, columns, partitions) if ranked else []

    def statistics(self, weights: Floats) -> list[Floats]:
        """Per partition [STATISTICS, groups, columns, r] by column of `weights`
        [patients, r].

        NaN where a statistic is not defined or was not asked for.
        """
        shape = (len(self.columns), weights.shape[1])
        results = [
            np.full((len(STATISTICS), len(partition.groups), *shape), np.nan)
            for partition in self.partitions
        ]
        for index, result in enumerate(results):
            if self.tallied:
                self._tally(index, weights, result)
        pairs = [
            [
                [ranking.pairs(weights, precision=self.precision) for ranking in of_group]
                for of_group in of_partition
            ]
            for of_partition in self.rankings
        ]
        for of_partition, result in zip(pairs, results, strict=False):  # no pairs: AUROC not asked
            for group, of_group in enumerate(of_partition):
                for column, found in enumerate(of_group):
                    result[ROW["auroc"], group, column] = found.auroc
                    result[ROW["auprc"], group, column] = found.precision
        for comparison in self.comparisons:
            comparison.fill(weights, pairs, results)
        return results

    def _tally(self, index: int, weights: Floats, result: Floats) -> None:
        partition = self.partitions[index]
        rows_of_all = []
        for group, (rows_of_group, features) in enumerate(
            zip(self.rows[index], self.features[index], strict=True)
        ):
            sums = features @ gathered("group", weights, rows_of_group)
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
                images = sum((count for count, _ in others), np.zeros(weights.shape[1]))
                rows = sum((rows for _, rows in others), np.zeros(rows_of_all[0][1].shape))
                result[ROW["others_ece"], group] = tallies.ece(rows, images)


class Comparison:
    """AUROC of all others than each group, for the attributes that are known on the same images.

    Of all pairs those with a group's positive or a group's negative are taken away, and those with
    both given back: one pass over the images instead of one per group.
    """

    def __init__(
        self,
        labels: Integers,
        patient: Integers,
        columns: list[tallies.Scored],
        known: Integers,
    ) -> None:
        self.rankings = [Ranking(labels, column.scores, known, patient) for column in columns]
        self.images = labels.size
        self.members: list[tuple[int, Partition, list[tuple[Any, ...]]]] = []

    def add(self, index: int, partition: Partition) -> None:
        """Compare the groups of this partition, the `index`-th of the batch."""
        group = np.zeros(self.images, dtype=np.int64)
        for position, chosen in enumerate(partition.images):
            group[chosen] = position
        sums: list[tuple[Any, ...]] = [
            tuple(
                sparse.csr_array(
                    (np.ones(own.size), (group[own], np.arange(own.size))),
                    shape=(len(partition.groups), own.size),
                )
                for own in (ranking.positives, ranking.negatives)
            )
            for ranking in self.rankings
        ]
        self.members.append((index, partition, sums))

    def fill(self, weights: Floats, pairs: list[list[list[Pairs]]], results: list[Floats]) -> None:
        """Write the AUROCs into `results`, as :meth:`Batch.statistics` returns them."""
        for column, ranking in enumerate(self.rankings):
            by_positive, by_negative = ranking.losses(weights)
            for index, partition, sums in self.members:
                of_positives, of_negatives = sums[column]
                taken = of_positives @ by_positive
                lost = taken.sum(axis=0) - taken - of_negatives @ by_negative
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


def _comparisons(
    labels: Integers,
    patient: Integers,
    columns: list[tallies.Scored],
    partitions: Sequence[Partition],
) -> list[Comparison]:
    found: dict[bytes, Comparison] = {}
    for index, partition in enumerate(partitions):
        if len(partition.known) < 2 and len(partition.groups) < 2:
            continue  # there are no others
        known = partition.others(-1)
        if known.tobytes() not in found:
            found[known.tobytes()] = Comparison(labels, patient, columns, known)
        found[known.tobytes()].add(index, partition)
    return list(found.values())
