"""Classifiers that differential privacy allows."""

from fedmed.models.resnet import build, trainable

__all__ = ["build", "trainable"]
