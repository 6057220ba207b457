"""Discrete Gaussian noise (Canonne et al. 2020): whole numbers, drawn from tables of 128 bits.

A number of small deviation is looked up: a word of 64 random bits in a table of the cumulative
distribution, and where it falls on an entry, as it does once in 10^14 draws, 64 more. A larger one
is M x + y of two such numbers, with y's deviation four times M: that sum is a discrete Gaussian but
for e^-300 (docs/secure-sum.md gives the proof). What tables cut off and round away changes a draw
with probability below :data:`DISTANCE`.
"""

from __future__ import annotations

import functools
import math
import secrets
from bisect import bisect_right
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

DISTANCE: Final = 2.0**-100
"""Bound of the total variation distance of a draw from the discrete Gaussian."""

SMALLEST: Final = 8.0
LARGEST: Final = 2.0**22
"""Deviations that are drawn."""

_TABLE: Final = 2.0**12  # the largest deviation of one table
_FINE: Final = 2.0**11  # of y, where there are two; M is a quarter of it
_STEP: Final = 2**9
_REACH: Final = 13.5  # deviations that a table holds: beyond lie 2^-134
_BITS: Final = 128
_WORKING: Final = 220  # bits of the table's arithmetic
_PIECE: Final = 2**15  # numbers at a time


@dataclass(frozen=True)
class _Table:
    """Cumulative distribution on -reach to reach: entry j is that of all before it, plus j."""

    reach: int
    exact: list[int]  # of 128 bits
    upper: Words  # their upper 64

    @classmethod
    def of(cls, deviation: float) -> _Table:
        reach = math.ceil(_REACH * deviation)
        with localcontext() as context:
            context.prec = 80
            a = (Decimal(-1) / (2 * Decimal(deviation) ** 2)).exp()
            one = Decimal(2) ** _WORKING
            ratio, square = int(a * one), int(a * a * one)
        weights = [1 << _WORKING]  # of 0, 1, ... reach: each by a^(2 n + 1)
        for _ in range(reach):
            weights.append(weights[-1] * ratio >> _WORKING)
            ratio = ratio * square >> _WORKING
        whole = 2 * sum(weights) - weights[0]
        exact, before = [], 0
        for weight in (*reversed(weights[1:]), *weights):
            before += weight
            exact.append((before << _BITS) // whole)
        exact[-1] = 1 << _BITS
        upper = np.array([min(value >> 64, 2**64 - 1) for value in exact], dtype=np.uint64)
        return cls(reach, exact, upper)

    def draw(self, stream: Stream, count: int) -> Integers:
        words = stream.words(count)
        entry = np.searchsorted(self.upper, words, side="right")
        # A word that equals an entry's upper half needs the lower half to decide.
        below = np.maximum(entry, 1) - 1
        for place in np.flatnonzero(self.upper[below] == words):
            entry[place] = self._decided(int(words[place]), stream)
        return entry.astype(np.int64) - self.reach

    def _decided(self, word: int, stream: Stream) -> int:
        whole = (word << 64) | int(stream.words(1)[0])
        return bisect_right(self.exact, whole)


class Stream:
    """Random words of 64 bits: AES-256 in counter mode."""

    def __init__(self, key: bytes) -> None:
        self._cipher: CipherContext = Cipher(
            algorithms.AES256(key), modes.CTR(bytes(16))
        ).encryptor()

    def words(self, count: int) -> Words:
        """The next ``count`` words."""
        return np.frombuffer(self._cipher.update(bytes(8 * count)), dtype="<u8")


@functools.lru_cache(maxsize=32)
def _tables(deviation: float) -> tuple[_Table, _Table | None]:
    if deviation <= _TABLE:
        return _Table.of(deviation), None
    coarse = math.sqrt(deviation**2 - _FINE**2) / _STEP
    return _Table.of(_FINE), _Table.of(coarse)


def discrete_gaussian(deviation: float, count: int, key: bytes | None = None) -> Integers:
    """``count`` whole numbers n with probability in proportion to e^(-n^2 / 2 deviation^2).

    ``key``: 32 secret bytes, which give the same numbers again; None: the operating system's.
    Raises ``ValueError`` for a deviation that is not from :data:`SMALLEST` to :data:`LARGEST`.

    >>> noise = discrete_gaussian(100.0, 5, key=bytes(32))
    >>> noise.dtype.name, bool(np.abs(noise).max() < 1000)
    ('int64', True)
    """
    if not SMALLEST <= deviation <= LARGEST:
        raise ValueError(f"a deviation of {deviation} is not from {SMALLEST} to {LARGEST}")
    stream = Stream(secrets.token_bytes(32) if key is None else key)
    fine, coarse = _tables(deviation)
    drawn = np.empty(count, dtype=np.int64)
    for start in range(0, count, _PIECE):
        piece = drawn[start : start + _PIECE]
        piece[:] = fine.draw(stream, piece.size)
        if coarse is not None:
            piece += _STEP * coarse.draw(stream, piece.size)
    return drawn
