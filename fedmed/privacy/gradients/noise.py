"""Gaussian noise on a clipped sum and the division by the expected batch, in one pass."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from fedmed.base.errors import UserError

_STREAMS = 8  # fixed, so that noise does not depend on the number of threads
_PIECE = 2**18  # elements that a stream takes at a time


class Stream(Protocol):
    """Secret Gaussian noise: :class:`fedmed.privacy.mechanisms.normals.Normals`."""

    def add_(self, values: Tensor, deviation: float, share: float = 1.0) -> None:
        """(``values`` + N(0, deviation^2)) * share, in place."""
        ...

    def split(self, count: int) -> Sequence["Stream"]:
        """Streams that are independent of this one and of each other."""
        ...


class SumNoise:
    """Adds noise from a stream that the caller made and keeps secret.

    Eight streams of its own, with keys from the caller's, fill pieces of the sum side by side. A
    sum on another device is noised on the CPU, from the same streams, and copied back: that
    device's own generator is no cryptographic one.
    """

    def __init__(self, stream: Stream) -> None:
        self._streams = stream.split(_STREAMS)

    def noised_mean(
        self, sums: dict[str, Tensor], deviation: float, expected_batch: float
    ) -> dict[str, Tensor]:
        """(sum + N(0, deviation^2)) / expected_batch, in place in ``sums``.

        ``deviation`` is the noise multiplier times the sensitivity (Abadi et al. 2016, Algorithm
        1). Raises :class:`UserError` for a deviation or a batch that is not positive, or where
        their ratio is no number far from either end of float32.
        """
        if not (expected_batch > 0 and 1e-30 < deviation / expected_batch < 1e30):
            raise UserError(
                f"privacy: noise of deviation {deviation} over an expected batch of "
                f"{expected_batch} protects nothing; both must be above 0, and their ratio from "
                "1e-30 to 1e30"
            )
        here = {name: value.detach().cpu().contiguous() for name, value in sums.items()}
        pieces = [part for value in here.values() for part in torch.split(value.view(-1), _PIECE)]
        share = 1 / expected_batch

        def fill(number: int) -> None:
            for piece in pieces[number::_STREAMS]:
                self._streams[number].add_(piece, deviation, share)

        threads = min(torch.get_num_threads(), _STREAMS)
        if threads == 1 or len(pieces) < _STREAMS:
            for number in range(_STREAMS):
                fill(number)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(fill, range(_STREAMS)))
        for name, value in sums.items():
            if here[name].data_ptr() != value.data_ptr():
                with torch.no_grad():
                    value.copy_(here[name])
        return sums
