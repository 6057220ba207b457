"""From a mechanism's event to epsilon and back, by Google's dp-accounting (PLD).

Privacy loss distributions compose numerically (Koskela et al. 2020; Doroshenko et al. 2022) and
give an upper bound on epsilon; Rényi accounting (Mironov 2017) brackets the search for a noise
multiplier.
"""

import functools
import math
from importlib.metadata import version
from typing import Final

from dp_accounting import (
    DpEvent,
    GaussianDpEvent,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
)
from dp_accounting import NeighboringRelation as Neighbouring
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from fedmed.errors import UserError

ACCOUNTANT: Final = f"privacy loss distribution, dp-accounting {version('dp-accounting')}"
LARGEST_NOISE: Final = 1e5
# Discretisation intervals of the search and of the number that is reported, for epsilon up to 10;
# above, they grow with epsilon, so that the work does not. A coarser one only overstates epsilon.
_COARSE: Final = 1e-3
_FINE: Final = 1e-4
# Whole orders only: the fractional ones do not converge at small noise, and this only brackets.
_ORDERS: Final = (*range(2, 64), 96, 128, 256, 512, 1024)


def gaussian_event(noise_multiplier: float, sampling_rate: float, steps: int) -> DpEvent:
    """``steps`` Gaussian mechanisms, each on a Poisson sample (or on everybody at rate 1)."""
    event: DpEvent = GaussianDpEvent(noise_multiplier)
    if sampling_rate < 1:
        event = PoissonSampledDpEvent(sampling_rate, event)
    return SelfComposedDpEvent(event, steps)


@functools.lru_cache(maxsize=4096)
def epsilon(
    noise_multiplier: float,
    sampling_rate: float,
    steps: int,
    delta: float,
    interval: float | None = None,
) -> float:
    """Epsilon at ``delta`` of ``steps`` Poisson-sampled Gaussian steps, add-or-remove one, by PLD.

    Zero steps cost nothing; without noise epsilon is infinite. Raises ``ValueError`` outside
    ``noise_multiplier >= 0``, ``0 < sampling_rate <= 1``, ``steps >= 0``, ``0 < delta < 1``.
    """
    if not (noise_multiplier >= 0 and math.isfinite(noise_multiplier)):
        raise ValueError(f"noise_multiplier {noise_multiplier} must be a number >= 0")
    if not 0 < sampling_rate <= 1:
        raise ValueError(f"sampling_rate {sampling_rate} must be in (0, 1]")
    if steps < 0:
        raise ValueError(f"steps {steps} must be >= 0")
    if not 0 < delta < 1:
        raise ValueError(f"delta {delta} must be in (0, 1)")
    if steps == 0:
        return 0.0
    if noise_multiplier == 0:
        return math.inf
    event = gaussian_event(noise_multiplier, sampling_rate, steps)
    if interval is None:
        interval = _FINE * max(1.0, _rdp_epsilon(event, delta) / 10)
    accountant = PLDAccountant(Neighbouring.ADD_OR_REMOVE_ONE, interval)
    accountant.compose(event)
    return float(accountant.get_epsilon(delta))


@functools.lru_cache(maxsize=4096)
def noise_multiplier(target: float, delta: float, sampling_rate: float, steps: int) -> float:
    """Smallest noise multiplier (to 0.1 %) whose PLD epsilon at ``delta`` is at most ``target``.

    The search runs on a coarse discretisation, which can only overstate epsilon; the result is
    checked on the fine one. Raises :class:`UserError` where no noise up to 1e5 is enough.
    """
    if steps < 1:
        raise ValueError(f"steps {steps} must be >= 1")
    high = _by_rdp(target, delta, sampling_rate, steps)
    low = high / 2
    coarse = _COARSE * max(1.0, target / 10)
    while epsilon(low, sampling_rate, steps, delta, coarse) <= target:
        high, low = low, low / 2
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        if epsilon(middle, sampling_rate, steps, delta, coarse) <= target:
            high = middle
        else:
            low = middle
    while epsilon(high, sampling_rate, steps, delta) > target:
        high *= 1.001
    return high


def _by_rdp(target: float, delta: float, sampling_rate: float, steps: int) -> float:
    """A noise multiplier that is enough by Rényi accounting, hence enough by PLD."""
    sigma = 0.05
    while _rdp_epsilon(gaussian_event(sigma, sampling_rate, steps), delta) > target:
        sigma *= 1.25
        if sigma > LARGEST_NOISE:
            raise UserError(
                f"privacy.epsilon = {target:g} at delta = {delta:g} cannot be reached in {steps} "
                "steps; raise epsilon, or lower train.rounds"
            )
    return sigma


def _rdp_epsilon(event: DpEvent, delta: float) -> float:
    accountant = RdpAccountant(_ORDERS, Neighbouring.ADD_OR_REMOVE_ONE)
    accountant.compose(event)
    return float(accountant.get_epsilon(delta))
