"""From predictions to numbers: discrimination, fairness and their uncertainty.

Needs numpy, scipy and pandas only, so that metrics can be computed again from
``predictions.parquet`` on a machine without torch or Flower. :func:`evaluate` takes one table,
:mod:`fedmed.evaluation.comparison.compare` those of several arms and seeds; docs/evaluation.md
says what the numbers mean.
"""

from fedmed.evaluation.summary import evaluate

__all__ = ["evaluate"]
