"""From a sample's gradient norm to the factor it is multiplied by."""

import logging
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from fedmed.base.errors import UserError

Kind = Literal["flat", "automatic"]
log = logging.getLogger("fedmed.privacy")
SLACK = 1e-3  # of the norm of a sum: its rounding, and that of the norm
STABILITY = 0.01  # gamma of Bu et al. 2023 (automatic clipping), their recommended value


@dataclass(frozen=True)
class Clipping:
    """How one sample's gradient g is bounded to the L2 norm C.

    - ``flat``: g * min(1, C / ||g||) (Abadi et al. 2016, Algorithm 1).
    - ``automatic``: g * C / (||g|| + gamma): every gradient is normalised, so that the learning
      rate alone sets the step (Bu et al. 2023, equation 4).

    Both bound every sample by C, so the sum has sensitivity C when one sample is added or removed.
    """

    kind: Kind = "flat"

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UserError(
                f"privacy.clipping: '{self.kind}' is not known; use 'flat' or 'automatic'"
            )

    def factors(self, norms: Tensor, bound: float, dtype: torch.dtype) -> Tensor:
        """Factors (n,) in [0, 1 or C / gamma] of ``dtype`` for ``norms`` (n,), float64.

        ``norms`` are upper bounds, C = ``bound``. Rounded downwards; 0 where the norm is not
        finite, and where the factor would lie below the normal numbers of ``dtype``, which have
        fewer digits.

        >>> norms = torch.tensor([0.5, 4.0, float("inf")], dtype=torch.float64)
        >>> [round(value, 3) for value in Clipping().factors(norms, 1.0, torch.float32).tolist()]
        [1.0, 0.25, 0.0]
        """
        if self.kind == "automatic":
            factors = bound / (norms + STABILITY)
        else:
            # The larger of norm and C first: a norm of zero gives a factor of 1, never 0/0.
            factors = bound / norms.clamp(min=bound)
        kind = torch.finfo(dtype)
        kept = norms.isfinite() & (factors > 2 * kind.tiny)
        factors = torch.where(factors == 1, factors, factors * (1 - kind.eps))
        return torch.where(kept, factors, 0.0).to(dtype)

    def floor(self, bound: float) -> float:
        """A norm below which an error changes no factor."""
        return STABILITY if self.kind == "automatic" else bound

    def sensitivity(self, bound: float) -> float:
        """L2 sensitivity of the clipped sum when one sample is added or removed."""
        if not 0 < bound < float("inf"):
            raise UserError(f"privacy.clipping-norm: {bound} bounds nothing; give a finite number")
        return bound


def holds(square: float, bound: float, samples: int) -> bool:
    """Whether a clipped sum of squared norm ``square`` is at most C = ``bound`` per sample.

    Asked of every sum before it leaves an engine; where it does not hold, zeros take its place. It
    looks at the sum alone, so it finds what the proof of each sample's bound does not foresee: a
    fault of a kernel, of memory, of this program. As long as that proof holds, it is true of every
    batch there is (triangle inequality): the sum is the same function of the data with and without
    the question, and its sensitivity is C. Where the proof does not hold, noise is added to the
    zeros as to any other sum, and no error or reply tells of it: all that can be seen is noise.
    """
    if square <= (bound * samples * (1 + SLACK)) ** 2:
        return True
    log.error("a clipped sum was above its bound; noise alone is sent in its place")
    return False


def square_of(gradient: Tensor) -> float:
    """Squared norm, at the speed of one pass; not finite where a number is not."""
    flat = gradient.reshape(-1)
    return float(torch.dot(flat, flat))


def checked(total: dict[str, Tensor], bound: float, samples: int) -> tuple[dict[str, Tensor], bool]:
    """``total`` and True where :func:`holds`; else zeros and False."""
    if holds(sum(map(square_of, total.values())), bound, samples):
        return total, True
    return {name: torch.zeros_like(value) for name, value in total.items()}, False
