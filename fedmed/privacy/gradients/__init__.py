"""Sums of clipped per-sample gradients: one interface, several engines; needs torch alone.

:func:`make_engine` gives an engine for a model, ``clipped_sum`` of it a :class:`ClippedSum`, and
:class:`SumNoise` its noised mean. :class:`fedmed.PrivateTraining` puts them together;
docs/engine.md says how they work and what they refuse.
"""

import importlib.util

from torch import nn

from fedmed.base.errors import UserError
from fedmed.privacy.gradients.bookkeeping import BookkeepingEngine
from fedmed.privacy.gradients.clipping import Clipping
from fedmed.privacy.gradients.engine import ClippedSum, Engine, Loss, Options, check_model
from fedmed.privacy.gradients.loop import LoopEngine
from fedmed.privacy.gradients.noise import SumNoise

__all__ = [
    "ClippedSum",
    "Clipping",
    "Engine",
    "Loss",
    "Options",
    "SumNoise",
    "check_model",
    "make_engine",
]


def make_engine(
    name: str, model: nn.Module, physical_batch_size: int, options: Options | None = None
) -> Engine:
    """The engine called ``name`` for ``model``; ``physical_batch_size`` bounds its memory.

    ``fedmed`` is fast and exact, ``opacus`` the reference with hooks of its own (an extra),
    ``loop`` the ground truth. Raises :class:`UserError` for a model that none of its rules covers.

    >>> import torch
    >>> engine = make_engine("fedmed", torch.nn.Linear(2, 1), 8)
    >>> batch = engine.clipped_sum(torch.full((3, 2), 100.0), torch.zeros(3), clipping_norm=1.0)
    >>> batch.samples, batch.sensitivity, sorted(batch.gradients)
    (3, 1.0, ['bias', 'weight'])
    """
    check_model(model)
    if name == "fedmed":
        return BookkeepingEngine(model, physical_batch_size, options)
    if name == "loop":
        return LoopEngine(model, options)
    if name == "opacus":
        if importlib.util.find_spec("opacus") is None:
            raise UserError(
                "privacy.engine: 'opacus' is not installed; install the extra: pip install "
                "'fedmed[opacus]', or use 'fedmed'"
            )
        from fedmed.privacy.gradients.opacus import OpacusEngine

        return OpacusEngine(model, physical_batch_size, options)
    raise UserError(f"privacy.engine: '{name}' is not known; use 'fedmed', 'opacus' or 'loop'")
