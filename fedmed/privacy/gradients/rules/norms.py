"""Group and instance normalisation: a scale and a shift for each channel."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import group_norm

from fedmed.privacy.gradients.forms import full
from fedmed.privacy.gradients.tape import Form, Part, Use, sum_of_squares


class GroupNormRule:
    """``nn.GroupNorm``: the batch runs as one sample of n times as many channels and groups.

    Every row then has a scale and a shift of its own, and the ordinary backward pass leaves their
    gradients row by row at no further cost. Channels-last inputs, which cannot be seen so without
    a copy, take the direct form instead: the sum over positions of g and of g times the
    normalised input.
    """

    cost = "direct only: 2 numbers per channel and sample, which a backward pass computes anyway"

    def forward(self, use: Use, inputs: Tensor) -> Tensor:
        """The layer with one copy of scale and shift per row."""
        module = use.module
        if not inputs.is_contiguous():
            weight, bias = (cast(Tensor, getattr(module, own)) for own in ("weight", "bias"))
            groups = _groups(module)
            outputs = group_norm(inputs, groups, weight.detach(), bias.detach(), _eps(module))
            return use.watch(self, inputs, outputs)
        rows, channels = inputs.shape[:2]
        leaves = {own: _copies(module, own, rows, use.trains(own)) for own in ("weight", "bias")}
        wide = inputs.view(1, rows * channels, *inputs.shape[2:])
        outputs = group_norm(
            wide, rows * _groups(module), leaves["weight"], leaves["bias"], _eps(module)
        )
        use.tape.leaves.append((use.layer, {n: v for n, v in leaves.items() if use.trains(n)}))
        # Not a view for autograd: an activation may then work in place.
        narrow: Tensor = torch.ops.aten._unsafe_view(outputs, inputs.shape)
        return narrow

    def form(self, use: Use) -> Form:
        """Few numbers: always direct."""
        return "direct"

    def per_sample(self, use: Use) -> Iterator[Part]:
        """Sums over positions."""
        g, gradients = full(use.g), {}
        if use.trains("weight"):
            normal = group_norm(use.a, _groups(use.module), eps=_eps(use.module))
            gradients["weight"] = self._sums(use, g * normal)
        if use.trains("bias"):
            gradients["bias"] = self._sums(use, g)
        yield slice(0, use.tape.samples), gradients

    def squared_norms(self, use: Use) -> Tensor:
        """From the direct form: there is no smaller one."""
        return sum_of_squares(next(iter(self.per_sample(use)))[1].values())

    def weighted_sum(self, use: Use, factors: Tensor) -> dict[str, Tensor]:
        """From the direct form."""
        _, gradients = next(iter(self.per_sample(use)))
        return {own: torch.mv(value.t(), factors) for own, value in gradients.items()}

    @staticmethod
    def _sums(use: Use, values: Tensor) -> Tensor:
        tape = use.tape
        return values.flatten(2).sum(2).view(tape.samples, tape.views, -1).sum(1)


def _groups(module: nn.Module) -> int:
    if isinstance(module, nn.GroupNorm):
        return module.num_groups
    return cast(nn.InstanceNorm2d, module).num_features


def _eps(module: nn.Module) -> float:
    return cast(nn.GroupNorm, module).eps


def _copies(module: nn.Module, own: str, rows: int, trained: bool) -> Tensor:
    value = cast(Tensor, getattr(module, own)).detach()
    return value.expand(rows, -1).reshape(-1).requires_grad_(trained)
