"""Every metric of every scored column, overall and by group, with paired patient resamples.

    measured = measure(columns, labels, patients, {"sex": sexes})
    gap = measured.quantity("fnr", "sex", "F") - measured.quantity("fnr", "sex", "M")
    change = gap.select(["dp/seed-0"]) - gap.select(["plain/seed-0"])
    interval(change)  # fedmed.evaluation.intervals.intervals

A column is one score per image: one arm and seed. All columns see the same resamples of patients,
so any difference of quantities is paired, resample by resample. Thresholds are chosen beforehand
(on validation rows) and stay fixed in each resample, unless a column has redrawn ones: intervals
are those of the rates at that threshold, not of choosing it again. Resamples keep the number of
patients with and without disease: what depends on prevalence (accuracy, PPV, NPV, selection rate,
average precision) is measured at the prevalence of the test images, and its interval is not that of
another prevalence.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedmed.base.errors import UserError
from fedmed.evaluation.calibration import logit
from fedmed.evaluation.discrimination import arrays
from fedmed.evaluation.intervals import influence
from fedmed.evaluation.intervals.areas import Area
from fedmed.evaluation.intervals.quantity import Quantity, average, largest, smallest, spread
from fedmed.evaluation.intervals.rates import Rate
from fedmed.evaluation.intervals.resampling import (
    RESAMPLES,
    SEED,
    Design,
    Progress,
    for_each_block,
    part_of,
)
from fedmed.evaluation.intervals.terms import Terms
from fedmed.evaluation.measuring import large, redrawing, tallies
from fedmed.evaluation.measuring.batch import ROW, STATISTICS, Batch, Partition
from fedmed.evaluation.measuring.ranking import falling, ratio
from fedmed.evaluation.metrics import AT_SPECIFICITY, LOSSES, OF_OTHERS, SHARES, Counts, of_kind

__all__ = [
    "METRICS",
    "OTHERS_METRICS",
    "RESAMPLES",
    "SEED",
    "Column",
    "Measured",
    "Quantity",
    "average",
    "largest",
    "measure",
    "smallest",
    "spread",
]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_CALLS: Final = tuple(name + at for at in ("", AT_SPECIFICITY) for name in SHARES)
_RANKED: Final = of_kind("ranking")
METRICS: Final = (*_RANKED, *_CALLS, *of_kind("loss", "calibration"))
OTHERS_METRICS: Final = tuple(name for name in METRICS if name in (*_CALLS, *LOSSES, *OF_OTHERS))
FEATURES: Final = 16_000_000  # features held at once: columns are taken in batches


@dataclass(frozen=True, kw_only=True)
class Column:
    """Scores [n] (0 to 1) of one model, and its thresholds (score >= threshold is positive).

    Metrics that need an absent threshold are NaN. `specificity_threshold` serves the metrics that
    end in ``_at_specificity``. `redrawn` has both for each resample, where they are not held fixed
    (:mod:`redrawing`).
    """

    name: str
    scores: npt.ArrayLike
    threshold: float | None = None
    specificity_threshold: float | None = None
    redrawn: tallies.Redrawn | None = None


@dataclass(frozen=True)
class Measured:
    """Quantities of one set of images under all columns."""

    columns: tuple[str, ...]
    resamples: int
    images: int
    patients: int
    groups: dict[str, tuple[str, ...]]  # attribute -> its groups, sorted by text
    labels: Integers
    scored: tuple[tallies.Scored, ...]
    design: Design
    partitions: dict[str | None, Partition]
    # [STATISTICS, groups, columns, 1 + resamples]; the first of the last axis is the full sample
    statistics: dict[str | None, Floats]

    def quantity(
        self,
        metric: str,
        attribute: str | None = None,
        group: str | None = None,
        *,
        others: bool = False,
    ) -> Quantity:
        """A metric (of METRICS) overall, of one group, or of all others than the group.

        `others` (metrics of OTHERS_METRICS only) is the images of the attribute's other groups,
        without those of the group "unknown". Raises KeyError for an unknown name.
        """
        if metric not in (OTHERS_METRICS if others else METRICS):
            raise KeyError(metric)
        partition = self.partitions[attribute]
        if (group or "") not in partition.groups or (others and attribute is None):
            raise KeyError(group)
        index = partition.groups.index(group or "")
        chosen = partition.others(index) if others else partition.images[index]
        values, images = self._values(metric, attribute, index, others=others)
        influence = cache(partial(self._influence, metric, chosen))
        place = (metric, attribute, group, others)
        smooth = not (self._redrawn and metric in _CALLS)
        terms: Terms = ()
        if np.isnan(values[:, 0]).any() or not smooth:
            pass
        elif images is not None:
            terms = ((1.0, self._rate(place, chosen, values, images, influence)),)
        elif metric == "auroc":
            terms = ((1.0, self._area(place, chosen, values, influence)),)
        samples = np.ascontiguousarray(values[:, 1:].T)
        return Quantity(self.columns, values[:, 0].copy(), samples, influence, terms, smooth=smooth)

    @property
    def _redrawn(self) -> bool:
        """Whether any column's threshold is chosen anew in each resample."""
        return any(column.redrawn is not None for column in self.scored)

    def _rate(
        self,
        place: tuple[str, Hashable, Hashable, bool],
        chosen: Integers,
        values: Floats,
        images: Floats,
        influence: Callable[[], Floats],
    ) -> Rate:
        """A share of calls as the rate that it is."""
        return Rate(
            place,
            tuple(column.digest for column in self.scored),
            values[:, 0].copy(),
            images[:, 0].copy(),
            self.design.most,
            partial(self._people, place[0], chosen),
            influence,
        )

    def _area(
        self,
        place: Hashable,
        chosen: Integers,
        values: Floats,
        influence: Callable[[], Floats],
    ) -> Area:
        """An AUROC with the numbers of patients that it is of."""
        ill = self.labels[chosen] == 1
        patients = self.design.patient[chosen]
        return Area(
            place,
            tuple(column.digest for column in self.scored),
            values[:, 0].copy(),
            cache(lambda: (_different(patients[ill]), _different(patients[~ill]))),
            influence,
        )

    def _people(self, metric: str, chosen: Integers) -> Floats:
        """Patients [columns] with an image in a share's denominator."""
        name = metric.removesuffix(AT_SPECIFICITY)
        truth, patients = self.labels[chosen].astype(np.float64), self.design.patient[chosen]
        calls = [column.called[name != metric] for column in self.scored]
        bottoms = [
            SHARES[name](Counts.of_each(truth, called[chosen]))[1]
            for called in calls
            if called is not None
        ]
        return np.array([np.unique(patients[bottom > 0]).size for bottom in bottoms], dtype=float)

    def _values(
        self, metric: str, attribute: str | None, index: int, *, others: bool
    ) -> tuple[Floats, Floats | None]:
        """A metric [columns, 1 + resamples]; of a share of calls also how many images it is of."""
        kept = self.statistics[attribute]
        if metric not in (*LOSSES, *_CALLS):
            return kept[ROW["others_" + metric if others else metric], index], None

        def total(name: str) -> Floats:
            known = [g for g in self.partitions[attribute].known if g != index]
            result: Floats = kept[ROW[name], known if others else [index]].sum(axis=0)
            return result

        if metric in LOSSES:
            return ratio(total(metric), total("images")), None
        name = metric.removesuffix(AT_SPECIFICITY)
        at = metric.removeprefix(name)
        images, positives = total("images"), total("positives")
        counts = Counts(
            images=images,
            positives=positives,
            negatives=images - positives,
            tp=total("true_positives" + at),
            fp=total("false_positives" + at),
        )
        top, bottom = SHARES[name](counts)
        return ratio(top, bottom), bottom

    def _influence(self, metric: str, chosen: Integers) -> Floats:
        derivatives = np.column_stack(
            [influence.derivative(metric, self.labels, column, chosen) for column in self.scored]
        )
        return self.design.centred(derivatives)


def measure(
    columns: Sequence[Column],
    labels: npt.ArrayLike,
    patients: npt.ArrayLike,
    attributes: Mapping[str, npt.ArrayLike] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    metrics: Collection[str] = METRICS,
    by_label: bool = True,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Measure all columns on the same images and the same resamples.

    `labels` [n] in {0, 1}; `patients` [n] codes, images of a patient are drawn together (each image
    its own code where patients are unknown: see :func:`resampling.clusters`); `attributes` maps a
    name to the group of each image as text [n], "unknown" where it is missing. `resamples` 0
    measures without resampling. `metrics` may leave out what is not needed; it is NaN then.
    Unless `by_label` patients are drawn without strata, so that several targets share resamples.
    The result does not depend on `threads` (None: all cores). `progress` is told the share of the
    resamples that is done.

    Raises UserError for no column, a column named twice, lengths that differ, labels other than 0
    and 1, and scores that are not numbers from 0 to 1.
    """
    names = _names(columns)
    truth = arrays(labels, columns[0].scores)[0]
    scored = tuple(_scored(column, truth) for column in columns)
    _check_lengths({"patients": patients, **(attributes or {})}, truth.shape)
    design = Design.of(patients, truth, by_label=by_label)
    partitions = [Partition(None, ("",), (np.arange(truth.size),))]
    partitions += [_partition(name, codes) for name, codes in (attributes or {}).items()]
    kept = [
        np.empty((len(STATISTICS), len(p.groups), len(names), 1 + resamples)) for p in partitions
    ]
    batches = list(_at_once(len(names), truth.size * len(partitions)))
    for done, chosen in enumerate(batches):
        batch = _batch(truth, design, scored[chosen], partitions, metrics, threads)
        told = part_of(progress, done, len(batches))
        work = _filling(kept, batch, chosen, truth, design.patient)
        _resample(batch, design, work, resamples, seed, threads, told)
    by_name = {partition.attribute: partition for partition in partitions}
    return Measured(
        columns=tuple(names),
        resamples=resamples,
        images=truth.size,
        patients=design.patients,
        groups={name: p.groups for name, p in by_name.items() if name is not None},
        labels=truth,
        scored=scored,
        design=design,
        partitions=by_name,
        statistics={p.attribute: store for p, store in zip(partitions, kept, strict=True)},
    )


def _different(codes: Integers) -> int:
    """How many different codes there are; of a million images quicker than by sorting."""
    return int(np.count_nonzero(np.bincount(codes)))


def _batch(
    truth: Integers,
    design: Design,
    scored: Sequence[tallies.Scored],
    partitions: Sequence[Partition],
    metrics: Collection[str],
    threads: int | None,
) -> Batch:
    return Batch(
        truth,
        design.patient,
        list(scored),
        partitions,
        ranked=any(name in _RANKED for name in metrics),
        precision="auprc" in metrics,
        tallied=any(name not in _RANKED for name in metrics),
        large=truth.size >= large.FROM,
        threads=threads,
    )


def _resample(
    batch: Batch,
    design: Design,
    work: Callable[[slice, Any], None],
    resamples: int,
    seed: int,
    threads: int | None,
    progress: Progress | None,
) -> None:
    """Call ``work`` with the full sample, and then with blocks of resamples."""
    everybody = np.ones((design.patients, 1))
    work(slice(-1, 0), everybody.T.astype(np.uint8) if batch.large else everybody)
    for_each_block(
        design, resamples, seed, work, threads=threads, whole=batch.large, progress=progress
    )


def _at_once(columns: int, cells: int) -> Iterator[slice]:
    """Columns whose tallies of ``cells`` images each are in memory together."""
    size = max(1, FEATURES // max(1, cells * tallies.ROWS))
    return (slice(first, first + size) for first in range(0, columns, size))


def _filling(
    kept: Sequence[Floats], batch: Batch, chosen: slice, labels: Integers, patient: Integers
) -> Callable[[slice, Any], None]:
    """What puts the statistics of some resamples and of the ``chosen`` columns in their place."""

    def work(where: slice, weights: Any) -> None:
        each = batch.statistics(weights)
        redrawing.replace_calls(each, batch, labels, patient, where, weights)
        for store, statistics in zip(kept, each, strict=True):
            store[:, :, chosen, where.start + 1 : where.stop + 1] = statistics

    return work


def _names(columns: Sequence[Column]) -> list[str]:
    names = [column.name for column in columns]
    if not names:
        raise UserError("no scores to measure; give at least one column")
    if len(set(names)) < len(names):
        raise UserError(f"column '{max(names, key=names.count)}' is given twice; name it once")
    return names


def _check_lengths(given: Mapping[str, npt.ArrayLike], wanted: tuple[int, ...]) -> None:
    for name, codes in given.items():
        if np.shape(codes) != wanted:
            raise UserError(
                f"{name}: {np.shape(codes)} codes for {wanted[0]} images; give one each"
            )


def _scored(column: Column, labels: Integers) -> tallies.Scored:
    _, scores = arrays(labels, column.scores)
    outside = np.flatnonzero((scores < 0.0) | (scores > 1.0))
    if outside.size:
        raise UserError(
            f"{column.name}: score {outside[0] + 1} is {scores[outside[0]]}, outside 0 to 1; "
            "give the probability"
        )
    thresholds = (column.threshold, column.specificity_threshold)
    called = [None if t is None else (scores >= t).astype(np.float64) for t in thresholds]
    both = (called[0], called[1])
    return tallies.Scored(column.name, scores, logit(scores), both, falling(scores), column.redrawn)


def _partition(attribute: str, codes: npt.ArrayLike) -> Partition:
    code, given = pd.factorize(np.asarray(codes, dtype=object))
    groups = np.asarray(given, dtype=object).astype(str)
    ordered = np.argsort(groups)
    return Partition(
        attribute,
        tuple(str(groups[index]) for index in ordered),
        tuple(np.flatnonzero(code == index) for index in ordered),
    )
