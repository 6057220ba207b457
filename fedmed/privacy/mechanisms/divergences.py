"""What one step of a mechanism costs: its event for dp-accounting, and its Rényi divergence."""

import functools
import math

import numpy as np
from dp_accounting import (
    ComposedDpEvent,
    DpEvent,
    GaussianDpEvent,
    LaplaceDpEvent,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
)
from dp_accounting.dp_event import MixtureOfGaussiansDpEvent, RandomizedResponseDpEvent
from dp_accounting.rdp import RdpAccountant
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import binom

from fedmed.privacy.mechanisms.step import ORDERS, Mechanism


def event(mechanism: Mechanism, count: int) -> DpEvent:
    """``count`` such steps, as dp-accounting composes them under the mechanism's relation."""
    if mechanism.kind == "laplace":
        return SelfComposedDpEvent(LaplaceDpEvent(mechanism.noise), mechanism.group * count)
    if mechanism.kind == "pure":
        # The chance of a random one of two answers; its accountant composes no event with itself.
        answer = RandomizedResponseDpEvent(2 * _lie(mechanism), 2)
        return ComposedDpEvent([answer] * count)
    if mechanism.kind == "group-gaussian":
        present = range(mechanism.group + 1)
        weights = [float(binom.pmf(j, mechanism.group, mechanism.rate)) for j in present]
        mixture: DpEvent = MixtureOfGaussiansDpEvent(
            mechanism.noise, [float(j) for j in present], weights
        )
        return SelfComposedDpEvent(mixture, count)
    step: DpEvent = GaussianDpEvent(mechanism.noise)
    if mechanism.rate < 1:
        step = PoissonSampledDpEvent(mechanism.rate, step)
    return SelfComposedDpEvent(step, count)


@functools.lru_cache(maxsize=4096)
def renyi(mechanism: Mechanism) -> tuple[float, ...]:
    """Rényi divergence of one step at each of ``ORDERS``, under the mechanism's relation."""
    if mechanism.kind in ("group-gaussian", "replace-gaussian"):
        return tuple(_mixture_rdp(mechanism, order) for order in ORDERS)
    if mechanism.kind == "laplace":
        return tuple(mechanism.group * _laplace_rdp(mechanism.noise, order) for order in ORDERS)
    if mechanism.kind == "pure":
        return tuple(_pure_rdp(mechanism, order) for order in ORDERS)
    accountant = RdpAccountant(ORDERS)
    accountant.compose(event(mechanism, 1))
    return tuple(float(value) for value in accountant._rdp)


def _laplace_rdp(scale: float, order: int) -> float:
    """Rényi divergence of one Laplace coordinate (Mironov 2017, Proposition 6)."""
    terms = [
        math.log(order / (2 * order - 1)) + (order - 1) / scale,
        math.log((order - 1) / (2 * order - 1)) - order / scale,
    ]
    return float(logsumexp(terms)) / (order - 1)


def _lie(mechanism: Mechanism) -> float:
    """With which probability randomised response of the same epsilon tells no truth."""
    return 1 / (1 + math.exp(mechanism.pure_epsilon()))


def _pure_rdp(mechanism: Mechanism, order: int) -> float:
    """Rényi divergence of randomised response (Mironov 2017, Proposition 5)."""
    epsilon = mechanism.pure_epsilon()
    truth, lie = -math.log1p(math.exp(-epsilon)), -epsilon - math.log1p(math.exp(-epsilon))
    terms = [order * truth + (1 - order) * lie, order * lie + (1 - order) * truth]
    return min(epsilon, float(logsumexp(terms)) / (order - 1))


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
