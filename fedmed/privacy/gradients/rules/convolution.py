"""Convolutions in one, two and three dimensions."""

from collections.abc import Iterator
from functools import lru_cache
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, conv2d, conv3d, pad

from fedmed.privacy.gradients.correlation import Window, patches, squared_norms
from fedmed.privacy.gradients.forms import chunks, full
from fedmed.privacy.gradients.tape import Form, Part, Use

_CONVOLVE = {1: conv1d, 2: conv2d, 3: conv3d}
# Costs in multiply-adds of a convolution, measured with oneDNN and MKL on two AVX-512 cores:
_PRODUCT = 2.4  # one multiply-add of a small matrix product
_PASS = 25.0  # one element read, changed and written
_KEPT = 70.0  # one element of a kept gradient: written, measured, read again for the sum
_APART = 0.2  # by how much a weight gradient is dearer sample by sample
_ROWS, _NARROW = 8, 16  # rows of one grouped convolution; channels below which it is one row
_UNFOLDED = 2**24  # elements of unfolded inputs and their gradients held at once


class ConvolutionRule:
    """``nn.Conv1d``, ``nn.Conv2d``, ``nn.Conv3d`` with any stride, padding, dilation and groups."""

    cost = (
        "T output and S input positions, P weights: ghost S^2 in + T^2 out products and S^2 k "
        "additions; direct P numbers kept, at the multiply-adds of the plain weight gradient that "
        "it replaces. The cheaper by measured weights: direct in early layers (T^2 large, P "
        "small), ghost in deep ones (T^2 small, P large)"
    )

    def forward(self, use: Use, inputs: Tensor) -> Tensor:
        """The layer with detached parameters; unusual padding is applied beforehand."""
        module = cast(nn.Conv2d, use.module)
        window = Window.of(module)
        inputs = use.tape.cast(inputs)
        if window.beforehand is not None:
            mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
            inputs = pad(inputs, window.beforehand, mode)
        outputs = _CONVOLVE[len(window.kernel)](
            inputs,
            module.weight.detach(),
            None if module.bias is None else module.bias.detach(),
            cast(Any, window.stride),
            cast(Any, window.padding),
            cast(Any, window.dilation),
            module.groups,
        )
        return use.watch(self, inputs, outputs)

    def form(self, use: Use) -> Form:
        """By the costs per sample; see ``cost``."""
        module = cast(nn.Conv2d, use.module)
        return _cheaper(
            Window.of(module),
            use.a.shape[2:],
            use.g.shape[2:],
            use.tape.views,
            module.weight.shape[:2],
            module.groups,
        )

    def per_sample(self, use: Use) -> Iterator[Part]:
        """One weight gradient of a convolution with a group per row, some rows at a time."""
        module = cast(nn.Conv2d, use.module)
        views = use.tape.views
        grouped = use.a.device.type == "cpu" and use.a.dtype == torch.float32
        for rows in _chunks(use, module, grouped):
            wide = slice(rows.start * views, rows.stop * views)
            a, g = full(use.a[wide]), full(use.g[wide])
            gradients = {}
            if use.trains("weight"):
                gradient = _grouped(module, a, g) if grouped else _unfolded(module, a, g)
                gradient = gradient.view(-1, views, *module.weight.shape)
                gradients["weight"] = gradient.sum(1) if views > 1 else gradient.squeeze(1)
            if use.trains("bias"):
                gradients["bias"] = g.flatten(2).sum(2).view(-1, views, g.shape[1]).sum(1)
            yield rows, gradients

    def squared_norms(self, use: Use) -> Tensor:
        """Inner products over pairs of positions, and |sum of g|^2 for the bias."""
        module = cast(nn.Conv2d, use.module)
        samples, views = use.tape.samples, use.tape.views
        a, g = full(use.a), full(use.g)
        total = g.new_zeros(samples)
        if use.trains("weight"):
            total += squared_norms(a, g, Window.of(module), module.groups, samples, views)
        if use.trains("bias"):
            total += g.flatten(2).sum(2).view(samples, views, -1).sum(1).square().sum(1)
        return total

    def weighted_sum(self, use: Use, factors: Tensor) -> dict[str, Tensor]:
        """One ordinary weight gradient with rescaled g."""
        module = cast(nn.Conv2d, use.module)
        g = full(use.g)
        scale = factors.repeat_interleave(use.tape.views) if use.tape.views > 1 else factors
        scaled = g * scale.view(-1, *[1] * (g.dim() - 1))
        wanted = use.trains("weight"), use.trains("bias")
        found = _backward(scaled, full(use.a), module.weight, module, module.groups, wanted)
        return {
            own: cast(Tensor, value)
            for own, value, want in zip(("weight", "bias"), found, wanted, strict=True)
            if want
        }


def _chunks(use: Use, module: nn.Conv2d, grouped: bool) -> Iterator[slice]:
    """How many samples at a time: what stays in cache, or what bounded memory holds unfolded."""
    samples, views = use.tape.samples, use.tape.views
    if not grouped:
        unfolded = module.weight[0].numel() * module.groups * prod(use.g.shape[2:])
        return chunks(samples, (unfolded + module.weight.numel()) * views, _UNFOLDED)
    # Narrow channels do not fill a vector; without groups oneDNN has another way for them.
    rows = 1 if module.weight.shape[1] < _NARROW else _ROWS
    return chunks(samples, views, rows)


@lru_cache(maxsize=1024)
def _cheaper(
    window: Window,
    inner: tuple[int, ...],
    outer: tuple[int, ...],
    views: int,
    channels: tuple[int, int],
    groups: int,
) -> Form:
    out, into = channels[0], channels[1] * groups
    inputs, outputs = views * prod(window.used(inner, outer)), views * prod(outer)
    weights = out * channels[1] * prod(window.kernel)
    products = inputs**2 * into + outputs**2 * out
    additions = groups * inputs**2 * (2 * sum(window.kernel) + 2)
    ghost = _PRODUCT * products + _PASS * additions
    return "ghost" if ghost <= weights * (_KEPT + _APART * outputs) else "direct"


def _backward(
    g: Tensor, a: Tensor, weight: Tensor, module: nn.Conv2d, groups: int, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    window = Window.of(module)
    found = torch.ops.aten.convolution_backward(
        g,
        a,
        weight.to(a.dtype),
        [g.shape[1]],
        list(window.stride),
        list(window.padding),
        list(window.dilation),
        False,
        [0] * len(window.kernel),
        groups,
        [False, *wanted],
    )
    return found[1], found[2]


def _grouped(module: nn.Conv2d, a: Tensor, g: Tensor) -> Tensor:
    """Rows as groups: the weight gradient (rows * out, in, *kernel) has one block per row."""
    rows = len(a)
    wide_a = a.reshape(1, -1, *a.shape[2:])
    wide_g = g.reshape(1, -1, *g.shape[2:])
    # Only its shape is read.
    weight = a.new_empty(rows * module.out_channels, *module.weight.shape[1:])
    found, _ = _backward(wide_g, wide_a, weight, module, rows * module.groups, (True, False))
    return cast(Tensor, found)


def _unfolded(module: nn.Conv2d, a: Tensor, g: Tensor) -> Tensor:
    """One matrix product per row and group of g with the patches that were convolved."""
    rows, groups = len(a), module.groups
    unfolded = patches(a, Window.of(module), g.shape[2:]).reshape(
        rows * groups, module.weight[0].numel(), -1
    )
    return torch.bmm(g.reshape(rows * groups, -1, unfolded.shape[2]), unfolded.transpose(1, 2))
