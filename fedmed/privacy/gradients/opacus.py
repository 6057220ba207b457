"""The reference engine: per-sample gradients by Opacus' hooks (Yousefpour et al. 2021)."""

import warnings
from typing import Any, cast

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from fedmed.errors import UserError
from fedmed.privacy.gradients.bounds import (
    UNDERFLOW,
    exact_squares,
    gamma,
    sum_of_squares,
)
from fedmed.privacy.gradients.clipping import checked
from fedmed.privacy.gradients.engine import (
    ClippedSum,
    Options,
    check_model,
    count_samples,
    filled,
    zeros,
)


class OpacusEngine:
    """Holds every sample's gradient in memory, ``physical_batch_size`` of them at a time."""

    def __init__(
        self, model: nn.Module, physical_batch_size: int, options: Options | None = None
    ) -> None:
        self._model = model
        self._physical = physical_batch_size
        self._options = options or Options()
        if self._options.autocast is not None:
            raise UserError(
                "train.precision: the engine 'opacus' computes in float32; set "
                "privacy.engine = 'fedmed'"
            )
        try:
            self._hooked = GradSampleModule(model, batch_first=True, loss_reduction="sum")
        except NotImplementedError as error:
            raise UserError(
                "model: the engine 'opacus' does not know all of its layers; set "
                "privacy.engine = 'fedmed' or 'loop'"
            ) from error

    def clipped_sum(
        self, images: Tensor, labels: Tensor, clipping_norm: float, views: int = 1
    ) -> ClippedSum:
        """See :class:`fedmed.privacy.gradients.Engine`."""
        check_model(self._model)
        sensitivity = self._options.clipping.sensitivity(clipping_norm)
        samples = count_samples(images, labels, views)
        total = zeros(self._model)
        clipped = dropped = 0
        step = self._physical * views
        for start in range(0, len(images), step):
            part = slice(start, start + step)
            counts = self._add(images[part], labels[part], clipping_norm, views, total)
            clipped, dropped = clipped + counts[0], dropped + counts[1]
        total, held = checked(total, sensitivity, samples)
        if not held:
            clipped, dropped = 0, samples
        return ClippedSum(total, sensitivity, samples, clipped, dropped)

    def close(self) -> None:
        """Take Opacus' hooks off the model."""
        self._hooked.remove_hooks()
        for parameter in self._model.parameters():
            if hasattr(parameter, "grad_sample"):
                del parameter.grad_sample

    def _add(
        self,
        images: Tensor,
        labels: Tensor,
        clipping_norm: float,
        views: int,
        total: dict[str, Tensor],
    ) -> tuple[int, int]:
        options, count = self._options, len(images) // views
        images, labels = filled(images, labels, views, self._physical)
        with warnings.catch_warnings():
            # torch warns that Opacus' hooks do not see inputs without gradients: images have none.
            warnings.simplefilter("ignore")
            loss = options.loss.total(self._hooked(images), labels, len(images))
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        parameters = {n: p for n, p in self._model.named_parameters() if p.requires_grad}
        with torch.no_grad():
            samples: dict[str, Tensor] = {
                n: cast(Any, p).grad_sample.view(-1, views, *p.shape).mean(1)
                if views > 1
                else cast(Any, p).grad_sample
                for n, p in parameters.items()
            }
            norms = _norms(list(samples.values()))
            norms[count:] = torch.inf  # no sample, no factor
            finite = norms.isfinite()
            for name, gradient in samples.items():
                flat = gradient.flatten(1).masked_fill(~finite[:, None], 0)
                factors = options.clipping.factors(norms, clipping_norm, flat.dtype)
                total[name] += torch.mv(flat.t(), factors).view_as(total[name])
        for parameter in parameters.values():
            parameter.grad_sample = None  # type: ignore[attr-defined]
            parameter.grad = None
        good = norms[finite]  # of the ``count`` samples
        return int((good > clipping_norm).sum()), count - len(good)


def _norms(gradients: list[Tensor]) -> Tensor:
    """Upper bounds (n,), float64, of what the samples contribute."""
    squares = sum_of_squares(gradients)
    far = ~squares.isfinite()
    if bool(far.any()):
        squares[far] = exact_squares([gradient[far] for gradient in gradients])
    first = gradients[0]
    return squares.sqrt() * (1 + gamma(len(first) + 4, first.dtype)) + UNDERFLOW
