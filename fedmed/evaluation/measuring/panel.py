"""Test images under one or more models: their groups counted, their metrics measured.

A panel is of one target. Several targets are averaged by a macro panel, which answers the same
questions; all its targets see the same resamples of patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedmed.evaluation import fairness
from fedmed.evaluation.fairness import Count
from fedmed.evaluation.group_gaps import GAPS
from fedmed.evaluation.intervals.gaps import Gap
from fedmed.evaluation.intervals.quantity import Quantity, average, undefined
from fedmed.evaluation.intervals.resampling import Progress, clusters, part_of
from fedmed.evaluation.measuring.measures import Column, Measured, measure
from fedmed.evaluation.metrics import METRICS
from fedmed.evaluation.tables import groups


class Panel(Protocol):
    """What is known of a set of test images: counts and quantities, one column per model."""

    @property
    def counts(self) -> Mapping[str, list[Count]]:
        """Groups of each attribute, in natural order."""

    @property
    def stratified(self) -> bool:
        """Whether every resample has as many patients with the disease as the sample."""

    def quantity(
        self, metric: str, attribute: str | None = None, group: str | None = None
    ) -> Quantity:
        """A metric overall or of one group."""

    def against_others(self, metric: str, attribute: str, group: str) -> Quantity:
        """A group's metric minus that of all others."""

    def gaps(self, attribute: str) -> dict[str, Gap]:
        """Gaps between the compared groups, as `fairness.gap_quantities` names them."""

    def accuracy_gaps(self, attribute: str) -> dict[str, Quantity]:
        """Signed accuracy gaps by group, as `fairness.accuracy_gaps`."""


@dataclass(frozen=True)
class SinglePanel:
    """One target's test images; `labels` and `patients` [n] are codes, in the table's order."""

    labels: npt.NDArray[np.int64]
    patients: npt.NDArray[np.int64]
    counts: Mapping[str, list[Count]]
    measured: Measured

    @property
    def stratified(self) -> bool:
        """Whether patients were drawn by their label: of one target, when none has both."""
        return len(self.measured.design.strata) > 1

    def quantity(
        self, metric: str, attribute: str | None = None, group: str | None = None
    ) -> Quantity:
        """A metric overall or of one group.

        A mean of groups is over those with enough images of both classes, each counting the same;
        NaN where there is none.
        """
        row = METRICS.get(metric)
        if row is None or not row.mean_of:
            return self.measured.quantity(metric, attribute, group)
        each = self.each_group(row.mean_of, row.over)
        if not each:
            return undefined(self.measured.quantity(row.mean_of))
        return average(list(each.values()))

    def each_group(self, metric: str, attribute: str) -> dict[str, Quantity]:
        """A metric of every group of an attribute that is known and has enough images."""
        names = fairness.compared(self.counts.get(attribute, []))
        return {name: self.measured.quantity(metric, attribute, name) for name in names}

    def against_others(self, metric: str, attribute: str, group: str) -> Quantity:
        """A group's metric minus that of all others."""
        return fairness.against_others(self.measured, metric, attribute, group)

    def gaps(self, attribute: str) -> dict[str, Gap]:
        """Gaps between the compared groups."""
        names = fairness.compared(self.counts[attribute])
        return fairness.gap_quantities(self.measured, attribute, names)

    def accuracy_gaps(self, attribute: str) -> dict[str, Quantity]:
        """Signed accuracy gaps by group."""
        names = fairness.compared(self.counts[attribute])
        return fairness.accuracy_gaps(self.measured, attribute, names)


@dataclass(frozen=True)
class MacroPanel:
    """Unweighted means over targets; `paired`: all targets are of the same images.

    A group's mean needs numbers for every target; a gap's is over the targets that have it. Means
    over targets of different images have values, but no resamples.
    """

    targets: Mapping[str, SinglePanel]
    paired: bool

    @property
    def counts(self) -> Mapping[str, list[Count]]:
        """Groups by attribute: their images, and the mean over targets of those with it.

        A group that has too few under a target names it.
        """
        each = {name: panel.counts for name, panel in self.targets.items()}
        shared = [a for a in groups.ATTRIBUTES if all(a in counts for counts in each.values())]
        return {a: _together({name: c[a] for name, c in each.items()}) for a in shared}

    @property
    def stratified(self) -> bool:
        """Never: patients who are ill of one target are healthy ones of another."""
        return False

    def quantity(
        self, metric: str, attribute: str | None = None, group: str | None = None
    ) -> Quantity:
        """The mean over targets of a metric."""
        return self._mean([p.quantity(metric, attribute, group) for p in self.targets.values()])

    def against_others(self, metric: str, attribute: str, group: str) -> Quantity:
        """The mean over targets of a group's metric minus that of all others."""
        return self._mean(
            [p.against_others(metric, attribute, group) for p in self.targets.values()]
        )

    def gaps(self, attribute: str) -> dict[str, Gap]:
        """The mean gap over the targets that have it."""
        each = [panel.gaps(attribute) for panel in self.targets.values()]
        means = self._means([{key: gap.quantity for key, gap in found.items()} for found in each])
        return {
            key: Gap(
                mean,
                self._contrasts([gaps[key] for gaps in each if key in gaps]),
                most=next(gaps[key].most for gaps in each if key in gaps),
                sure=GAPS[key].interval,
            )
            for key, mean in means.items()
        }

    def accuracy_gaps(self, attribute: str) -> dict[str, Quantity]:
        """The mean signed accuracy gap over the targets that have it."""
        return self._means([panel.accuracy_gaps(attribute) for panel in self.targets.values()])

    def _contrasts(self, gaps: Sequence[Gap]) -> tuple[tuple[Quantity, ...], ...]:
        if self.paired:
            return tuple(contrasts for gap in gaps for contrasts in gap.contrasts)
        return ()

    def _means(self, each: Sequence[Mapping[str, Quantity]]) -> dict[str, Quantity]:
        keys = list(dict.fromkeys(key for found in each for key in found))
        return {key: self._mean([found[key] for found in each if key in found]) for key in keys}

    def _mean(self, quantities: Sequence[Quantity]) -> Quantity:
        if self.paired:
            return average(quantities)
        values = np.mean([quantity.values for quantity in quantities], axis=0)
        return replace(undefined(quantities[0]), values=values)


def panels(
    tests: Mapping[str, pd.DataFrame],
    columns: Mapping[str, Sequence[Column]],
    *,
    resamples: int,
    seed: int,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, SinglePanel]:
    """Measure the columns of each target on its test rows, on the same resamples of patients.

    Rows have the columns of the schema and are in the order of images. With several targets
    patients are drawn without strata.
    """
    return {
        target: _panel(
            test,
            columns[target],
            by_label=len(tests) == 1,
            resamples=resamples,
            seed=seed,
            threads=threads,
            progress=part_of(progress, done, len(tests)),
        )
        for done, (target, test) in enumerate(tests.items())
    }


def paired_targets(tests: Mapping[str, pd.DataFrame]) -> bool:
    """Whether all targets are of the same images; else their resamples are not the same."""
    first = next(iter(tests.values()))["image"].tolist()
    return all(test["image"].tolist() == first for test in tests.values())


def _panel(
    test: pd.DataFrame,
    columns: Sequence[Column],
    *,
    by_label: bool,
    resamples: int,
    seed: int,
    threads: int | None,
    progress: Progress | None,
) -> SinglePanel:
    labels = test["label"].to_numpy(dtype=np.int64)
    patients = clusters(test["patient_id"])
    members = groups.of(test)
    return SinglePanel(
        labels=labels,
        patients=patients,
        counts={name: fairness.counts(labels, patients, text) for name, text in members.items()},
        measured=measure(
            columns,
            labels,
            patients,
            {name: text.to_numpy(dtype=object) for name, text in members.items()},
            resamples=resamples,
            seed=seed,
            by_label=by_label,
            threads=threads,
            progress=progress,
        ),
    )


def _together(each: Mapping[str, Sequence[Count]]) -> list[Count]:
    """Counts of the same images under several targets, by group."""
    by_group: dict[str, dict[str, Count]] = {}
    for target, found in each.items():
        for count in found:
            by_group.setdefault(count.group, {})[target] = count
    return [_of_targets(group, list(each), same) for group, same in by_group.items()]


def _of_targets(group: str, targets: Sequence[str], same: Mapping[str, Count]) -> Count:
    few = [t for t in targets if t not in same or same[t].note is not None]
    fewest = min(few, default=None, key=lambda t: _rarer(same.get(t)))
    numbers = same.get(fewest) if fewest is not None else None
    return Count(
        group=group,
        n=max(count.n for count in same.values()),
        patients=max(count.patients for count in same.values()),
        positives=round(float(np.mean([count.positives for count in same.values()]))),
        note=None if fewest is None else f"{fairness.TOO_FEW} (target {fewest})",
        detail=None if fewest is None else f"target {fewest}: {fairness.seen(numbers)}",
    )


def _rarer(count: Count | None) -> int:
    """Images of the rarer class; 0 where there are none."""
    return 0 if count is None else min(count.positives, count.negatives)
