"""AUROC and average precision of many weightings of the same images at once."""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fedmed.evaluation.measuring.scratch import gathered, scratch

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

SHORT: Final = 64  # rows up to which numpy's own cumulative sum is as fast


class Pairs(NamedTuple):
    """Weight [r] of pairs whose negative scores higher (ties one half), and of each class.

    `precision` [r] is average precision: the sum over distinct scores of (recall gained) x
    (precision at that score), without interpolation; NaN where a class has no weight.
    """

    lost: Floats
    positives: Floats
    negatives: Floats
    precision: Floats

    @property
    def auroc(self) -> Floats:
        """Area under the receiver operating characteristic [r]; NaN where a class has no weight."""
        return 1.0 - ratio(self.lost, self.positives * self.negatives)


class Cells(NamedTuple):
    """In which cell each positive and each negative of a ranking is: [cells, p] and [cells, m]."""

    positives: sparse.csr_array
    negatives: sparse.csr_array

    @classmethod
    def of(cls, ranking: Ranking, cell: Integers) -> Cells:
        """From the cell of every image, counted from 0."""
        count = int(cell.max(initial=-1)) + 1
        return cls(
            *(
                sparse.csr_array(
                    (np.ones(own.size), (cell[own], np.arange(own.size))), shape=(count, own.size)
                )
                for own in (ranking.positives, ranking.negatives)
            )
        )


class Ranking:
    """Some of the images, ordered by falling score: what does not depend on the weights.

    `labels` and `scores` are those of all images [n], `members` the positions of the chosen ones,
    `patient` [n] the row of an image in tables of weights [patients, r], `order` that of
    :func:`falling`, so that many rankings need one sort.
    """

    def __init__(
        self,
        labels: Integers,
        scores: Floats,
        members: Integers,
        patient: Integers,
        order: Integers | None = None,
    ) -> None:
        if order is None:
            order = falling(scores)
        chosen = np.zeros(scores.size, dtype=bool)
        chosen[members] = True
        chosen = chosen[order]
        ill = labels[order] == 1
        self.positives, self.negatives = order[chosen & ill], order[chosen & ~ill]
        self.positive_rows, self.negative_rows = patient[self.positives], patient[self.negatives]
        ours, theirs = -scores[self.positives], -scores[self.negatives]  # both rising
        self.above = np.searchsorted(theirs, ours, "left")  # negatives scoring higher, per positive
        self.level = np.searchsorted(theirs, ours, "right")  # or as high
        self.through = np.searchsorted(ours, ours, "right")  # positives scoring as high or higher
        self.before = np.searchsorted(
            ours, theirs, "left"
        )  # positives scoring higher, per negative
        self.until = np.searchsorted(ours, theirs, "right")
        self.tied = bool(np.any(self.above != self.level))

    @property
    def defined(self) -> bool:
        """Whether both classes are present."""
        return bool(self.positives.size and self.negatives.size)

    def pairs(self, weights: Any, *, precision: bool = True) -> Pairs:
        """What AUROC and average precision are made of, by column of `weights` [patients, r].

        `precision` False leaves average precision out (NaN), which saves a third of the time.
        """
        positive = gathered("positive", weights, self.positive_rows)
        negative = gathered("negative", weights, self.negative_rows)
        false = cumulative(negative, "false")
        lost = _weighted(positive, self._higher(false, "higher"))
        positives, negatives = positive.sum(axis=0), false[-1].copy()
        if not (precision and self.defined):
            nothing = np.full(positives.shape, np.nan)
            return Pairs(lost, positives, negatives, nothing)
        hits = cumulative(positive, "hits")
        true = gathered("true", hits, self.through)
        called = gathered("called", false, self.level)
        called += true
        np.maximum(called, np.finfo(np.float64).tiny, out=called)  # nothing drawn up to here: 0 / 0
        np.divide(true, called, out=called)
        average = ratio(_weighted(positive, called), positives)
        average[negatives == 0] = np.nan
        return Pairs(lost, positives, negatives, average)

    def losses(self, weights: Floats) -> tuple[Floats, Floats]:
        """Weight of pairs in which the negative scores higher, ties one half, by image.

        For each positive [p, r] over all negatives, and for each negative [m, r] over all
        positives, in the order of `positives` and `negatives`. Both are good until this thread
        asks a ranking for losses again.
        """
        positive = gathered("positive", weights, self.positive_rows)
        negative = gathered("negative", weights, self.negative_rows)
        hits = cumulative(positive, "hits")
        lower = gathered("by_negative", hits, self.before)
        if self.tied:
            lower += gathered("until", hits, self.until)
            lower *= -0.5
        else:
            np.negative(lower, out=lower)
        lower += hits[-1]
        higher = self._higher(cumulative(negative, "false"), "by_positive")
        return np.multiply(positive, higher, out=higher), np.multiply(negative, lower, out=lower)

    def pairs_and_losses(
        self, weights: Any, cells: Cells, *, precision: bool = True
    ) -> tuple[Pairs, tuple[Floats, Floats]]:
        """:meth:`pairs` and :meth:`losses_by_cell`."""
        return self.pairs(weights, precision=precision), self.losses_by_cell(weights, cells)

    def losses_by_cell(self, weights: Any, cells: Cells) -> tuple[Floats, Floats]:
        """:meth:`losses` of the positives and of the negatives, summed by cell [cells, r] each."""
        of_positives, of_negatives = self.losses(weights)
        return cells.positives @ of_positives, cells.negatives @ of_negatives

    def auroc_derivative(self) -> tuple[Integers, Floats]:
        """Images and the derivatives of AUROC by their weights, all weights being one.

        The placement values of DeLong et al. (1988), less AUROC, over the size of the class.
        """
        p, m = self.positives.size, self.negatives.size
        lost_by_positive = 0.5 * (self.above + self.level) / m
        lost_by_negative = 1.0 - 0.5 * (self.before + self.until) / p
        lost = lost_by_positive.mean()
        images = np.concatenate([self.positives, self.negatives])
        return images, np.concatenate(
            [(lost - lost_by_positive) / p, (lost - lost_by_negative) / m]
        )

    def precision_derivative(self) -> tuple[Integers, Floats]:
        """Images and the derivatives of average precision by their weights, all being one."""
        p = self.positives.size
        called = (self.through + self.level).astype(np.float64)
        precision = self.through / called
        # What follows at this score or a lower one gains from a hit and loses from a false alarm.
        gain = np.append(np.cumsum((self.level / called**2)[::-1])[::-1], 0.0)
        loss = np.append(np.cumsum((self.through / called**2)[::-1])[::-1], 0.0)
        first = np.searchsorted(self.through, self.through, "left")  # of the positives tied with it
        own = precision + gain[first] - precision.mean()
        images = np.concatenate([self.positives, self.negatives])
        return images, np.concatenate([own / p, -loss[self.before] / p])

    def _higher(self, false: Floats, name: str) -> Floats:
        """Weight of negatives scoring higher than each positive, ties one half [p, r]."""
        higher = gathered(name, false, self.above)
        if self.tied:
            higher += gathered("level", false, self.level)
            higher *= 0.5
        return higher


def falling(scores: Floats) -> Integers:
    """Positions of all images by falling score, those of a tie in their order."""
    return np.argsort(-scores, kind="stable")


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Quotient, NaN where the denominator is not positive."""
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    result = np.full(shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def cumulative(rows: Floats, name: str) -> Floats:
    """Sums of the first 0, 1, ... n rows of [n, r]: [n + 1, r], in the scratch memory `name`.

    In blocks of about the square root of n rows: numpy's own is three times slower here.
    """
    n, r = rows.shape
    result = scratch(name, n + 1, r)
    result[0] = 0.0
    total = result[1:]
    if n <= SHORT:
        np.cumsum(rows, axis=0, out=total)
        return result
    size = math.isqrt(n)
    count = n // size
    whole = count * size
    given, blocks = rows[:whole].reshape(count, size, r), total[:whole].reshape(count, size, r)
    blocks[:, 0] = given[:, 0]
    for row in range(1, size):
        np.add(blocks[:, row - 1], given[:, row], out=blocks[:, row])
    offsets = np.cumsum(blocks[:-1, -1], axis=0)
    blocks[1:] += offsets[:, None]
    for row in range(whole, n):
        np.add(total[row - 1], rows[row], out=total[row])
    return result


def _weighted(weights: Floats, values: Floats) -> Floats:
    total: Floats = np.einsum("nr,nr->r", weights, values)
    return total
