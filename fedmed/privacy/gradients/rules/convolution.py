"""Convolutions in one, two and three dimensions."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, conv2d, conv3d, pad

from fedmed.privacy.gradients.bounds import Estimate
from fedmed.privacy.gradients.correlation import Window, patches, squared_norms
from fedmed.privacy.gradients.forms import chunks, full, with_bias
from fedmed.privacy.gradients.use import Form, Part, Use

_CONVOLVE = {1: conv1d, 2: conv2d, 3: conv3d}
# Costs in multiply-adds of a convolution, measured with oneDNN and MKL on two AVX-512 cores:
_PRODUCT = 2.4  # one multiply-add of a small matrix product
_PASS = 25.0  # one element read, changed and written
_KEPT = 70.0  # one element of a kept gradient: written, measured, read again for the sum
_APART = 0.2  # by how much a weight gradient is dearer sample by sample
_ROWS, _NARROW = 8, 16  # rows of one grouped convolution; channels of a vector
_FEW = 2**17  # elements of a gradient that may be held at once for each of those rows
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
        use.notes = seen = _seen(window, module.weight.shape, inputs.shape[2:], module.groups)
        outputs = _CONVOLVE[len(window.kernel)](
            inputs,
            seen.part(module.weight.detach()),
            None if module.bias is None else module.bias.detach(),
            cast(Any, seen.window.stride),
            cast(Any, seen.window.padding),
            cast(Any, seen.window.dilation),
            module.groups,
        )
        return use.watch(self, inputs, outputs)

    def form(self, use: Use) -> Form:
        """By the costs per sample; see ``cost``."""
        return _cheaper(use.notes, use.a.shape[2:], use.g.shape[2:], use.tape.views)

    def per_sample(self, use: Use) -> Iterator[Part]:
        """One weight gradient of a convolution with a group per row, some rows at a time."""
        seen: _Seen = use.notes
        views = use.tape.views
        # The others are for what oneDNN has no such convolution for.
        grouped = use.a.device.type == "cpu" and use.a.dtype == torch.float32
        for rows in _chunks(use, seen, grouped):
            wide = slice(rows.start * views, rows.stop * views)
            a, g = full(use.a[wide]), full(use.g[wide])
            gradients = {}
            if use.trains("weight"):
                gradient = _grouped(seen, a, g) if grouped else _unfolded(seen, a, g)
                gradient = gradient.view(-1, views, *seen.weight)
                gradient = gradient.sum(1) if views > 1 else gradient.squeeze(1)
                gradients["weight"] = seen.whole(gradient)
            if use.trains("bias"):
                gradients["bias"] = g.flatten(2).sum(2).view(-1, views, g.shape[1]).sum(1)
            yield rows, gradients

    def squared_norms(self, use: Use) -> Estimate:
        """Inner products over pairs of positions, and |sum of g|^2 for the bias."""
        seen: _Seen = use.notes
        samples, views = use.samples, use.tape.views
        a, g = full(use.a), full(use.g)
        weight = None
        if use.trains("weight"):
            weight = squared_norms(a, g, seen.window, seen.groups, samples, views)
            if not use.trains("bias"):
                return weight
        columns = g.flatten(2).view(samples, views, g.shape[1], -1).transpose(2, 3)
        return with_bias(weight, columns.reshape(samples, -1, g.shape[1]))

    def weighted_sum(self, use: Use, factors: Tensor) -> dict[str, Tensor]:
        """One ordinary weight gradient with rescaled g."""
        seen: _Seen = use.notes
        g = full(use.g)
        scale = factors.repeat_interleave(use.tape.views) if use.tape.views > 1 else factors
        scaled = g * scale.view(-1, *[1] * (g.dim() - 1))
        wanted = use.trains("weight"), use.trains("bias")
        module = cast(nn.Conv2d, use.module)
        a = full(use.a)
        # Any tensor of the shape would do; this one takes no memory.
        like = module.weight.detach() if seen.tap is None else a.new_empty(seen.weight)
        weight, bias = _backward(scaled, a, like.to(a.dtype), seen, seen.groups, wanted)
        sums = {}
        if wanted[0]:
            sums["weight"] = weight
        if wanted[1]:
            sums["bias"] = bias
        return sums

    def whole(self, use: Use, own: str, gradient: Tensor) -> Tensor:
        """The taps of the kernel that lie on the padding."""
        seen: _Seen = use.notes
        return seen.whole(gradient) if own == "weight" else gradient


@dataclass(frozen=True)
class _Seen:
    """A convolution as its input lets it be.

    An input of one position touches one tap of the kernel (the others lie on the padding): the
    layer is then that tap alone, and its gradient is zero elsewhere. Deep layers on small images.
    """

    window: Window
    weight: tuple[int, ...]  # shape
    groups: int
    tap: tuple[int, ...] | None = None
    rest: tuple[int, ...] = ()  # what the kernel has beyond the tap, for ``pad``

    @property
    def narrow(self) -> bool:
        """Channels that do not fill a vector: oneDNN is faster row by row, without groups."""
        return self.weight[1] < _NARROW

    def part(self, weight: Tensor) -> Tensor:
        """The taps of the kernel that count."""
        if self.tap is None:
            return weight
        for axis, tap in enumerate(self.tap, start=2):
            weight = weight.narrow(axis, tap, 1)
        return weight.contiguous()

    def whole(self, gradient: Tensor) -> Tensor:
        """The gradient of the whole kernel, from (..., *weight)."""
        return gradient if self.tap is None else pad(gradient, self.rest)


@lru_cache(maxsize=1024)
def _seen(window: Window, weight: tuple[int, ...], inner: tuple[int, ...], groups: int) -> _Seen:
    axes = list(
        zip(inner, window.kernel, window.stride, window.padding, window.dilation, strict=True)
    )
    taps = tuple(p // d for _, _, _, p, d in axes)
    one = any(k > 1 for k in window.kernel) and all(
        size == 1 and 0 <= 2 * p - d * (k - 1) < s and p % d == 0 and p // d < k
        for size, k, s, p, d in axes
    )
    if not one:
        return _Seen(window, weight, groups)
    ones = (1,) * len(taps)
    rest = [
        side
        for t, k in reversed(list(zip(taps, window.kernel, strict=True)))  # last axis first
        for side in (t, k - 1 - t)
    ]
    return _Seen(
        Window(ones, ones, (0,) * len(taps), ones),
        (*weight[:2], *ones),
        groups,
        taps,
        tuple(rest),
    )


def _chunks(use: Use, seen: _Seen, grouped: bool) -> Iterator[slice]:
    """How many samples at a time: what stays in cache, or what bounded memory holds unfolded."""
    samples, views = use.samples, use.tape.views
    if not grouped:
        unfolded = prod(seen.weight[1:]) * seen.groups * prod(use.g.shape[2:])
        return chunks(samples, (unfolded + prod(seen.weight)) * views, _UNFOLDED)
    if seen.narrow:
        return chunks(samples, prod(seen.weight) * views, _ROWS * _FEW)
    return chunks(samples, views, _ROWS)


@lru_cache(maxsize=1024)
def _cheaper(seen: _Seen, inner: tuple[int, ...], outer: tuple[int, ...], views: int) -> Form:
    out, into = seen.weight[0], seen.weight[1] * seen.groups
    inputs, outputs = views * prod(seen.window.used(inner, outer)), views * prod(outer)
    products = inputs**2 * into + outputs**2 * out
    additions = seen.groups * inputs**2 * (2 * sum(seen.window.kernel) + 2)
    ghost = _PRODUCT * products + _PASS * additions
    return "ghost" if ghost <= prod(seen.weight) * (_KEPT + _APART * outputs) else "direct"


def _backward(
    g: Tensor,
    a: Tensor,
    like: Tensor,  # only its shape is read
    seen: _Seen,
    groups: int,
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    window = seen.window
    gradients = torch.ops.aten.convolution_backward(
        g,
        a,
        like,
        [g.shape[1]],
        list(window.stride),
        list(window.padding),
        list(window.dilation),
        False,
        [0] * len(window.kernel),
        groups,
        [False, *wanted],
    )
    return gradients[1], gradients[2]


def _grouped(seen: _Seen, a: Tensor, g: Tensor) -> Tensor:
    """Rows as groups: the weight gradient (rows * out, in, *kernel) has one block per row."""
    rows = len(a)
    if seen.narrow:
        like = a.new_empty(seen.weight)
        single = [
            _backward(g[i : i + 1], a[i : i + 1], like, seen, seen.groups, (True, False))[0]
            for i in range(rows)
        ]
        return torch.cat(single)
    wide_a = a.reshape(1, -1, *a.shape[2:])
    wide_g = g.reshape(1, -1, *g.shape[2:])
    like = a.new_empty(rows * seen.weight[0], *seen.weight[1:])
    return _backward(wide_g, wide_a, like, seen, rows * seen.groups, (True, False))[0]


def _unfolded(seen: _Seen, a: Tensor, g: Tensor) -> Tensor:
    """One matrix product per row and group of g with the patches that were convolved."""
    blocks = len(a) * seen.groups
    unfolded = patches(a, seen.window, g.shape[2:])
    unfolded = unfolded.reshape(blocks, prod(seen.weight[1:]), -1)
    return torch.bmm(g.reshape(blocks, -1, unfolded.shape[2]), unfolded.transpose(1, 2))
