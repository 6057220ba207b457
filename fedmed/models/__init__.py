"""Classifiers that differential privacy allows."""

from fedmed.models.resnet import build, trainable, without_weights

__all__ = ["build", "trainable", "without_weights"]
