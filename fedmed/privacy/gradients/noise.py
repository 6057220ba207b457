"""Gaussian noise on a clipped sum and the division by the expected batch, in one pass."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from fedmed.errors import UserError

_STREAMS = 8  # generators on a CPU; fixed, so that noise does not depend on the number of threads
_PIECE = 2**15  # elements at a time: in cache, and few enough for torch to stay in one thread
_WORDS = 624  # of the state of torch's CPU generator (MT19937)


class GaussianNoise:
    """Adds noise from a generator that the caller made and keeps secret.

    On a CPU torch draws in one thread, which for eleven million parameters takes as long as half a
    step. So eight generators, each with a full state drawn from the caller's, fill pieces of the
    sum side by side. On other devices the caller's own generator is used.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._streams: list[torch.Generator] = []
        if generator.device.type == "cpu":
            self._streams = [_child(generator) for _ in range(_STREAMS)]

    def noised_mean(
        self, sums: dict[str, Tensor], deviation: float, expected_batch: float
    ) -> dict[str, Tensor]:
        """(sum + N(0, deviation^2)) / expected_batch, in place in ``sums``.

        ``deviation`` is the noise multiplier times the sensitivity (Abadi et al. 2016, Algorithm
        1). Raises :class:`UserError` for a deviation or a batch that is not positive.
        """
        if not (deviation > 0 and expected_batch > 0):
            raise UserError(
                f"privacy: noise of deviation {deviation} over an expected batch of "
                f"{expected_batch} protects nothing; both must be above 0"
            )
        spread, share = deviation / expected_batch, 1 / expected_batch
        if not self._streams:
            for value in sums.values():
                noise = torch.empty_like(value).normal_(0.0, spread, generator=self._generator)
                torch.add(noise, value, alpha=share, out=value)
            return sums
        pieces = list(_pieces(sums))
        work = [
            (stream, pieces[number::_STREAMS], spread, share)
            for number, stream in enumerate(self._streams)
        ]
        threads = min(torch.get_num_threads(), _STREAMS)
        if threads == 1 or len(pieces) < 2 * _STREAMS:
            for part in work:
                _fill(*part)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(_fill, *zip(*work, strict=True)))
        return sums


@torch.no_grad()
def _fill(stream: torch.Generator, pieces: list[Tensor], spread: float, share: float) -> None:
    scratch: Tensor | None = None
    for piece in pieces:
        if scratch is None or scratch.shape != piece.shape or scratch.dtype != piece.dtype:
            scratch = torch.empty_like(piece)
        scratch.normal_(0.0, spread, generator=stream)
        torch.add(scratch, piece, alpha=share, out=piece)


def _pieces(sums: dict[str, Tensor]) -> Iterator[Tensor]:
    for value in sums.values():
        yield from torch.split(value.view(-1), _PIECE)


def _child(generator: torch.Generator) -> torch.Generator:
    """A CPU generator whose whole state is drawn from ``generator``; a seed would be 32 bits."""
    child = torch.Generator()
    child.manual_seed(0)  # lays out the state
    state = child.get_state()
    words = torch.randint(0, 2**32, (_WORDS,), generator=generator)
    # The words are stored as 64-bit numbers after seed, counters and position (24 bytes).
    state[24 : 24 + 8 * _WORDS] = words.view(torch.uint8)
    child.set_state(state)
    return child
