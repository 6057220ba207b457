"""What the rules share: chunks of samples, float32 sums, and inner products of positions."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fedmed.privacy.gradients.bounds import Estimate, magnitude, sum_of_pairs, trace

CHUNK = 2**20  # elements of per-sample gradients computed at once: they stay in a core's cache


def chunks(samples: int, elements: int, at_once: int = CHUNK) -> Iterator[slice]:
    """Slices over ``samples`` of about ``at_once`` elements, ``elements`` for each sample."""
    step = max(1, at_once // max(1, elements))
    return (slice(start, min(start + step, samples)) for start in range(0, samples, step))


def full(tensor: Tensor) -> Tensor:
    """At least float32: products of bfloat16 numbers are exact in it, and sums lose no sample."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def gram_product(a: Tensor, g: Tensor) -> Estimate:
    """Squared norms (n,) of the sums over positions of g x a (outer products).

    ``a`` (n, positions, in) and ``g`` (n, positions, out): the sum over pairs of positions of
    (a . a')(g . g') (Li et al. 2022, equation 1). One position needs no pairs.
    """
    positions, terms = a.shape[1], a.shape[2] + g.shape[2] + 4
    if positions == 1:
        squares = magnitude(a.square().sum((1, 2)), g.square().sum((1, 2)), 1)
        return Estimate(squares, squares, terms, 1)
    first, second = torch.bmm(a, a.transpose(1, 2)), torch.bmm(g, g.transpose(1, 2))
    largest = magnitude(trace(first), trace(second), positions)
    return Estimate(sum_of_pairs(first, second), largest, terms + 2 * positions, positions)


def with_bias(weight: Estimate | None, g: Tensor) -> Estimate:
    """``weight`` and the squared norms of the sums of ``g`` (n, positions, out) over positions."""
    positions, width = g.shape[1:]
    sums = g.sum(1).square().sum(1)
    all_of_it = sums if positions == 1 else g.square().sum((1, 2)) * positions
    bias = Estimate(sums, all_of_it, 2 * positions + width + 4, positions)
    if weight is None:
        return bias
    return Estimate(
        weight.squares + bias.squares,
        weight.magnitudes + bias.magnitudes,
        max(weight.terms, bias.terms) + 1,
        positions,
    )
