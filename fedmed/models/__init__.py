"""Classifiers that differential privacy allows."""

from fedmed.models.build import build, trainable, without_weights

__all__ = ["build", "trainable", "without_weights"]
