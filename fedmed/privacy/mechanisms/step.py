"""One step of a mechanism, in the few numbers that decide what it costs.

A mechanism gives accounting its ``dp_accounting`` event and its Rényi divergence, and a ledger the
words that it keeps: all three come from the same frozen object.
"""

import functools
import math
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from dp_accounting import (
    DpEvent,
    GaussianDpEvent,
    LaplaceDpEvent,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
)
from dp_accounting.dp_event import MixtureOfGaussiansDpEvent
from dp_accounting.rdp import RdpAccountant
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import binom

Kind = Literal["gaussian", "laplace", "group-gaussian", "replace-gaussian"]
Relation = Literal["add-or-remove", "replace-one"]
# Whole orders only: the fractional ones do not converge at small noise.
ORDERS: Final = (*range(2, 33), 40, 48, 64, 96, 128, 256, 512)


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """One step, in units of its sensitivity.

    ``gaussian``: noise of ``noise`` x the L2 sensitivity, on a Poisson sample at ``rate`` (1:
    everybody). ``group-gaussian``: the same seen from a person with ``group`` records, each sampled
    on its own. ``replace-gaussian``: the same where another record takes one's place. ``laplace``:
    ``group`` coordinates, each with Laplace noise of scale ``noise`` x its sensitivity, all of
    which one record may change at once.
    """

    kind: Kind
    noise: float
    rate: float = 1.0
    group: int = 1

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"mechanism '{self.kind}' is not known")
        if not (self.noise > 0 and math.isfinite(self.noise)):
            raise ValueError(f"noise {self.noise} must be a number above 0")
        if not 0 < self.rate <= 1:
            raise ValueError(f"sampling_rate {self.rate} must be in (0, 1]")
        if self.group < 1:
            raise ValueError(f"group {self.group} must be at least 1")

    @property
    def relation(self) -> Relation:
        """Between which data sets ``event`` tells apart."""
        return "replace-one" if self.kind == "replace-gaussian" else "add-or-remove"

    def event(self, count: int) -> DpEvent:
        """``count`` such steps, as dp-accounting composes them under ``relation``."""
        if self.kind == "laplace":
            return SelfComposedDpEvent(LaplaceDpEvent(self.noise), self.group * count)
        if self.kind == "group-gaussian":
            present = range(self.group + 1)
            weights = [float(binom.pmf(j, self.group, self.rate)) for j in present]
            event: DpEvent = MixtureOfGaussiansDpEvent(
                self.noise, [float(j) for j in present], weights
            )
            return SelfComposedDpEvent(event, count)
        event = GaussianDpEvent(self.noise)
        if self.rate < 1:
            event = PoissonSampledDpEvent(self.rate, event)
        return SelfComposedDpEvent(event, count)

    def rdp(self) -> tuple[float, ...]:
        """Rényi divergence of one step at each of ``ORDERS``, under ``relation``."""
        return _rdp(self)

    def pure_epsilon(self) -> float:
        """Epsilon of one step at delta 0; infinite for Gaussian noise."""
        return self.group / self.noise if self.kind == "laplace" else math.inf

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Mechanism":
        """The mechanism of :meth:`to_json`; raises ``ValueError`` or ``TypeError`` for another."""
        return cls(**value)


def gaussian(noise: float, rate: float = 1.0) -> Mechanism:
    """Gaussian noise on a Poisson sample (or on everybody).

    >>> gaussian(1.5, rate=0.1).relation
    'add-or-remove'
    """
    return Mechanism(kind="gaussian", noise=noise, rate=rate)


def replace_gaussian(noise: float, rate: float = 1.0) -> Mechanism:
    """The same where one record is replaced by another: it covers one that is added or removed."""
    return Mechanism(kind="replace-gaussian", noise=noise, rate=rate)


def group_gaussian(noise: float, rate: float, group: int) -> Mechanism:
    """The same for a person with ``group`` records; with one record it is plain Gaussian."""
    if group == 1:
        return gaussian(noise, rate)
    return Mechanism(kind="group-gaussian", noise=noise, rate=rate, group=group)


def laplace(noise: float, coordinates: int) -> Mechanism:
    """Laplace noise on ``coordinates`` numbers.

    >>> laplace(0.5, coordinates=1024).pure_epsilon()
    2048.0
    """
    return Mechanism(kind="laplace", noise=noise, group=coordinates)


@functools.lru_cache(maxsize=4096)
def _rdp(mechanism: Mechanism) -> tuple[float, ...]:
    if mechanism.kind in ("group-gaussian", "replace-gaussian"):
        return tuple(_mixture_rdp(mechanism, order) for order in ORDERS)
    if mechanism.kind == "laplace":
        return tuple(mechanism.group * _laplace_rdp(mechanism.noise, order) for order in ORDERS)
    accountant = RdpAccountant(ORDERS)
    accountant.compose(mechanism.event(1))
    return tuple(float(value) for value in accountant._rdp)


def _laplace_rdp(scale: float, order: int) -> float:
    """Rényi divergence of one Laplace coordinate (Mironov 2017, Proposition 6)."""
    terms = [
        math.log(order / (2 * order - 1)) + (order - 1) / scale,
        math.log((order - 1) / (2 * order - 1)) - order / scale,
    ]
    return float(logsumexp(terms)) / (order - 1)


def _mixture_rdp(mechanism: Mechanism, order: int) -> float:
    """Larger divergence of the two directions between two mixtures of Gaussians of one width.

    A group: of its records between none and all are in the sample, against none. Replacement: the
    record is in the sample with probability ``rate``, where it pulls one way in one data set and
    the opposite way in the other; that pair dominates every other (Lebeda et al. 2024).

    By the trapezoid rule, whose error on analytic integrands that vanish at both ends falls off
    exponentially in the number of points; the result is raised by a millionth for the rest.
    """
    sigma, group = mechanism.noise, mechanism.group
    present = np.arange(group + 1)
    weights = binom.logpmf(present, group, mechanism.rate)  # minus infinity where it cannot be
    replaced = mechanism.kind == "replace-gaussian"
    reach = order * (group + replaced) + 14 * sigma
    points = max(2000, math.ceil(2 * reach / sigma * 40))
    grid = np.linspace(-reach, reach, points)
    mixture = logsumexp(-((grid[:, None] - present) ** 2) / (2 * sigma**2) + weights, axis=1)
    other = mixture[::-1] if replaced else -(grid**2) / (2 * sigma**2)
    scale = math.log((grid[1] - grid[0]) / (sigma * math.sqrt(2 * math.pi)))

    def divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
        return (float(logsumexp(order * p + (1 - order) * q)) + scale) / (order - 1)

    return max(0.0, divergence(mixture, other), divergence(other, mixture)) * (1 + 1e-6)
