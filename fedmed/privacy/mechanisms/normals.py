"""Standard normal numbers from AES-128 in counter mode (GCM's keystream), without a deepest one.

A number is a mixture: with probability 2^-20 it comes from beyond +-4.9 standard deviations, else
from within. Within, it is the inverse distribution function of a 64-bit word, in float64. Beyond,
it is that of a log-probability that a word shortens by 20 bits as often as one falls below 2^-20,
so there is no depth that no draw reaches. Sums are formed in float64 and rounded once.
"""

import math
from typing import Final

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray
from scipy.special import ndtri_exp
from torch import Tensor

_BEYOND: Final = 20  # a tail has 2^-20 of the probability, each deeper level 2^-20 of the tail
_TAIL: Final = 2.0**-_BEYOND
_WITHIN: Final = (1 - _TAIL) * 2.0**-63  # makes a signed word a number in [-1 + tail, 1 - tail]
_PIECE: Final = 2**15  # numbers at a time: in cache, and few enough for torch to stay in one thread
_ZEROS: Final = memoryview(bytes(8 * _PIECE))
_TAG: Final = 16  # bytes that AES-GCM writes after the keystream, and nobody reads
_LINE: Final = 64  # bytes of a line of the cache


class _Scratch:
    """Memory for ``count`` numbers, and every view of it that a piece needs.

    Both are kept between pieces: fresh pages and fresh views cost a fifth of the draw.
    """

    def __init__(self, count: int, memory: NDArray[np.uint8] | None = None) -> None:
        size = 8 * count
        if memory is None:  # by torch, which starts at a cache line
            memory = torch.empty(2 * size + _LINE, dtype=torch.uint8).numpy()
        self._memory = memory
        self.zeros = _ZEROS[:size]
        self.target = memory[: size + _TAG].data
        self.words = memory[:size].view("<i8")
        self.exact = torch.from_numpy(memory[:size].view(np.float64))  # in the words' place
        self.halves = memory[size + _LINE : 2 * size + _LINE].view(np.float64)
        self.drawn = torch.from_numpy(self.halves)

    def of(self, count: int) -> "_Scratch":
        """For another count, in the same memory where there is enough."""
        return _Scratch(count, self._memory if len(self._memory) >= 16 * count + _LINE else None)


class Normals:
    """A stream of independent N(0, 1) numbers; whoever lacks the 128-bit key cannot foresee one."""

    def __init__(self, key: int) -> None:
        self._cipher = AESGCM(key.to_bytes(16, "big"))
        self._taken = 0  # pieces of the keystream
        self._scratch = _Scratch(0)
        self._until_tail = self._gap()

    def add_(self, values: Tensor, deviation: float, share: float = 1.0) -> None:
        """(``values`` + N(0, deviation^2)) * share in each element, in place.

        Each sum is computed in float64 and rounded once to the element's own type: that, and the
        product, are post-processing of a sum in float64. Any shape, layout, float type and device;
        the noise is drawn on the CPU. Raises ``ValueError`` for a deviation that is not a number
        above 0.
        """
        if not (deviation > 0 and math.isfinite(deviation)):
            raise ValueError(f"noise needs a deviation above 0 that is finite, not {deviation}")
        if not values.numel():
            return
        scale = math.sqrt(2) * deviation
        with torch.no_grad():
            if values.device.type != "cpu" or not values.is_contiguous():
                there = values.detach().to("cpu", copy=True).contiguous()
                self.add_(there, deviation, share)
                values.copy_(there)
                return
            for piece in torch.split(values.detach().view(-1), _PIECE):
                noise = self._halves(len(piece))
                exact = self._scratch.exact
                exact.copy_(piece).add_(noise, alpha=scale)
                piece.copy_(exact)
                if share != 1:
                    piece.mul_(share)

    def draw(self, count: int) -> NDArray[np.float64]:
        """The next ``count`` numbers."""
        drawn = np.empty(count)
        for start in range(0, count, _PIECE):
            part = drawn[start : start + _PIECE]
            np.multiply(self._halves(len(part)).numpy(), math.sqrt(2), out=part)
        return drawn

    def split(self, count: int) -> list["Normals"]:
        """``count`` streams with keys from this one, independent of it and of each other."""
        keys = self._keystream(16 * count)
        return [
            Normals(int.from_bytes(keys[start : start + 16], "big"))
            for start in range(0, 16 * count, 16)
        ]

    def _halves(self, count: int) -> Tensor:
        """The next numbers over sqrt(2), float64, until the next call; at most :data:`_PIECE`."""
        if count != len(self._scratch.halves):
            self._scratch = self._scratch.of(count)
        scratch = self._scratch
        self._cipher.encrypt_into(self._nonce(), scratch.zeros, None, scratch.target)
        halves, drawn = scratch.halves, scratch.drawn
        halves[:] = scratch.words  # NumPy converts, torch multiplies: the faster
        torch.erfinv(drawn.mul_(_WITHIN), out=drawn)
        while self._until_tail < count:
            halves[self._until_tail] = self._tail() / math.sqrt(2)
            self._until_tail += 1 + self._gap()
        self._until_tail -= count
        return drawn

    def _gap(self) -> int:
        """How many numbers come before the next from beyond: geometric."""
        return math.floor(math.log(self._uniform()) / math.log1p(-_TAIL))

    def _tail(self) -> float:
        """A number from beyond, from either side: the inverse of its survival's logarithm."""
        survival = math.log(_TAIL / 2)
        while (uniform := self._uniform()) < _TAIL:
            survival -= _BEYOND * math.log(2)
        size = -float(ndtri_exp(survival + math.log(uniform)))
        return size if self._uniform() < 0.5 else -size

    def _uniform(self) -> float:
        """In (0, 1], from 64 bits."""
        return (int.from_bytes(self._keystream(8), "little") + 0.5) * 2.0**-64

    def _keystream(self, size: int) -> bytes:
        return self._cipher.encrypt(self._nonce(), bytes(size), None)[:size]

    def _nonce(self) -> bytes:
        """Another one for each piece of the keystream: the counter's upper 96 bits."""
        self._taken += 1
        return self._taken.to_bytes(12, "big")
