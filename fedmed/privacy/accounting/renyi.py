"""What is added up across plans: Rényi divergences, and epsilon from them (Mironov 2017)."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from fedmed.privacy.mechanisms.step import ORDERS, Mechanism

Spent = tuple[tuple[Mechanism, int], ...]
"""Mechanisms and how often each was run: what is composed."""

ODOMETER_ORDERS: Final = (2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 64, 128, 256, 512)
"""Over which :func:`odometer` shares delta out: fixed, whatever is spent."""


def rdp(spent: Spent) -> tuple[float, ...]:
    """Rényi divergence of all of ``spent`` at each of ``ORDERS``, each under its relation."""
    total = np.zeros(len(ORDERS))
    for mechanism, count in spent:
        if count:
            total += count * np.array(mechanism.rdp())
    return tuple(float(value) for value in total)


def rdp_epsilon(divergences: Sequence[float], delta: float) -> float:
    """Epsilon at ``delta`` from divergences at ``ORDERS``, at the best order (see allowance).

    >>> from fedmed.privacy.mechanisms.step import gaussian
    >>> round(rdp_epsilon(rdp(((gaussian(1.0, 0.01), 1000),)), 1e-5), 2)
    2.11
    """
    return max(
        0.0,
        min(d + _conversion(o, delta) for o, d in zip(ORDERS, divergences, strict=True)),
    )


def epsilon_at(order: int, divergence: float, delta: float) -> float:
    """Epsilon at ``delta`` from a divergence at one order; the counterpart of allowance."""
    return max(0.0, divergence + _conversion(order, delta))


def odometer(divergences: Sequence[float], delta: float) -> float:
    """A running bound from divergences at ``ORDERS`` so far: at no moment is the loss above it.

    With probability 1 - delta, for every order and at every moment at once, the privacy loss is at
    most T + log(n / delta) / (order - 1), where T is the sum of divergences of that order and n the
    number of :data:`ODOMETER_ORDERS`. For exp((order - 1) (loss - T)) is a supermartingale that
    starts at 1, however each step was chosen by those before it, and Ville's inequality bounds its
    maximum (Whitehouse et al. 2023; odometers: Rogers et al. 2016). So plans may depend on what was
    released, and so may the moment of reading.

    >>> from fedmed.privacy.mechanisms.step import gaussian
    >>> spent = rdp(((gaussian(1.0, 0.01), 1000),))
    >>> rdp_epsilon(spent, 1e-5) < odometer(spent, 1e-5)
    True
    """
    share = math.log(len(ODOMETER_ORDERS) / delta)
    known = dict(zip(ORDERS, divergences, strict=True))
    bound: float = min(known[order] + share / (order - 1) for order in ODOMETER_ORDERS)
    return bound


def allowance(order: int, target: float, delta: float) -> float:
    """Largest Rényi divergence at ``order`` that is still (target, delta)-DP; may be negative.

    The conversion is that of Canonne, Kamath and Steinke 2020, Proposition 12.
    """
    return target - _conversion(order, delta)


def _conversion(order: int, delta: float) -> float:
    return math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)
