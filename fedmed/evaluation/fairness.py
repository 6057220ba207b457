"""How a classifier treats groups of patients: counts per group, and the gaps between groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedmed.base.sexes import SEXES
from fedmed.evaluation.group_gaps import GAPS, RANGES
from fedmed.evaluation.intervals.gaps import Gap
from fedmed.evaluation.measuring.measures import Measured, Quantity, largest, spread
from fedmed.evaluation.metrics import METRICS
from fedmed.evaluation.tables import groups

MINIMUM: Final = 10  # positives and negatives below which a group gets no numbers
TOO_FEW: Final = "too few"
POINTS: Final = (
    8  # below which a correlation is not told: of three, two in five are above 0.8 by luck
)
PAIRS: Final = {"sex": SEXES}  # attributes whose accuracy gap is between two groups


@dataclass(frozen=True, kw_only=True)
class Count:
    """Images, patients and images with the disease of one group.

    `note` says why it has no numbers (TOO_FEW at its start), `detail` of what there are how many
    where these counts do not show it.
    """

    group: str
    n: int
    patients: int
    positives: int
    note: str | None
    detail: str | None = None

    @property
    def negatives(self) -> int:
        """Images without the disease."""
        return self.n - self.positives

    @property
    def prevalence(self) -> float:
        """Share of images with the disease."""
        return self.positives / self.n if self.n else math.nan


def counts(
    labels: npt.NDArray[np.int64], patients: npt.NDArray[np.int64], members: pd.Series
) -> list[Count]:
    """Counts of every group in its natural order, "unknown" last.

    A group with fewer than MINIMUM positive or negative images has the note "too few". `labels`
    [n] in {0, 1}, `patients` [n] codes, `members` [n] text without nulls.
    """
    codes, names = pd.factorize(members)
    found = []
    for code in sorted(range(len(names)), key=lambda code: groups.order(names[code])):
        chosen = codes == code
        n, positives = int(chosen.sum()), int(labels[chosen].sum())
        found.append(
            Count(
                group=str(names[code]),
                n=n,
                patients=int(np.count_nonzero(np.bincount(patients[chosen]))),
                positives=positives,
                note=TOO_FEW if min(positives, n - positives) < MINIMUM else None,
            )
        )
    return found


def compared(found: Sequence[Count]) -> list[str]:
    """Names of the groups that gaps are taken over: with numbers, and known."""
    return [count.group for count in found if count.note is None and count.group != groups.UNKNOWN]


def gap_quantities(measured: Measured, attribute: str, names: Sequence[str]) -> dict[str, Gap]:
    """Gaps between the named groups under every column, by the names of GAPS of ``group_gaps``.

    `statistical_parity_difference` (largest minus smallest selection rate) and
    `equalised_odds_difference` (the larger of the ranges of true and false positive rates) are
    fairlearn's demographic parity and equalized odds differences (Agarwal et al. 2018).
    `calibration_gap` is the range of the expected calibration error, which has no interval (it is
    larger in smaller groups by luck alone); the rest are ranges too, but for `accuracy_gap`, the
    quantity of Tayebi Arasteh et al. 2024: of the sexes accuracy(F) minus accuracy(M), with its
    sign; of another attribute the largest size of a group's accuracy minus that of all others. A
    gap that needs two groups is absent below two.
    """
    if len(names) < 2:
        return {}
    found = {}
    for key, metric in RANGES.items():
        each = [measured.quantity(metric, attribute, name) for name in names]
        found[key] = Gap(
            spread(each),
            (tuple(one - two for one, two in combinations(each, 2)),),
            most=METRICS[metric].most - METRICS[metric].least,
            sure=GAPS[key].interval,
        )
    odds = [found["tpr_gap"], found["fpr_gap"]]
    found["equalised_odds_difference"] = Gap(
        largest([gap.quantity for gap in odds]),
        (tuple(pair for gap in odds for pair in gap.contrasts[0]),),
    )
    signed = accuracy_gaps(measured, attribute, names)
    if attribute not in PAIRS:
        sizes = [side for gap in signed.values() for side in (gap, (gap - gap) - gap)]
        found["accuracy_gap"] = Gap(largest(sizes), (tuple(signed.values()),))
    elif signed:
        (gap,) = signed.values()
        found["accuracy_gap"] = Gap(gap)
    return found


def accuracy_gaps(measured: Measured, attribute: str, names: Sequence[str]) -> dict[str, Quantity]:
    """Signed accuracy gaps by group: the first of a pair minus the second, or each minus others.

    Others are all images of the other known groups, also of groups with too few. Empty where a
    group of the pair is not among `names`.
    """
    if attribute in PAIRS:
        first, second = PAIRS[attribute]
        if first not in names or second not in names:
            return {}
        accuracy = {
            name: measured.quantity("accuracy", attribute, name) for name in (first, second)
        }
        return {first: accuracy[first] - accuracy[second]}
    return {name: against_others(measured, "accuracy", attribute, name) for name in names}


def against_others(measured: Measured, metric: str, attribute: str, name: str) -> Quantity:
    """A group's metric minus that of all images of the other known groups."""
    own = measured.quantity(metric, attribute, name)
    return own - measured.quantity(metric, attribute, name, others=True)


def left_out(found: Sequence[Count]) -> list[str]:
    """What of an attribute is not compared, and why."""
    notes = [
        f"{count.group} is not compared: {TOO_FEW} ({count.detail or seen(count)}; "
        f"{MINIMUM} of each needed)"
        for count in found
        if count.note is not None and count.group != groups.UNKNOWN
    ]
    return notes + [
        f"{count.n} images of unknown group are not compared"
        for count in found
        if count.group == groups.UNKNOWN
    ]


def seen(count: Count | None) -> str:
    """How many images of each class a group has; None: it has none."""
    positives, negatives = (0, 0) if count is None else (count.positives, count.negatives)
    return f"{positives} positive, {negatives} negative images"


def pearson(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Pearson's correlation; None below POINTS points or where one side does not vary."""
    if len(x) < POINTS or len(set(x)) == 1 or len(set(y)) == 1:
        return None
    r = float(np.corrcoef(x, y)[0, 1])
    return r if math.isfinite(r) else None
