"""The interface of a per-sample gradient engine, and what a model must not contain."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from fedmed.errors import UserError


@dataclass(frozen=True)
class ClippedSum:
    """Sum over the samples of a batch of gradients clipped to L2 norm C, by parameter name.

    ``sensitivity`` is C: adding or removing one sample changes the sum by at most C in L2 norm
    (Abadi et al. 2016, Algorithm 1). ``samples`` counts the batch, ``clipped`` those above C.
    """

    gradients: dict[str, Tensor]
    sensitivity: float
    samples: int
    clipped: int


class Engine(Protocol):
    """Computes clipped gradient sums for one model."""

    def clipped_sum(self, images: Tensor, labels: Tensor, clipping_norm: float) -> ClippedSum:
        """Clipped sum for a batch of any size, 0 included.

        ``images`` (n, channels, height, width) float32 and ``labels`` (n,) float32 in {0, 1}.
        Raises ``FloatingPointError`` where a sample's gradient is not finite.
        """
        ...

    def close(self) -> None:
        """Leave the model as it was before the engine came."""
        ...


_MIXING = (nn.modules.batchnorm._BatchNorm,)


def check_model(model: nn.Module) -> None:
    """Refuse a model that mixes samples, whatever the engine.

    Raises :class:`UserError` for any batch norm whose statistics come from the batch: then one
    patient changes the gradient of every other, and no clipping bounds it.
    """
    for name, module in model.named_modules():
        if isinstance(module, _MIXING):
            raise UserError(
                f"model: layer '{name}' is {type(module).__name__}, which mixes patients, so no "
                "epsilon holds under dp-sgd; use model.norm = 'group' or 'frozen-batch'"
            )


def zeros(model: nn.Module) -> dict[str, Tensor]:
    """A zero gradient for every trainable parameter: the sum over an empty batch."""
    return {n: torch.zeros_like(p) for n, p in model.named_parameters() if p.requires_grad}
