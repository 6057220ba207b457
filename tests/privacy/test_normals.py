"""Normal numbers: their words are AES, their tails have no end, their sums are rounded once."""

import math
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import chi2, kstest, norm, poisson
from support import goes_red

from fedmed.privacy.mechanisms.normals import Normals

Scores = NDArray[np.float64]
EDGE = float(norm.isf(2.0**-21))  # 4.9009...: beyond it numbers come from the tail
BOX_MULLER = math.sqrt(-2 * math.log(2.0**-24))  # the deepest draw of 24-bit uniforms: 5.7682


class Words:
    """A cipher whose keystream is the words it was told, and zeros after them."""

    def __init__(self, words: Iterable[int]) -> None:
        self._bytes = b"".join(word.to_bytes(8, "little") for word in words)

    def encrypt(self, nonce: bytes, zeros: bytes, about: None) -> bytes:
        taken, self._bytes = self._bytes[: len(zeros)], self._bytes[len(zeros) :]
        return taken.ljust(len(zeros) + 16, b"\0")

    def encrypt_into(self, nonce: bytes, zeros: bytes, about: None, target: memoryview) -> None:
        target[:] = self.encrypt(nonce, bytes(zeros), about)


def stream(words: Iterable[int]) -> Normals:
    """A stream whose next numbers, none of them from beyond, are made from ``words``."""
    made = Normals(1)
    made._until_tail = 2**62
    made._cipher = Words(words)  # type: ignore[assignment]  # a stand-in
    return made


def test_the_extreme_words_give_the_edge_and_nothing_infinite() -> None:
    words = [0, 2**63 - 1, 2**63, 2**64 - 1, 1]
    found = stream(words).draw(5)
    np.testing.assert_allclose(found[:3], [0, EDGE, -EDGE], rtol=1e-9)
    assert found[3] < 0 < found[4]
    assert np.abs(found[3:]).max() < 1e-18
    quarter = stream([2**61]).draw(1)[0]  # a quarter of one side
    assert quarter == pytest.approx(norm.isf((1 - 0.25 * (1 - 2**-20)) / 2), rel=1e-12)


def tail(*words: int) -> float:
    return stream(words)._tail()


def test_every_level_of_the_tail_is_2_to_the_minus_20_of_the_one_before() -> None:
    """A word under 2^44 means 20 bits deeper, as often as one asks: no draw is the deepest."""
    half, minus = 2**63, 2**64 - 1
    for levels in (0, 1, 2, 10, 40):
        found = tail(*[0] * levels, half, 0)
        logarithm = norm.logsf(found)
        assert logarithm == pytest.approx(-(22 + 20 * levels) * math.log(2), rel=1e-9)
        assert tail(*[0] * levels, half, minus) == -found
    assert tail(2**64 - 1, 0) == pytest.approx(EDGE, abs=1e-9)
    # One word at the edge of the next level: a probability of 2^-41.
    assert tail(2**44, 0) == pytest.approx(norm.isf(2.0**-41), rel=1e-6)
    assert BOX_MULLER < 5.7683 < float(norm.isf(2.0**-41)) < tail(0, half, 0)


def depths(draw: Callable[[Normals], float]) -> Scores:
    one = Normals(20)
    return np.array([draw(one) for _ in range(40_000)])


def check_tail(found: Scores) -> None:
    """40,000 numbers from beyond: their law, both signs, and those that Box-Muller cannot reach.

    Of them 0.84 % lie beyond 5.768 (337, within 5 standard errors); the key is fixed.
    """
    below = norm.sf(np.abs(found)) * 2.0**21
    assert kstest(below, "uniform").pvalue > 1e-6
    assert abs(float((found > 0).mean()) - 0.5) < 5 * 0.5 / 200
    share = 2 * norm.sf(BOX_MULLER) * 2.0**20
    expected = share * len(found)
    assert abs(int((np.abs(found) > BOX_MULLER).sum()) - expected) < 5 * math.sqrt(expected)


def test_the_tail_has_the_right_law_beyond_what_box_muller_reaches() -> None:
    check_tail(depths(Normals._tail))
    goes_red(check_tail, np.clip(depths(Normals._tail), -BOX_MULLER, BOX_MULLER))
    goes_red(check_tail, -np.abs(depths(Normals._tail)))


def check_rate(gaps: Scores) -> None:
    """Numbers before the next from beyond: geometric with 2^-20; mean and law, a fixed key."""
    assert abs(gaps.mean() * 2.0**-20 - 1) < 5 / math.sqrt(gaps.size)
    assert kstest(gaps * -math.log1p(-(2.0**-20)), "expon").pvalue > 1e-6


def test_numbers_from_beyond_come_at_the_right_rate() -> None:
    one = Normals(21)
    gaps = np.array([one._gap() for _ in range(20_000)], dtype=np.float64)
    check_rate(gaps)
    goes_red(check_rate, gaps * 2)
    # The first is placed where its gap says, in whatever piece that is.
    for until in (0, 5, 2**15 - 1, 2**15, 70_000):
        made = Normals(3)
        made._until_tail = until
        beyond = np.flatnonzero(np.abs(made.draw(100_000)) > EDGE)
        assert beyond[0] == until


def check_law(found: Scores) -> None:
    """2^24 draws: variance, law, and how many lie beyond the edge (Poisson 16); a fixed key."""
    total = float((found**2).sum())
    assert chi2.ppf(5e-7, found.size) < total < chi2.isf(5e-7, found.size)
    assert kstest(found[:500_000], "norm").pvalue > 1e-6
    beyond = int((np.abs(found) > EDGE).sum())
    assert poisson.ppf(5e-7, 16) <= beyond <= poisson.isf(5e-7, 16)
    assert abs(float((found[1:] * found[:-1]).mean())) < 5 / math.sqrt(found.size)


def test_the_numbers_are_independent_and_normal() -> None:
    found = Normals(22).draw(2**24)
    check_law(found)
    goes_red(check_law, np.clip(found, -EDGE, EDGE))
    goes_red(check_law, found * 0.997)


def test_a_sum_is_formed_in_float64_and_rounded_once() -> None:
    """In float32 a difference of noise and signal shows the steps of the noise (Mironov 2012)."""
    before, drawn = torch.linspace(-1, 1, 50_000), torch.from_numpy(Normals(5).draw(50_000))
    exact = (before.double() + drawn * 0.3).float()

    def check(found: torch.Tensor) -> None:
        # Products are formed in another order: one sum in a million may round otherwise.
        assert float((found != exact).double().mean()) < 1e-4

    added = before.clone()
    Normals(5).add_(added, 0.3)
    check(added)
    goes_red(check, before + drawn.float() * 0.3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_any_type_and_layout_is_noised_in_place(dtype: torch.dtype) -> None:
    across = torch.zeros(300, 200, dtype=dtype).t()
    assert not across.is_contiguous()
    Normals(6).add_(across, 2.0)
    assert abs(float(across.double().std()) / 2 - 1) < 5 / math.sqrt(2 * across.numel())
    scalar = torch.zeros((), dtype=dtype, requires_grad=True)
    Normals(6).add_(scalar, 2.0)
    assert float(scalar.detach()) != 0
    Normals(6).add_(torch.zeros(0, dtype=dtype), 2.0)


def test_streams_that_are_split_off_are_independent() -> None:
    """Five standard errors of each of 36 correlations of 20,000: a false alarm once in 50,000."""

    def check(streams: list[Normals]) -> None:
        drawn = np.array([one.draw(20_000) for one in streams])
        matrix = np.corrcoef(drawn) - np.eye(len(streams))
        assert np.abs(matrix).max() < 5 / math.sqrt(20_000)

    parent = Normals(7)
    check([*parent.split(8), parent])
    check([*parent.split(2), *parent.split(2)])
    goes_red(check, [Normals(8), Normals(8)])


@pytest.mark.parametrize("deviation", [0.0, -1.0, math.nan, math.inf])
def test_noise_without_a_size_is_an_error(deviation: float) -> None:
    with pytest.raises(ValueError, match="above 0 that is finite"):
        Normals(9).add_(torch.zeros(3), deviation)
