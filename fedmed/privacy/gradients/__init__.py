"""Sums of clipped per-sample gradients: one interface, several engines; needs torch alone."""

from torch import nn

from fedmed.errors import UserError
from fedmed.privacy.gradients.engine import ClippedSum, Engine, check_model

__all__ = ["ClippedSum", "Engine", "check_model", "make_engine"]


def make_engine(name: str, model: nn.Module, physical_batch_size: int) -> Engine:
    """The engine called ``name`` for ``model``; ``physical_batch_size`` bounds its memory."""
    check_model(model)
    if name == "opacus":
        from fedmed.privacy.gradients.opacus import OpacusEngine

        return OpacusEngine(model, physical_batch_size)
    raise UserError(f"privacy.engine: '{name}' is not known; use 'opacus'")
