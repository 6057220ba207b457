"""Classifiers that differential privacy allows.

Nothing is imported before it is used: an experiment's file asks for a stem, and needs no torch.
"""

from typing import TYPE_CHECKING

from fedmed.base import lazy

if TYPE_CHECKING:
    from fedmed.models.classifier import build, without_weights
    from fedmed.models.trained import trainable
else:
    __getattr__, __dir__ = lazy.attach(
        __name__, {"classifier": ("build", "without_weights"), "trained": ("trainable",)}
    )

__all__ = ["build", "trainable", "without_weights"]
