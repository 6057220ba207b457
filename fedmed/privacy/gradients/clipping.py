"""From a sample's gradient norm to the factor it is multiplied by."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from fedmed.errors import UserError

Kind = Literal["flat", "automatic"]
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

    def factors(self, norms: Tensor, bound: float) -> Tensor:
        """Factors (n,) in [0, 1 or C / gamma] for finite ``norms`` (n,) and C = ``bound``."""
        if self.kind == "automatic":
            return bound / (norms + STABILITY)
        # The larger of norm and C first: a norm of zero gives a factor of 1, never 0/0.
        return bound / norms.clamp(min=bound)

    def sensitivity(self, bound: float) -> float:
        """L2 sensitivity of the clipped sum when one sample is added or removed."""
        if not 0 < bound < float("inf"):
            raise UserError(f"privacy.clipping-norm: {bound} bounds nothing; give a finite number")
        return bound


def keep_finite(norms: Tensor, bad_gradients: str) -> Tensor | None:
    """Which samples count: None for all, else a mask (n,).

    Raises ``FloatingPointError`` for norms (n,) that are not finite and are not to be dropped.
    """
    finite = torch.isfinite(norms)
    if bool(finite.all()):
        return None
    if bad_gradients == "refuse":
        raise FloatingPointError("a sample's gradient is not finite")
    return finite
