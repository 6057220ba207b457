"""Classifiers that differential privacy allows.

Nothing is imported before it is used: an experiment's file asks for a stem, and needs no torch.
"""

from typing import TYPE_CHECKING

from fedmed.base import lazy

if TYPE_CHECKING:
    from fedmed.models.classifier import build, trainable, without_weights
else:
    __getattr__, __dir__ = lazy.attach(
        __name__, {"classifier": ("build", "trainable", "without_weights")}
    )

__all__ = ["build", "trainable", "without_weights"]
