"""Normalisation: a scale and a shift for each channel or feature."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, group_norm, layer_norm

from fedmed.privacy.gradients.forms import full
from fedmed.privacy.gradients.use import Part, Use


class _DirectRule(ABC):
    """A rule whose per-sample gradients are a handful of numbers: the direct form alone."""

    @abstractmethod
    def sums(self, use: Use) -> dict[str, Tensor]:
        """Gradients (samples, *shape) by own name."""

    def per_sample(self, use: Use) -> Iterator[Part]:
        """All samples at once."""
        yield slice(0, use.samples), self.sums(use)


class GroupNormRule(_DirectRule):
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

    def sums(self, use: Use) -> dict[str, Tensor]:
        """Sums over positions."""
        g, gradients = full(use.g), {}
        if use.trains("weight"):
            normal = group_norm(full(use.a), _groups(use.module), eps=_eps(use.module))
            gradients["weight"] = _channel_sums(use, g * normal)
        if use.trains("bias"):
            gradients["bias"] = _channel_sums(use, g)
        return gradients


class ChannelScaleRule(_DirectRule):
    """Batch or instance norm with statistics that stay as they are: a scale and a shift."""

    cost = "direct only: 2 numbers per channel and sample, at two passes over the activations"

    def forward(self, use: Use, inputs: Tensor) -> Tensor:
        """The layer with detached parameters, as in evaluation."""
        weight, bias = (getattr(use.module, own).detach() for own in ("weight", "bias"))
        return use.watch(self, inputs, _fixed_norm(use.module, inputs, weight, bias))

    def sums(self, use: Use) -> dict[str, Tensor]:
        """Sums over positions."""
        g, gradients = full(use.g), {}
        if use.trains("weight"):
            normal = _fixed_norm(use.module, full(use.a), None, None)
            gradients["weight"] = _channel_sums(use, g * normal)
        if use.trains("bias"):
            gradients["bias"] = _channel_sums(use, g)
        return gradients


class InstanceNormRule(GroupNormRule):
    """``nn.InstanceNorm``: a group for each channel, or fixed statistics in evaluation."""

    def forward(self, use: Use, inputs: Tensor) -> Tensor:
        """As group norm, unless running statistics are used."""
        module = cast(nn.InstanceNorm2d, use.module)
        if module.track_running_stats and not module.training:
            return ChannelScaleRule().forward(use, inputs)
        return super().forward(use, inputs)


class LayerNormRule(_DirectRule):
    """``nn.LayerNorm`` over the last dimensions; those between are positions."""

    cost = "direct only: 2 numbers per feature and sample, at two passes over the activations"

    def forward(self, use: Use, inputs: Tensor) -> Tensor:
        """The layer with detached parameters."""
        module = cast(nn.LayerNorm, use.module)
        bias = None if module.bias is None else module.bias.detach()
        outputs = layer_norm(
            inputs, module.normalized_shape, module.weight.detach(), bias, module.eps
        )
        return use.watch(self, inputs, outputs)

    def sums(self, use: Use) -> dict[str, Tensor]:
        """Sums over positions of g, and of g times the normalised input."""
        module = cast(nn.LayerNorm, use.module)
        shape = module.normalized_shape
        g, gradients = full(use.g), {}
        if use.trains("weight"):
            normal = layer_norm(full(use.a), shape, eps=module.eps)
            gradients["weight"] = (g * normal).reshape(use.samples, -1, *shape).sum(1)
        if use.trains("bias"):
            gradients["bias"] = g.reshape(use.samples, -1, *shape).sum(1)
        return gradients


def _channel_sums(use: Use, values: Tensor) -> Tensor:
    """Sums (samples, channels) over positions and views of (rows, channels, ...)."""
    sums = values.flatten(2).sum(2) if values.dim() > 2 else values
    return sums.view(use.samples, use.tape.views, -1).sum(1)


def _fixed_norm(
    module: nn.Module, inputs: Tensor, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    norm = cast(nn.BatchNorm2d, module)
    return batch_norm(
        inputs, norm.running_mean, norm.running_var, weight, bias, training=False, eps=norm.eps
    )


def _groups(module: nn.Module) -> int:
    if isinstance(module, nn.GroupNorm):
        return module.num_groups
    return cast(nn.InstanceNorm2d, module).num_features


def _eps(module: nn.Module) -> float:
    return cast(nn.GroupNorm, module).eps


def _copies(module: nn.Module, own: str, rows: int, trained: bool) -> Tensor:
    value = cast(Tensor, getattr(module, own)).detach()
    return value.expand(rows, -1).reshape(-1).requires_grad_(trained)
