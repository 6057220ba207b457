"""From predictions to numbers: discrimination, fairness and their uncertainty.

Needs numpy, scipy and pandas only, so that metrics can be computed again from
``predictions.parquet`` on a machine without torch or Flower. :func:`evaluate` takes one table,
:func:`compare` those of several arms and seeds, and :func:`auroc` and the like plain labels and
scores; docs/evaluation.md says what the numbers mean. Nothing is imported before it is used.
"""

from typing import TYPE_CHECKING

from fedmed.base import lazy

if TYPE_CHECKING:
    from fedmed.evaluation.calibration import Recalibration, brier, ece, recalibrate
    from fedmed.evaluation.comparison.compare import from_directory
    from fedmed.evaluation.comparison.comparison import compare
    from fedmed.evaluation.discrimination import (
        Rates,
        auroc,
        average_precision,
        rates,
        specificity_threshold,
        youden_threshold,
    )
    from fedmed.evaluation.evaluated import Evaluation, evaluate
    from fedmed.evaluation.intervals.delong import DeLong, delong
else:
    __getattr__, __dir__ = lazy.attach(
        __name__,
        {
            "calibration": ("Recalibration", "brier", "ece", "recalibrate"),
            "comparison.compare": ("from_directory",),
            "comparison.comparison": ("compare",),
            "discrimination": (
                *("Rates", "auroc", "average_precision", "rates"),
                *("specificity_threshold", "youden_threshold"),
            ),
            "evaluated": ("Evaluation", "evaluate"),
            "intervals.delong": ("DeLong", "delong"),
        },
    )

__all__ = [
    "DeLong",
    "Evaluation",
    "Rates",
    "Recalibration",
    "auroc",
    "average_precision",
    "brier",
    "compare",
    "delong",
    "ece",
    "evaluate",
    "from_directory",
    "rates",
    "recalibrate",
    "specificity_threshold",
    "youden_threshold",
]
