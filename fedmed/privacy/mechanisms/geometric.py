"""Discrete Laplace noise and randomised response, drawn by comparing whole numbers.

Laplace noise in floating point gives values away by their low bits (Mironov 2012). Here a value is
a whole number, and so is its noise: the difference of two geometric numbers with
P(n) = (1 - q) q^n and q = e^(-rate) is a discrete Laplace, P(z) = (1 - q) / (1 + q) q^|z| (Ghosh et
al. 2009; Canonne et al. 2020). The binary digits of a geometric number are independent: digit j is
1 with probability 1 / (1 + e^(rate 2^j)). So its lowest digits are drawn one by one, each by one
comparison of random bits with a threshold, and nothing is cut off: what comes out is the number
modulo 2^bits, which is a function of the whole one.

Thresholds have 256 bits. Each outcome of a digit is thereby as probable as it should be but for a
factor within 1 +- 2^-256 / p, where p is its probability; :func:`excess` adds that up.
"""

from __future__ import annotations

import functools
import math
import secrets
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Final

import numpy as np
import numpy.typing as npt

from fedmed.privacy.mechanisms.integers import Integers, Stream

MOST_BITS: Final = 62
"""Digits of a number, so that sums stay within 64 bits."""

_BITS: Final = 256  # of a threshold
_WORD: Final = 64
_DIGITS: Final = 200  # decimal, of the arithmetic that makes thresholds
_TAIL: Final = 24.0  # scales of noise that are kept free of wrapping around: e^-24 = 4e-11


@dataclass(frozen=True)
class Coin:
    """A coin that shows 1 with probability ``threshold`` / 2^256."""

    threshold: int

    def toss(self, stream: Stream, count: int) -> npt.NDArray[np.bool_]:
        """``count`` tosses."""
        upper, lower = divmod(self.threshold, 1 << (_BITS - _WORD))
        words = stream.words(count)
        ones: npt.NDArray[np.bool_] = words < np.uint64(min(upper, 2**64 - 1))
        # A word that equals the threshold's upper 64 bits needs the other 192, once in 10^19.
        for place in np.flatnonzero(words == np.uint64(min(upper, 2**64 - 1))):
            rest = functools.reduce(lambda r, w: (r << _WORD) | int(w), stream.words(3), 0)
            ones[place] = upper >= 2**64 or rest < lower
        return ones


@functools.lru_cache(maxsize=64)
def digits(rate: float, bits: int) -> tuple[Coin, ...]:
    """The coins of the ``bits`` lowest binary digits of a geometric number of e^(-``rate``)."""
    with localcontext() as context:
        context.prec = _DIGITS
        one, step = Decimal(1), Decimal(rate)
        return tuple(
            Coin(int((Decimal(2) ** _BITS / (one + (step * 2**j).exp())).to_integral_value()))
            for j in range(bits)
        )


def bits_for(rate: float, bound: int) -> int:
    """Digits with which a number up to ``bound`` and its noise hardly ever wrap around.

    With probability below 4e-11 each. Privacy rests on none of it. Raises ``ValueError`` where it
    would take more than :data:`MOST_BITS`, or a digit be too rare for its threshold.
    """
    bits = math.ceil(math.log2(bound + _TAIL / rate)) + 1
    if not (bits <= MOST_BITS and rate * 2.0 ** (bits - 1) < 160):
        raise ValueError(f"noise of rate {rate} on numbers up to {bound} cannot be drawn")
    return bits


def excess(rate: float, bits: int, coordinates: int) -> float:
    """What rounded thresholds add to epsilon at most, over ``coordinates`` numbers.

    A digit's rarer outcome has probability p >= e^(-rate 2^j) / 2, and is so by a factor within
    1 +- 2^-256 / p. The probability of a result is a sum of products of 2 ``bits`` such factors,
    and a ratio of two of them has twice as many; log(1 + x) and -log(1 - x) are below 2 x.
    """
    rare = math.exp(-rate * 2.0 ** (bits - 1)) / 2
    return coordinates * 2 * (2 * bits) * 2 * (2.0**-_BITS / rare)


def discrete_laplace(
    values: Integers, rate: float, bits: int, key: bytes | None = None
) -> Integers:
    """Whole numbers plus discrete Laplace noise, modulo 2^``bits``, from -2^(bits-1) on.

    ``values`` int64 of any shape. A value that moves by one step changes every probability by a
    factor of at most e^``rate`` (and :func:`excess`). ``key``: 32 secret bytes, which give the same
    noise again; None: the operating system's.

    >>> noised = discrete_laplace(np.array([5, -5]), 0.1, bits_for(0.1, 5), key=bytes(32))
    >>> noised.dtype.name, bool(np.abs(noised).max() < 300)
    ('int64', True)
    """
    stream = Stream(secrets.token_bytes(32) if key is None else key)
    total = values.astype(np.int64).reshape(-1)
    for sign in (1, -1):
        for place, coin in enumerate(digits(rate, bits)):
            total = total + sign * (coin.toss(stream, total.size).astype(np.int64) << place)
    half = 1 << (bits - 1)
    return (((total + half) & ((1 << bits) - 1)) - half).reshape(values.shape)


def variance(rate: float) -> float:
    """Of the discrete Laplace: 2 q / (1 - q)^2, in squared steps."""
    return 1 / (2 * math.sinh(rate / 2) ** 2)


@functools.lru_cache(maxsize=64)
def liar(epsilon: float) -> Coin:
    """The coin by which randomised response turns a yes or no around.

    Of probability 1 / (1 + e^``epsilon``) (Warner 1965), rounded up: the ratio of telling the truth
    to lying is e^``epsilon`` at most.
    """
    with localcontext() as context:
        context.prec = _DIGITS
        wanted = Decimal(2) ** _BITS / (1 + Decimal(epsilon).exp())
        return Coin(int(wanted) + 1)


def turned(
    answers: npt.NDArray[np.bool_], epsilon: float, key: bytes | None = None
) -> npt.NDArray[np.bool_]:
    """Randomised response to ``answers`` (n,); ``key`` as in :func:`discrete_laplace`."""
    stream = Stream(secrets.token_bytes(32) if key is None else key)
    result: npt.NDArray[np.bool_] = answers ^ liar(epsilon).toss(stream, answers.size)
    return result
