"""The reference engine: per-sample gradients by Opacus' hooks (Yousefpour et al. 2021)."""

import copy
import warnings
from typing import Any, cast

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from fedmed.base.errors import UserError
from fedmed.privacy.gradients.alike import pass_size, passes
from fedmed.privacy.gradients.bounds import UNDERFLOW, exact_squares, gamma, sum_of_squares
from fedmed.privacy.gradients.clipping import checked
from fedmed.privacy.gradients.engine import (
    ClippedSum,
    Options,
    check_model,
    count_samples,
    filled,
    zeros,
)
from fedmed.privacy.gradients.preflight import check_against_loop


class OpacusEngine:
    """Holds every sample's gradient in memory, ``physical_batch_size`` of them at a time."""

    def __init__(
        self, model: nn.Module, physical_batch_size: int, options: Options | None = None
    ) -> None:
        self._model = model
        self._form = copy.deepcopy(model)  # without hooks, to ask which passes round alike
        self._physical = physical_batch_size
        self._options = options or Options()
        if self._options.autocast is not None:
            raise UserError(
                "train.precision: the engine 'opacus' computes in float32; set "
                "privacy.engine = 'fedmed'"
            )
        self._checked = False
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
        if not self._checked:  # an empty batch too: the outcome must not tell of it
            check_against_loop(self._form, self._unclipped, images, labels, self._options)
            self._checked = True
        size = pass_size(
            self._form, self._alone, images, labels, views, self._physical, ("opacus",)
        )
        total = zeros(self._model)
        clipped = dropped = start = 0
        for count, whole in passes(samples, size):
            part = slice(start, start + count * views)
            start = part.stop
            given = filled(images[part], labels[part], views, whole)
            counts = self._add(*given, clipping_norm, views, total, count)
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
        count: int,
    ) -> tuple[int, int]:
        options = self._options
        samples = self._samples(images, labels, views)
        with torch.no_grad():
            norms = _norms(list(samples.values()))
            norms[count:] = torch.inf  # no sample, no factor
            finite = norms.isfinite()
            for name, gradient in samples.items():
                flat = gradient.flatten(1).masked_fill(~finite[:, None], 0)
                factors = options.clipping.factors(norms, clipping_norm, flat.dtype)
                total[name] += torch.mv(flat.t(), factors).view_as(total[name])
        good = norms[finite]  # of the ``count`` samples
        return int((good > clipping_norm).sum()), count - len(good)

    def _samples(self, images: Tensor, labels: Tensor, views: int) -> dict[str, Tensor]:
        """Every sample's gradients (n, ...), by name."""
        with warnings.catch_warnings():
            # torch warns that Opacus' hooks do not see inputs without gradients: images have none.
            warnings.simplefilter("ignore")
            loss = self._options.loss.total(self._hooked(images), labels, len(images))
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        gradients: dict[str, Tensor] = {}
        for name, parameter in self._model.named_parameters():
            if not parameter.requires_grad:
                continue
            gradient: Tensor = cast(Any, parameter).grad_sample
            if views > 1:
                gradient = gradient.view(-1, views, *parameter.shape).mean(1)
            gradients[name] = gradient
            parameter.grad_sample = None  # type: ignore[attr-defined]  # it is Opacus' own
            parameter.grad = None
        return gradients

    def _unclipped(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Sum of gradients of the copy as they are, by name, and the norm (n,) of each."""
        twin = OpacusEngine(self._form, self._physical, self._options)
        try:
            samples = twin._samples(images, labels, 1)
        finally:
            twin.close()
        return {name: each.sum(0) for name, each in samples.items()}, _norms(list(samples.values()))

    def _alone(self, model: nn.Module, images: Tensor, labels: Tensor, views: int) -> Tensor:
        """Norms (n,) of samples of a copy of the model, in one pass."""
        twin = OpacusEngine(model, self._physical, self._options)
        try:
            return _norms(list(twin._samples(images, labels, views).values()))
        finally:
            twin.close()


def _norms(gradients: list[Tensor]) -> Tensor:
    """Upper bounds (n,), float64, of what the samples contribute."""
    squares = sum_of_squares(gradients)
    far = ~squares.isfinite()
    if bool(far.any()):
        squares[far] = exact_squares([gradient[far] for gradient in gradients])
    first = gradients[0]
    return squares.sqrt() * (1 + gamma(len(first) + 4, first.dtype)) + UNDERFLOW
