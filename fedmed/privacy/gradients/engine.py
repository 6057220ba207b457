"""The interface of a per-sample gradient engine, and what a model must not contain."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fedmed.base.errors import UserError
from fedmed.privacy.gradients.clipping import Clipping

Reduction = Literal["sum", "mean"]


@dataclass(frozen=True)
class Loss:
    """A loss and how it joins the samples of a batch.

    ``function`` takes the model's output (n, ...) and the labels (n, ...) and returns a scalar
    that is the ``reduction`` ("sum" or "mean") of one term per sample. It is called for one sample
    at a time, so that none changes another's term; a loss for which that makes a difference is
    refused by the check before the first step as far as two made-up samples show it.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    reduction: Reduction = "sum"

    def total(self, outputs: Tensor, labels: Tensor, rows: int) -> Tensor:
        """Scalar: the sum over ``rows`` rows. Raises :class:`UserError` for another shape.

        Each row's term is asked for alone, so that no row's gradient rests on another's label:
        class weights under "mean" would divide all terms by a sum over the batch.
        """
        if self == BINARY:  # its terms are known to be apart
            _check_outputs(outputs, labels)
            return binary(outputs, labels)
        if not isinstance(outputs, Tensor) or outputs.dim() == 0 or len(outputs) % rows:
            raise UserError(
                "loss: the model's output is not one tensor with the images in its first "
                "dimension; give a model that returns one"
            )
        parts = torch.split(outputs, len(outputs) // rows), torch.split(labels, 1)
        return torch.stack([self._value(*row) for row in zip(*parts, strict=True)]).sum()

    def together(self, outputs: Tensor, labels: Tensor, rows: int) -> Tensor:
        """What :meth:`total` would be if the whole batch were given to ``function`` at once."""
        value = self._value(outputs, labels)
        return value * rows if self.reduction == "mean" else value

    def _value(self, outputs: Tensor, labels: Tensor) -> Tensor:
        value = self.function(outputs, labels)
        if value.dim() != 0:
            raise UserError(
                f"loss: it returns the shape {tuple(value.shape)}, not one number; give a loss "
                "with reduction 'sum' or 'mean'"
            )
        return value


def _check_outputs(outputs: Tensor, labels: Tensor) -> None:
    """Raise :class:`UserError` where the model does not have one output per label."""
    wanted = labels.shape[1:] if labels.dim() > 1 else (1,)
    if outputs.shape[1:] != wanted or outputs.dim() != max(2, labels.dim()):
        given = [", ".join(["n", *map(str, one.shape[1:])]) for one in (outputs, labels)]
        raise UserError(
            f"loss: outputs ({given[0]}) for labels ({given[1]}); the model needs one output per "
            "label, (n, 1) for labels (n), or a loss of its own"
        )


def binary(outputs: Tensor, labels: Tensor) -> Tensor:
    """Sum over images of the cross entropy, of several labels the mean over them.

    ``outputs`` (n, 1) and ``labels`` (n,), or both (n, k). A label that is NaN is not known and
    adds nothing; the divisor stays k, so that no image's term rests on how many it has.
    """
    if labels.dim() == 1:
        return binary_cross_entropy_with_logits(outputs.float().squeeze(1), labels, reduction="sum")
    known = ~labels.isnan()
    each = binary_cross_entropy_with_logits(
        outputs.float(), torch.where(known, labels, 0.0), reduction="none"
    )
    return torch.where(known, each, 0.0).sum() / labels.shape[1]


BINARY = Loss(binary)  # labels from 0 to 1


@dataclass(frozen=True)
class Options:
    """What every engine is told: the loss, and how gradients are clipped.

    ``autocast`` is the lower precision of the forward pass (bfloat16), or None for the model's own;
    norms and sums are float32 either way.
    """

    loss: Loss = BINARY
    clipping: Clipping = field(default_factory=Clipping)
    autocast: torch.dtype | None = None


@dataclass(frozen=True)
class ClippedSum:
    """Sum over the samples of a batch of gradients clipped to L2 norm C, by parameter name.

    ``sensitivity`` is C: adding or removing one sample changes the sum by at most C in L2 norm
    (Abadi et al. 2016, Algorithm 1). ``samples`` counts the batch, ``clipped`` those above C, and
    ``dropped`` those that contribute nothing because their gradient is not finite (or all, where
    the sum was above its bound). The counts are private: they are for diagnosis where the data are,
    never for a message.
    """

    gradients: dict[str, Tensor]
    sensitivity: float
    samples: int
    clipped: int
    dropped: int = 0


class Engine(Protocol):
    """Computes clipped gradient sums for one model."""

    def clipped_sum(
        self, images: Tensor, labels: Tensor, clipping_norm: float, views: int = 1
    ) -> ClippedSum:
        """Clipped sum for a batch of any size, 0 included.

        ``images`` (n * views, channels, height, width) and ``labels`` (n * views,), the views of
        one sample in consecutive rows; their gradients are averaged before clipping
        (De et al. 2022, section 3.2). A sample whose gradient is not finite contributes nothing and
        is counted. Raises :class:`UserError` where the model or its loss does not allow clipping by
        sample, which no image or label decides.
        """
        ...

    def close(self) -> None:
        """Leave the model as it was before the engine came."""
        ...


def check_model(model: nn.Module) -> None:
    """Refuse a model that mixes samples, whatever the engine.

    Raises :class:`UserError` for any batch norm whose statistics come from the batch: then one
    patient changes the gradient of every other, and no clipping bounds it. A batch norm in
    evaluation mode, or an instance norm that keeps no running statistics, mixes nothing.
    """
    for name, module in model.named_modules():
        if not isinstance(module, nn.modules.batchnorm._NormBase):
            continue
        instance = isinstance(module, nn.modules.instancenorm._InstanceNorm)
        own = module.training or module.running_mean is None
        if own and (not instance or module.track_running_stats):
            raise UserError(
                f"model: layer '{name}' is {type(module).__name__}, which mixes patients, so no "
                "epsilon holds under dp-sgd; use model.norm = 'group' or 'frozen-batch'"
            )


def zeros(model: nn.Module) -> dict[str, Tensor]:
    """A zero gradient for every trainable parameter: the sum over an empty batch."""
    return {n: torch.zeros_like(p) for n, p in model.named_parameters() if p.requires_grad}


def count_samples(images: Tensor, labels: Tensor, views: int) -> int:
    """How many samples the rows of a batch hold; raises ``ValueError`` where they do not fit."""
    if views < 1 or len(images) % views or len(images) != len(labels):
        raise ValueError(
            f"{len(images)} images, {len(labels)} labels and {views} views do not fit together"
        )
    return len(images) // views


def filled(images: Tensor, labels: Tensor, views: int, size: int) -> tuple[Tensor, Tensor]:
    """A batch of at most ``size`` samples with zeros behind it, up to that size; see ``alike``."""
    spare = size * views - len(images)
    if not spare:
        return images, labels
    return (
        torch.cat([images, images.new_zeros(spare, *images.shape[1:])]),
        torch.cat([labels, labels.new_zeros(spare, *labels.shape[1:])]),
    )
