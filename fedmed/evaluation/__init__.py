"""From predictions to numbers: discrimination, fairness and their uncertainty.

Needs numpy and pandas only, so that metrics can be computed again from ``predictions.parquet``
on a machine without torch or Flower.
"""

from fedmed.evaluation.summary import evaluate

__all__ = ["evaluate"]
