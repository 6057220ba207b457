"""Upper bounds of per-sample gradient norms that hold whatever the rounding errors are.

A ghost norm is a sum with cancellation: with large, nearly constant inputs a and output gradients
g of mean zero, rounding can leave any number, below zero too. So each is taken with its error
(Higham 2002, "Accuracy and stability of numerical algorithms", sections 3.1 and 4.2, with
gamma_m = m u / (1 - m u), u the unit roundoff): a sum of products whose terms pass at most m
roundings, added up in any order, differs from the exact one by at most gamma_m times the sum of
the terms' absolute values. By Cauchy and Schwarz that sum is at most M = (|a|^2)(|g|^2), summed
over positions, which the same products hold on their diagonals.

What is contributed is not the exact gradient: the weighted sum of K terms per weight rounds as
well. The part of one sample in that error is at most gamma_K sqrt(M) of its factor. So with
squares s, a sample of norm at most

    sqrt(sum of (s + gamma_m M) over layers) + sqrt(sum of gamma_K^2 M over layers)

is divided by that number, and what enters the sum for it is at most C. Nothing is ever subtracted.
Where the bound is loose, norm and sum are computed again in float64 (see ``Tape``).
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

LOOSE = 2e-3  # of the norm: what honest training may lose to the bounds
UNDERFLOW = 2.0**-50  # absolute: all that is lost in float32 below its smallest number
_SAFE = 0.004  # gamma beyond which a bound in that precision is not used: M itself is rounded
# A GPU's convolution may transform small tiles (Winograd): more error for each addition, but far
# fewer one after the other than the bound allows for. A margin, not a proof.
_TRANSFORMED = 4


@dataclass(frozen=True)
class Estimate:
    """Squared gradient norms (n,) of one layer as computed, and what their error follows from.

    ``magnitudes`` (n,) is M, an upper bound of the sum of absolute values. A term of ``squares``
    passes at most ``terms`` roundings; ``positions`` terms per sample are added in the weighted
    sum.
    """

    squares: Tensor
    magnitudes: Tensor
    terms: int
    positions: int


@dataclass(frozen=True)
class Bound:
    """Sums (n,) over layers, float64: squared norms, their error bound, and that of the sum."""

    squares: Tensor
    errors: Tensor  # sum of gamma_m M
    added: Tensor  # root of the sum of gamma_K^2 M

    @staticmethod
    def of(estimates: list[Estimate], samples: int, direct: Tensor) -> "Bound":
        """From the ``estimates`` of layers whose sums run over ``samples`` samples.

        ``direct`` (n,) are upper bounds for the squares of tensors that are contributed as they
        are: no rounding is left in them.
        """
        if not estimates:
            return Bound(direct, torch.zeros_like(direct), torch.zeros_like(direct))
        device = direct.device
        margin = 1 if device.type == "cpu" else _TRANSFORMED
        squares = torch.stack([e.squares for e in estimates]).double()
        largest = torch.stack([e.magnitudes for e in estimates]).double()
        shares = torch.tensor(
            [
                (
                    gamma(e.terms, e.squares.dtype),
                    gamma(margin * (e.positions * samples + 4), e.squares.dtype) ** 2,
                )
                for e in estimates
            ],
            dtype=torch.float64,
            device=device,
        )
        errors, added = shares.t() @ largest
        return Bound(squares.sum(0) + direct, errors, added.sqrt())

    def norms(self) -> Tensor:
        """Upper bounds of the norms (n,). Never clamped: what is below zero is not a number."""
        return (self.squares + self.errors).sqrt() + self.added

    def loose(self, floor: float) -> Tensor:
        """Mask (n,): the error bounds are not small beside the norm and ``floor``, or not known."""
        norms = self.squares.clamp(min=floor**2).sqrt()
        close = (self.errors <= 2 * LOOSE * norms.square()) & (self.added <= LOOSE * norms)
        return ~(close & norms.isfinite())


def gamma(terms: int, dtype: torch.dtype) -> float:
    """Relative error bound of ``terms`` roundings in ``dtype``; infinite where it says nothing."""
    error = terms * torch.finfo(dtype).eps / 2
    return 1.01 * error / (1 - error) if error < _SAFE else math.inf


def magnitude(a: Tensor, g: Tensor, positions: int) -> Tensor:
    """M from sums of squares ``a`` and ``g`` of the same shape over ``positions`` positions.

    The small number covers products that underflow in the sums that this is a bound for.
    """
    kind = torch.finfo(a.dtype)
    tiny = 4 * positions * kind.tiny / kind.eps
    return torch.add(a, tiny).mul_(torch.add(g, tiny))


def trace(gram: Tensor) -> Tensor:
    """Sum of the diagonals of matrices (..., n, n)."""
    return gram.diagonal(dim1=-2, dim2=-1).sum(-1)


def sum_of_pairs(first: Tensor, second: Tensor) -> Tensor:
    """Sums (n,) of the elements' products of two arrays (n, p, p), row by row: 2 p roundings.

    The products take the place of ``first``.
    """
    return first.mul_(second).sum(2).sum(1)


def sum_of_squares(gradients: Iterable[Tensor]) -> Tensor:
    """Upper bound (rows,), float64, of the squared L2 norm over all ``gradients`` (rows, ...).

    Row by row of a weight: the fewer numbers in one sum, the smaller its error. No number cancels
    another here, so the error is relative. Infinite where a square leaves the range of the type;
    :func:`exact_squares` then still has it.
    """
    return torch.stack([_squares(gradient) for gradient in gradients]).sum(0)


def _squares(gradient: Tensor) -> Tensor:
    rows = gradient.flatten(2) if gradient.dim() > 2 else gradient.flatten(1)
    kind = torch.finfo(rows.dtype)
    squares = torch.linalg.vector_norm(rows, dim=-1).double().square_()
    squares = squares.sum(1) if squares.dim() > 1 else squares
    grown = 1 + gamma(rows.shape[-1] + 4, rows.dtype)
    bound: Tensor = squares.mul_(grown).add_(gradient.shape[1:].numel() * kind.tiny)
    return bound


def exact_squares(gradients: Iterable[Tensor]) -> Tensor:
    """:func:`sum_of_squares` computed in float64, sample by sample."""
    return torch.stack(
        [
            torch.stack([_squares(row.double().reshape(1, -1))[0] for row in gradient])
            for gradient in gradients
        ]
    ).sum(0)


@contextmanager
def full_products(device: torch.device) -> Iterator[None]:
    """Matrix products and convolutions of float32 numbers in float32, whatever the process allows.

    A GPU may round their factors to TF32 (11 bits: relative error 2^-11), as cuDNN does unless it
    is told not to (``torch.backends.cudnn.allow_tf32`` is True by default). No bound here would
    hold then.
    """
    if device.type != "cuda" and torch.get_float32_matmul_precision() == "highest":
        yield
        return
    cudnn, precision = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = cudnn
        torch.set_float32_matmul_precision(precision)
