"""Inner products between the positions of a convolution, without unfolding its input.

The squared norm of a sample's weight gradient is the sum over pairs of output positions t, t' of
(patch_t . patch_t')(g_t . g_t') (Bu et al. 2022, "Scalable and efficient training of large
convolutional neural networks with differential privacy"). Two patches' inner product is the sum,
over the taps of the kernel, of inner products of input positions. So the Gram matrix of the input
positions is computed once, k times smaller than that of the patches, and summed along its
diagonals, one spatial axis after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import cast

import torch
from torch import Tensor, nn

from fedmed.privacy.gradients.bounds import Estimate, magnitude, sum_of_pairs, trace
from fedmed.privacy.gradients.forms import chunks

_AT_ONCE = 2**21  # elements of Gram matrices held at once
_TABLE = 2**20  # elements up to which the sum along diagonals is one matrix product


@dataclass(frozen=True)
class Window:
    """What a convolution's kernel sees: all per spatial axis.

    ``beforehand`` is padding for ``torch.nn.functional.pad`` where it is not the same number of
    zeros on both sides; ``padding`` is then zero.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    beforehand: tuple[int, ...] | None = None

    @staticmethod
    def of(module: nn.Module) -> "Window":
        """The window of an ``nn.Conv`` module."""
        conv = cast(nn.Conv2d, module)
        return _window(
            conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.padding_mode
        )

    def used(self, inner: Sequence[int], outer: Sequence[int]) -> tuple[int, ...]:
        """Input positions per axis that enter the Gram matrix; a tap of width 1 needs no others."""
        return tuple(
            out if kernel == 1 and pad == 0 else size
            for size, out, kernel, pad in zip(inner, outer, self.kernel, self.padding, strict=True)
        )


@lru_cache(maxsize=256)
def _window(
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...] | str,
    dilation: tuple[int, ...],
    mode: str,
) -> Window:
    none = (0,) * len(kernel)
    if padding == "valid":
        return Window(kernel, stride, none, dilation)
    if isinstance(padding, str):  # "same": the odd one goes to the right
        ends = [
            ((k - 1) * d // 2, -(-(k - 1) * d // 2)) for k, d in zip(kernel, dilation, strict=True)
        ]
    else:
        ends = [(p, p) for p in padding]
    if mode == "zeros" and all(left == right for left, right in ends):
        return Window(kernel, stride, tuple(left for left, _ in ends), dilation)
    beforehand = tuple(side for pair in reversed(ends) for side in pair)
    return Window(kernel, stride, none, dilation, beforehand)


def squared_norms(
    a: Tensor, g: Tensor, window: Window, groups: int, samples: int, views: int
) -> Estimate:
    """Squared norms (samples,) of weight gradients, summed over the views of a sample.

    ``a`` (samples * views, in, *inner) and ``g`` (samples * views, out, *outer), float32 or
    float64.
    """
    outer, taken = g.shape[2:], window.used(a.shape[2:], g.shape[2:])
    for axis, (kernel, padding, stride) in enumerate(
        zip(window.kernel, window.padding, window.stride, strict=True)
    ):
        if kernel == 1 and padding == 0 and stride > 1:
            a = a[(slice(None),) * (2 + axis) + (slice(None, None, stride),)]
            a = a.narrow(2 + axis, 0, outer[axis])
    positions, outputs = views * prod(taken), views * prod(outer)
    table = None
    if views == 1 and (prod(taken) * prod(outer)) ** 2 <= _TABLE:
        table = _diagonal_table(window, tuple(taken), tuple(outer), a.dtype, a.device)
    squares, magnitudes = [], []
    for rows in chunks(samples, groups * positions**2, _AT_ONCE):
        wide = slice(rows.start * views, rows.stop * views)
        inner_products = _gram(a[wide], groups, views)
        if table is not None:
            inner_products = inner_products.view(-1, len(table)) @ table
        else:
            inner_products = _along_diagonals(inner_products, window, taken, outer, views)
        inner_products = inner_products.reshape(-1, outputs, outputs)
        weights = _gram(g[wide], groups, views)
        magnitudes.append(magnitude(trace(inner_products), trace(weights), outputs))
        squares.append(sum_of_pairs(inner_products, weights))
    taps = sum(window.kernel)
    terms = (a.shape[1] + g.shape[1]) // groups + taps + 2 * outputs + groups + 8
    return Estimate(_joined(squares, groups), _joined(magnitudes, groups), terms, outputs)


def _joined(parts: list[Tensor], groups: int) -> Tensor:
    """Sums (samples,) over groups of numbers (samples * groups,) that come in ``parts``."""
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    return whole if groups == 1 else whole.view(-1, groups).sum(1)


def _gram(values: Tensor, groups: int, views: int) -> Tensor:
    """Inner products (samples * groups, views * positions, the same) over channels of a group."""
    rows, channels = values.shape[:2]
    if views == 1:
        columns = values.reshape(rows * groups, channels // groups, -1)
    else:
        columns = (
            values.reshape(rows // views, views, groups, channels // groups, -1)
            .permute(0, 2, 3, 1, 4)
            .reshape(rows // views * groups, channels // groups, -1)
        )
    return torch.bmm(columns.transpose(1, 2), columns)


@lru_cache(maxsize=64)
def _diagonal_table(
    window: Window,
    taken: tuple[int, ...],
    outer: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """:func:`_along_diagonals` as a matrix (taken^2, outer^2): few positions, one product."""
    pairs = prod(taken) ** 2
    unit = torch.eye(pairs, dtype=dtype, device=device)
    return _along_diagonals(unit, window, taken, outer, 1).reshape(pairs, -1)


def _along_diagonals(
    gram: Tensor, window: Window, taken: Sequence[int], outer: Sequence[int], views: int
) -> Tensor:
    """Sums over the kernel's taps, both positions shifted alike: from input to output positions."""
    gram = gram.view(-1, views, *taken, views, *taken)
    spatial = len(taken)
    for axis, size in enumerate(taken):
        kernel, padding = window.kernel[axis], window.padding[axis]
        if kernel == 1 and padding == 0:
            continue
        stride, dilation, out = window.stride[axis], window.dilation[axis], outer[axis]
        first, second = 2 + axis, 3 + spatial + axis
        shape = list(gram.shape)
        shape[first] = shape[second] = out
        total = gram.new_zeros(shape)
        for tap in range(kernel):
            offset = tap * dilation - padding
            # Output o reads input o * stride + offset, where that is inside.
            start = max(0, -(offset // stride))
            stop = min(out, (size - 1 - offset) // stride + 1)
            if start >= stop:
                continue
            rows, reads = slice(start, stop), start * stride + offset
            read = slice(reads, reads + (stop - start - 1) * stride + 1, stride)
            into = [slice(None)] * gram.dim()
            source = [slice(None)] * gram.dim()
            into[first] = into[second] = rows
            source[first] = source[second] = read
            total[tuple(into)] += gram[tuple(source)]
        gram = total
    return gram


def patches(a: Tensor, window: Window, outer: Sequence[int]) -> Tensor:
    """What the kernel sees at each output position: (rows, in, *kernel, *outer), a strided view."""
    flat = [side for padding in reversed(window.padding) for side in (padding, padding)]
    a = torch.nn.functional.pad(a, flat) if any(flat) else a
    strides = a.stride()
    spatial = strides[2:]
    size = (*a.shape[:2], *window.kernel, *outer)
    taps = [step * d for step, d in zip(spatial, window.dilation, strict=True)]
    moves = [step * s for step, s in zip(spatial, window.stride, strict=True)]
    return a.as_strided(size, (*strides[:2], *taps, *moves), a.storage_offset())
