"""From predictions to numbers: discrimination, fairness and their uncertainty.

Needs numpy, scipy and pandas only, so that metrics can be computed again from
``predictions.parquet`` on a machine without torch or Flower. :func:`evaluate` takes one table,
:func:`compare` those of several arms and seeds, and :func:`auroc` and the like plain labels and
scores; docs/evaluation.md says what the numbers mean. Nothing is imported before it is used.
"""

from typing import TYPE_CHECKING

from fedmed.base import lazy

if TYPE_CHECKING:
    from fedmed.evaluation.calibration import Recalibration, ece, recalibrate
    from fedmed.evaluation.comparison.compare import from_directory
    from fedmed.evaluation.comparison.comparison import compare
    from fedmed.evaluation.discrimination import (
        auroc,
        average_precision,
        specificity_threshold,
        youden_threshold,
    )
    from fedmed.evaluation.evaluated import Evaluation, evaluate
    from fedmed.evaluation.intervals.delong import DeLong, delong
    from fedmed.evaluation.metrics import METRICS, Metric
else:
    __getattr__, __dir__ = lazy.attach(
        __name__,
        {
            "calibration": ("Recalibration", "ece", "recalibrate"),
            "comparison.compare": ("from_directory",),
            "comparison.comparison": ("compare",),
            "discrimination": (
                *("auroc", "average_precision", "specificity_threshold", "youden_threshold"),
            ),
            "evaluated": ("Evaluation", "evaluate"),
            "intervals.delong": ("DeLong", "delong"),
            "metrics": ("METRICS", "Metric"),
        },
    )

__all__ = [
    "METRICS",
    "DeLong",
    "Evaluation",
    "Metric",
    "Recalibration",
    "auroc",
    "average_precision",
    "compare",
    "delong",
    "ece",
    "evaluate",
    "from_directory",
    "recalibrate",
    "specificity_threshold",
    "youden_threshold",
]
