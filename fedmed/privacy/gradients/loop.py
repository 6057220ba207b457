"""The ground truth: plain autograd on one sample at a time."""

import torch
from torch import Tensor, nn

from fedmed.privacy.gradients.bounds import exact_squares
from fedmed.privacy.gradients.clipping import checked
from fedmed.privacy.gradients.engine import ClippedSum, Options, check_model, count_samples, zeros


class LoopEngine:
    """Knows no layer and takes any model; as slow as batches of one.

    A sample is alone in its forward pass, so nothing can mix. ``physical_batch_size`` says nothing
    here: one sample's gradient is in memory at a time.
    """

    def __init__(self, model: nn.Module, options: Options | None = None) -> None:
        self._model = model
        self._options = options or Options()

    def clipped_sum(
        self, images: Tensor, labels: Tensor, clipping_norm: float, views: int = 1
    ) -> ClippedSum:
        """See :class:`fedmed.privacy.gradients.Engine`."""
        options = self._options
        sensitivity = options.clipping.sensitivity(clipping_norm)
        samples = count_samples(images, labels, views)
        check_model(self._model)
        total = zeros(self._model)
        clipped = dropped = 0
        for sample in range(samples):
            rows = slice(sample * views, (sample + 1) * views)
            gradient = self.gradient(images[rows], labels[rows])
            norm = norm_of(gradient)
            if not bool(norm.isfinite()):
                dropped += 1
                continue
            clipped += int(norm > clipping_norm)
            for name, value in gradient.items():
                factor = options.clipping.factors(norm, clipping_norm, value.dtype)
                total[name] += factor * value
        total, held = checked(total, sensitivity, samples)
        if not held:
            clipped, dropped = 0, samples
        return ClippedSum(total, sensitivity, samples, clipped, dropped)

    def gradient(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One sample's gradient by name: the mean over its views, ``images`` (views, ...)."""
        parameters = {n: p for n, p in self._model.named_parameters() if p.requires_grad}
        options = self._options
        with torch.autocast(
            images.device.type, dtype=options.autocast, enabled=options.autocast is not None
        ):
            loss = options.loss.total(self._model(images), labels, len(images)) / len(images)
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        return {
            name: torch.zeros_like(parameter) if value is None else value
            for (name, parameter), value in zip(parameters.items(), gradients, strict=True)
        }

    def close(self) -> None:
        """Nothing was changed."""


def norm_of(gradient: dict[str, Tensor]) -> Tensor:
    """Upper bound of the L2 norm over all parameters, a scalar, float64."""
    return exact_squares([value[None] for value in gradient.values()])[0].sqrt()
