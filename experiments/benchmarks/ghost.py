"""Opacus' ghost clipping, for the benchmark: norms in one backward pass, the sum in a second."""

import warnings

import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fedmed.privacy.gradients.engine import ClippedSum


class OpacusGhost:
    """Clipped sums as Opacus' fast gradient clipping computes them (Li et al. 2022).

    Opacus has a ghost rule for linear, embedding and norm layers; a convolution's per-sample
    gradients are held one layer at a time. ``physical_batch_size`` samples are taken at once;
    ``autocast`` is the lower precision of the forward pass, or None.
    """

    def __init__(
        self, model: nn.Module, physical_batch_size: int, autocast: torch.dtype | None = None
    ) -> None:
        self._model, self._physical, self._autocast = model, physical_batch_size, autocast
        self._hooked = GradSampleModuleFastGradientClipping(
            model, batch_first=True, loss_reduction="sum", use_ghost_clipping=True
        )

    def clipped_sum(
        self, images: Tensor, labels: Tensor, clipping_norm: float, views: int = 1
    ) -> ClippedSum:
        """Clipped sum of a batch; one view of each sample."""
        with warnings.catch_warnings():
            # torch warns that Opacus' hooks do not see inputs without gradients: images have none.
            warnings.simplefilter("ignore")
            return self._clipped_sum(images, labels, clipping_norm, views)

    def _clipped_sum(
        self, images: Tensor, labels: Tensor, clipping_norm: float, views: int
    ) -> ClippedSum:
        if views != 1:
            raise ValueError("Opacus' ghost clipping has no views of a sample")
        hooked, clipped = self._hooked, 0
        hooked.max_grad_norm = clipping_norm
        for parameter in self._model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        for start in range(0, len(images), self._physical):
            rows = slice(start, start + self._physical)
            kept = [p.grad for p in self._model.parameters()]
            for parameter in self._model.parameters():
                parameter.grad = None  # the first pass is for norms alone
            hooked.enable_hooks()
            kind = images.device.type
            on = self._autocast is not None
            with torch.autocast(kind, dtype=self._autocast, enabled=on):
                logits = hooked(images[rows])
            losses = binary_cross_entropy_with_logits(
                logits.float().squeeze(1), labels[rows], reduction="none"
            )
            losses.sum().backward(retain_graph=True)
            factors = hooked.get_clipping_coef().detach()
            clipped += int((factors < 1).sum())
            hooked.disable_hooks()
            for parameter, gradient in zip(self._model.parameters(), kept, strict=True):
                parameter.grad = gradient
            (losses * factors).sum().backward()
        gradients = {n: p.grad for n, p in self._model.named_parameters() if p.grad is not None}
        for parameter in self._model.parameters():
            parameter.grad = None
        return ClippedSum(gradients, clipping_norm, len(images), clipped)

    def close(self) -> None:
        """Take Opacus' hooks off the model."""
        self._hooked.remove_hooks()
