"""The metrics: one row for each, in the facts from which everything that lists metrics is made.

To add a metric of calls at a threshold, or a mean of a loss over images, add its row here, with the
function that it is: results, groups, comparisons, reports and tables show it where ``shown`` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from fedmed.evaluation import calibration, discrimination

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Number = Any  # an array of float64, or one
Kind = Literal["ranking", "calls", "loss", "calibration", "mean of groups"]
Direction = Literal["higher", "lower", "target", "neither"]
Place = Literal[
    "result",  # metrics in result.json, the first table of fedmed evaluate, the report's measures
    "result at fixed specificity",  # at_specificity in result.json
    "report at fixed specificity",
    "groups",  # rows by group in result.json
    "intervals of groups",
    "detectable in groups",
    "figures of groups",  # in the report
    "comparison",  # arms in comparison.json, and TensorBoard
    "comparison of groups",  # in comparison.json, and columns of fedmed evaluate
    "headline",  # whose difference from the baseline is tested together with the gaps
    "headline between schemes",  # the same, of arms that train by another scheme than the baseline
    "summary",  # beside AUROC in summary.csv and the report's table of arms
    "terminal",  # beside AUROC in the table of arms of fedmed evaluate
]
AT_SPECIFICITY: Final = "_at_specificity"


@dataclass(frozen=True)
class Counts:
    """Images by label and call at a threshold: sums over images, or 0 and 1 of single ones."""

    images: Number
    positives: Number
    negatives: Number
    tp: Number
    fp: Number

    @classmethod
    def of_each(cls, truth: Floats, called: Floats) -> Counts:
        """Of single images, by label and call, each 0 or 1."""
        return cls(
            images=np.ones_like(truth),
            positives=truth,
            negatives=1.0 - truth,
            tp=called * truth,
            fp=called * (1.0 - truth),
        )

    @property
    def tn(self) -> Number:
        """Healthy images called healthy."""
        return self.negatives - self.fp

    @property
    def fn(self) -> Number:
        """Ill images called healthy."""
        return self.positives - self.tp

    @property
    def called(self) -> Number:
        """Images called ill."""
        return self.tp + self.fp

    @property
    def cleared(self) -> Number:
        """Images called healthy."""
        return self.images - self.tp - self.fp

    @property
    def right(self) -> Number:
        """Images called what they are."""
        return self.tp + self.negatives - self.fp


Share = Callable[[Counts], tuple[Number, Number]]
Loss = Callable[[Floats | Integers, Floats], Floats]
Plain = Callable[[npt.ArrayLike, npt.ArrayLike], float]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a metric is, how it is computed, and where it is shown.

    ``title`` is what people read, with ``short`` for a terminal's columns where that differs.
    ``ideal`` is a perfect model's value; None: neither more nor less is better. ``kind`` says what
    it is made from. Of ``calls`` at a threshold ``share`` gives a numerator and a denominator,
    each linear in the counts; of a ``loss`` ``loss`` (label, score) gives each image's. A ``mean of
    groups`` is the mean of the metric ``mean_of`` over the groups of the attribute ``over`` that
    have numbers (:mod:`fedmed.evaluation.measuring.panel`). Others are computed in ``measuring``
    and ``intervals.influence``, and ``plain`` is theirs of one sample, here of one group.
    """

    name: str
    title: str
    kind: Kind
    least: float = 0.0
    most: float = 1.0
    ideal: float | None
    meaning: str
    source: str = ""
    share: Share | None = None
    loss: Loss | None = None
    plain: Plain | None = None
    mean_of: str = ""
    over: str = ""
    short: str = ""
    in_groups: str = ""  # its key in a group's row where that differs
    interval: bool = True  # of all test images
    of_others: bool = False  # of other kinds than calls and losses: is it measured of all others?
    chance: float | None = None  # a blind model's value, where that is the same for every cohort
    shown: tuple[Place, ...]

    @property
    def direction(self) -> Direction:
        """Whether more or less is better, or what is nearer to ``ideal``."""
        if self.ideal is None:
            return "neither"
        if self.ideal == self.most:
            return "higher"
        return "lower" if self.ideal == self.least else "target"

    @property
    def thresholds(self) -> tuple[str, ...]:
        """The thresholds, of validation images, that it is measured at."""
        return ("youden", "at specificity") if self.kind == "calls" else ()

    @property
    def heading(self) -> str:
        """Its title at the head of a column."""
        return self.title[0].upper() + self.title[1:]

    @property
    def word(self) -> str:
        """Its title in a terminal's tables."""
        return self.short or self.title

    @property
    def group_key(self) -> str:
        """Its key in a group's row."""
        return self.in_groups or self.name

    def of(
        self, labels: npt.ArrayLike, scores: npt.ArrayLike, threshold: float | None = None
    ) -> float:
        """Its value on these images, of which score >= `threshold` are called ill; or NaN.

        Raises UserError for labels other than 0 and 1, and for scores that are no numbers.
        """
        if self.plain is not None:
            return self.plain(labels, scores)
        truth, values = discrimination.arrays(labels, scores)
        if self.loss is not None:
            return float(np.mean(self.loss(truth, values))) if truth.size else math.nan
        if self.share is None or threshold is None:
            return math.nan
        called = values >= threshold
        each = (np.ones(truth.size), truth, 1 - truth, called * truth, called * (1 - truth))
        top, bottom = self.share(Counts(*(np.sum(one, dtype=np.float64) for one in each)))
        return float(top / bottom) if bottom > 0 else math.nan


_ROWS = (
    Metric(
        name="auroc",
        title="AUROC",
        kind="ranking",
        ideal=1.0,
        chance=0.5,
        meaning="chance that an ill image scores above a healthy one, ties counting a half",
        source="Hanley and McNeil 1982",
        plain=discrimination.auroc,
        of_others=True,
        shown=(
            *("result", "groups", "intervals of groups", "detectable in groups"),
            *("figures of groups", "comparison", "comparison of groups", "headline"),
        ),
    ),
    Metric(
        name="within_hospital_auroc",
        title="within-hospital AUROC",
        kind="mean of groups",
        mean_of="auroc",
        over="hospital",
        ideal=1.0,
        chance=0.5,
        meaning="mean over hospitals of the AUROC of each one's own test patients",
        source="no pair of patients of two hospitals, whose scores may be of two models",
        plain=discrimination.auroc,
        shown=("result", "comparison", "headline between schemes", "summary", "terminal"),
    ),
    Metric(
        name="auprc",
        title="AUPRC",
        kind="ranking",
        ideal=1.0,
        meaning="average precision: over distinct scores, recall gained times precision there",
        source="as scikit-learn; its floor is the prevalence",
        plain=discrimination.average_precision,
        shown=("result", "groups", "comparison"),
    ),
    Metric(
        name="fnr",
        title="false negative rate",
        short="missed (FNR)",
        kind="calls",
        ideal=0.0,
        meaning="FN / (TP + FN): missed among the ill",
        share=lambda c: (c.fn, c.positives),
        shown=(
            *("groups", "intervals of groups", "detectable in groups", "figures of groups"),
            "comparison of groups",
        ),
    ),
    Metric(
        name="fpr",
        title="false positive rate",
        short="false alarms (FPR)",
        kind="calls",
        ideal=0.0,
        meaning="FP / (FP + TN): false alarms among the healthy",
        share=lambda c: (c.fp, c.negatives),
        shown=("groups", "intervals of groups", "comparison of groups"),
    ),
    Metric(
        name="accuracy",
        title="accuracy",
        kind="calls",
        ideal=1.0,
        meaning="(TP + TN) / images: share that is called right",
        share=lambda c: (c.right, c.images),
        shown=(
            *("result", "result at fixed specificity", "groups", "intervals of groups"),
            *("detectable in groups", "comparison", "comparison of groups", "summary", "terminal"),
        ),
    ),
    Metric(
        name="sensitivity",
        title="sensitivity",
        kind="calls",
        ideal=1.0,
        meaning="TP / (TP + FN): share of the ill called ill",
        source="Yerushalmy 1947",
        share=lambda c: (c.tp, c.positives),
        in_groups="tpr",
        shown=(
            *("result", "result at fixed specificity", "report at fixed specificity", "groups"),
            *("comparison", "summary", "terminal"),
        ),
    ),
    Metric(
        name="specificity",
        title="specificity",
        kind="calls",
        ideal=1.0,
        meaning="TN / (FP + TN): share of the healthy called healthy",
        source="Yerushalmy 1947",
        share=lambda c: (c.tn, c.negatives),
        shown=("result", "result at fixed specificity", "comparison", "summary", "terminal"),
    ),
    Metric(
        name="ppv",
        title="positive predictive value",
        short="PPV",
        kind="calls",
        ideal=1.0,
        meaning="TP / (TP + FP): share of those called ill that are",
        share=lambda c: (c.tp, c.called),
        shown=("result", "result at fixed specificity"),
    ),
    Metric(
        name="npv",
        title="negative predictive value",
        short="NPV",
        kind="calls",
        ideal=1.0,
        meaning="TN / (TN + FN): share of those called healthy that are",
        share=lambda c: (c.tn, c.cleared),
        shown=("result",),
    ),
    Metric(
        name="selection_rate",
        title="selection rate",
        kind="calls",
        ideal=None,
        meaning="(TP + FP) / images: share that is called ill",
        share=lambda c: (c.called, c.images),
        shown=("groups", "intervals of groups"),
    ),
    Metric(
        name="brier",
        title="Brier score",
        kind="loss",
        ideal=0.0,
        meaning="mean of (score - label)^2",
        source="Brier 1950",
        loss=lambda truth, scores: (scores - truth) ** 2,
        shown=("result", "groups", "comparison"),
    ),
    Metric(
        name="ece",
        title="calibration error",
        short="calibration error (ECE)",
        kind="calibration",
        ideal=0.0,
        meaning="over 10 bins of equal width, |share of ill - mean score| by share of images",
        source="Naeini et al. 2015, for the probability of disease",
        plain=calibration.ece,
        of_others=True,
        interval=False,  # it is above 0 by luck, the more the fewer the images
        shown=("result", "groups", "comparison", "terminal"),
    ),
    Metric(
        name="calibration_slope",
        title="calibration slope",
        kind="calibration",
        least=-math.inf,
        most=math.inf,
        ideal=1.0,
        meaning="slope of a logistic fit of the label on the score's logit; below 1: overconfident",
        source="Cox 1958",
        plain=lambda labels, scores: calibration.recalibrate(labels, scores).slope,
        shown=("result", "groups"),
    ),
    Metric(
        name="calibration_intercept",
        title="calibration intercept",
        kind="calibration",
        least=-math.inf,
        most=math.inf,
        ideal=0.0,
        meaning="intercept of that fit",
        source="Cox 1958",
        plain=lambda labels, scores: calibration.recalibrate(labels, scores).intercept,
        interval=False,
        shown=("result", "groups"),
    ),
)

METRICS: Final[dict[str, Metric]] = {row.name: row for row in _ROWS}
"""Every metric by its name, in the order in which tables show them."""

SHARES: Final[dict[str, Share]] = {row.name: row.share for row in _ROWS if row.share is not None}
OF_OTHERS: Final = tuple(row.name for row in _ROWS if row.of_others)
LOSSES: Final[dict[str, Loss]] = {row.name: row.loss for row in _ROWS if row.loss is not None}


def of_kind(*kinds: Kind) -> tuple[str, ...]:
    """Names of the metrics of some kinds, in the order of the table."""
    return tuple(row.name for row in _ROWS if row.kind in kinds)


def shown(place: Place) -> dict[str, Metric]:
    """The metrics that a place shows, by name, in the order of the table."""
    return {row.name: row for row in _ROWS if place in row.shown}
