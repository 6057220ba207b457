"""What the rules share: chunks of samples, float32 sums, and inner products of positions."""

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 2**20  # elements of per-sample gradients computed at once: they stay in a core's cache


def chunks(samples: int, elements: int, at_once: int = CHUNK) -> Iterator[slice]:
    """Slices over ``samples`` of about ``at_once`` elements, ``elements`` for each sample."""
    step = max(1, at_once // max(1, elements))
    return (slice(start, min(start + step, samples)) for start in range(0, samples, step))


def full(tensor: Tensor) -> Tensor:
    """At least float32: products of bfloat16 numbers are exact in it, and sums lose no sample."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def gram_product(a: Tensor, g: Tensor) -> Tensor:
    """Squared norms (n,) of the sums over positions of g x a (outer products).

    ``a`` (n, positions, in) and ``g`` (n, positions, out): the sum over pairs of positions of
    (a . a')(g . g') (Li et al. 2022, equation 1). One position needs no pairs.
    """
    if a.shape[1] == 1:
        return a.square().sum((1, 2)) * g.square().sum((1, 2))
    return (torch.bmm(a, a.transpose(1, 2)) * torch.bmm(g, g.transpose(1, 2))).sum((1, 2))
