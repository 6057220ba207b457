"""Sums of clipped per-sample gradients: one interface, several engines."""

from fedmed.privacy.gradients.engine import ClippedSum, Engine, check_model, make_engine

__all__ = ["ClippedSum", "Engine", "check_model", "make_engine"]
