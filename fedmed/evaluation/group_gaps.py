"""The gaps between groups: one row for each, with the metric that it is a range of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class GroupGap:
    """What a gap is called, and what it is made of.

    ``range_of`` is the metric of which it is the largest minus the smallest value over groups;
    :mod:`fedmed.evaluation.fairness` makes those that have none. Headline gaps are tested together
    in a comparison, and are those that the report and summary.csv show. A gap without ``interval``
    is larger than none by the groups' sizes alone, whatever is done to its resamples.
    """

    name: str
    title: str
    short: str = ""
    range_of: str = ""
    headline: bool = False
    interval: bool = True

    @property
    def heading(self) -> str:
        """Its title at the head of a column."""
        return self.title[0].upper() + self.title[1:]

    @property
    def word(self) -> str:
        """Its title in a terminal's tables."""
        return self.short or self.title


_ROWS = (
    GroupGap(name="auroc_gap", title="AUROC gap", range_of="auroc", headline=True),
    GroupGap(
        name="fnr_gap",
        title="false negative gap",
        short="FNR gap",
        range_of="fnr",
        headline=True,
    ),
    GroupGap(name="tpr_gap", title="true positive gap", short="TPR gap", range_of="sensitivity"),
    GroupGap(name="fpr_gap", title="false positive gap", short="FPR gap", range_of="fpr"),
    GroupGap(
        name="statistical_parity_difference",
        title="statistical parity difference",
        range_of="selection_rate",
        headline=True,
    ),
    GroupGap(name="calibration_gap", title="calibration gap", range_of="ece", interval=False),
    GroupGap(
        name="calibration_slope_gap",
        title="calibration slope gap",
        range_of="calibration_slope",
    ),
    GroupGap(
        name="calibration_intercept_gap",
        title="calibration intercept gap",
        range_of="calibration_intercept",
    ),
    GroupGap(name="equalised_odds_difference", title="equalised odds difference", headline=True),
    GroupGap(name="accuracy_gap", title="accuracy gap", headline=True),
)

GAPS: Final[dict[str, GroupGap]] = {row.name: row for row in _ROWS}
"""Every gap by its name, in the order in which tables show them."""

RANGES: Final = {row.name: row.range_of for row in _ROWS if row.range_of}
HEADLINE: Final = {row.name: row for row in _ROWS if row.headline}
