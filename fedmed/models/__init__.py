"""Classifiers that differential privacy allows."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedmed.models.classifier import build, trainable, without_weights

__all__ = ["build", "trainable", "without_weights"]


def __getattr__(name: str) -> Any:
    # Whoever reads an experiment's file asks for a stem and needs no torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("fedmed.models.classifier"), name)
