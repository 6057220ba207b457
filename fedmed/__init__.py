"""fedmed: what does privacy cost a network of hospitals?

- :func:`run` trains the arms of a comparison, :func:`forecast` says before what they would cost,
  :func:`write_report` makes the page that compares them.
- :func:`evaluate` measures anyone's predictions, with fairness and intervals.
- :func:`plan` gives noise and epsilon of one training, :class:`PrivateTraining` trains any model
  by it.
- :func:`read_cohort` reads images with their patients and labels.

docs/library.md shows each. Nothing is imported before it is used.
"""

from typing import TYPE_CHECKING

from fedmed.base import lazy

if TYPE_CHECKING:
    from fedmed import data, evaluation, privacy
    from fedmed.base.errors import RunError, UserError
    from fedmed.data.reading import read_cohort
    from fedmed.evaluation.evaluated import Evaluation, evaluate
    from fedmed.library.comparing import Results, run, write_report
    from fedmed.library.forecasting import Forecasts, forecast
    from fedmed.privacy.plans.solving import plan
    from fedmed.training.own import PrivateTraining
else:
    __getattr__, __dir__ = lazy.attach(
        __name__,
        {
            "base.errors": ("RunError", "UserError"),
            "data.reading": ("read_cohort",),
            "evaluation.evaluated": ("Evaluation", "evaluate"),
            "library.comparing": ("Results", "run", "write_report"),
            "library.forecasting": ("Forecasts", "forecast"),
            "privacy.plans.solving": ("plan",),
            "training.own": ("PrivateTraining",),
        },
        packages=("data", "evaluation", "privacy"),
    )

__all__ = [
    "Evaluation",
    "Forecasts",
    "PrivateTraining",
    "Results",
    "RunError",
    "UserError",
    "__version__",
    "data",
    "evaluate",
    "evaluation",
    "forecast",
    "plan",
    "privacy",
    "read_cohort",
    "run",
    "write_report",
]

__version__ = "0.2.0"
