"""The reference engine: per-sample gradients by Opacus' hooks (Yousefpour et al. 2021)."""

import warnings
from typing import Any, cast

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fedmed.privacy.gradients.engine import ClippedSum, zeros


class OpacusEngine:
    """Holds every sample's gradient in memory, ``physical_batch_size`` of them at a time."""

    def __init__(self, model: nn.Module, physical_batch_size: int) -> None:
        self._model = model
        self._physical = physical_batch_size
        self._hooked = GradSampleModule(model, batch_first=True, loss_reduction="sum")

    def clipped_sum(self, images: Tensor, labels: Tensor, clipping_norm: float) -> ClippedSum:
        """See :class:`fedmed.privacy.gradients.Engine`."""
        total = zeros(self._model)
        clipped = 0
        for start in range(0, len(images), self._physical):
            part = slice(start, start + self._physical)
            clipped += self._add(images[part], labels[part], clipping_norm, total)
        return ClippedSum(total, clipping_norm, len(images), clipped)

    def close(self) -> None:
        """Take Opacus' hooks off the model."""
        self._hooked.remove_hooks()
        for parameter in self._model.parameters():
            if hasattr(parameter, "grad_sample"):
                del parameter.grad_sample

    def _add(
        self, images: Tensor, labels: Tensor, clipping_norm: float, total: dict[str, Tensor]
    ) -> int:
        with warnings.catch_warnings():
            # torch warns that Opacus' hooks do not see inputs without gradients: images have none.
            warnings.simplefilter("ignore")
            logits = self._hooked(images).squeeze(1)
            binary_cross_entropy_with_logits(logits, labels, reduction="sum").backward()  # type: ignore[no-untyped-call]  # torch
        parameters = {n: p for n, p in self._model.named_parameters() if p.requires_grad}
        with torch.no_grad():
            samples: dict[str, Tensor] = {
                n: cast(Any, p).grad_sample for n, p in parameters.items()
            }
            norms = torch.stack(
                [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in samples.values()]
            ).norm(dim=0)
            if not bool(torch.isfinite(norms).all()):
                raise FloatingPointError("a sample's gradient is not finite")
            # The larger of norm and C first: a norm of zero gives a factor of 1, never 0/0.
            factors = clipping_norm / norms.clamp(min=clipping_norm)
            for name, gradient in samples.items():
                total[name] += torch.mv(gradient.flatten(1).t(), factors).view_as(total[name])
        for parameter in parameters.values():
            parameter.grad_sample = None  # type: ignore[attr-defined]
            parameter.grad = None
        return int((norms > clipping_norm).sum())
