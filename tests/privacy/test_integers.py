"""Discrete Gaussian noise: its law, and the step from it to the accountant's continuous one."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from dp_accounting.pld.privacy_loss_mechanism import DiscreteGaussianPrivacyLoss
from scipy.stats import chi2, norm
from support import goes_red

from fedmed.privacy.mechanisms import grid, integers
from fedmed.privacy.mechanisms.integers import _Table, discrete_gaussian


def law(deviation: float, reach: int) -> np.ndarray:
    """Probabilities of -reach to reach."""
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * deviation**2))
    return np.asarray(weights / weights.sum())


def test_the_table_is_the_distribution_to_a_hundred_bits() -> None:
    for deviation in (8.0, 33.3):
        table = _Table.of(deviation)
        with localcontext() as context:
            context.prec = 60
            scale = 2 * Decimal(deviation) ** 2
            weights = [
                (-Decimal(n * n) / scale).exp() for n in range(-table.reach, table.reach + 1)
            ]
            whole, before = sum(weights), Decimal(0)
            for exact, weight in zip(table.exact, weights, strict=True):
                before += weight
                assert abs(Decimal(exact) / Decimal(2) ** 128 - before / whole) < Decimal(2) ** -120
        assert table.exact[-1] == 2**128
        # What lies beyond, of both sides.
        assert 2 * norm.sf(integers._REACH) < 2.0**-130


@pytest.mark.parametrize("deviation", [8.0, 300.0, 9000.0])
def test_draws_follow_the_law(deviation: float) -> None:
    """Chi-square over 60 cells of 200,000 draws; false alarm 1e-6, with a fixed key none."""

    def check(draw: object = discrete_gaussian) -> None:
        drawn = draw(deviation, 200_000, bytes(range(32)))  # type: ignore[operator]  # a draw, or a broken one
        edges = np.unique(np.round(norm.ppf(np.linspace(0, 1, 61)[1:-1]) * deviation))
        reach = math.ceil(9 * deviation)
        cells = np.searchsorted(edges, np.arange(-reach, reach + 1), side="left")
        wanted = np.bincount(cells, law(deviation, reach)) * drawn.size
        seen = np.bincount(np.searchsorted(edges, drawn, side="left"), minlength=wanted.size)
        assert ((seen - wanted) ** 2 / wanted).sum() < chi2.isf(1e-6, wanted.size - 1)
        assert abs(drawn.var() / deviation**2 - 1) < 0.02

    check()
    goes_red(check, lambda deviation, count, key: discrete_gaussian(1.03 * deviation, count, key))
    goes_red(
        check,
        lambda deviation, count, key: (
            discrete_gaussian(deviation, count, key) + math.ceil(deviation / 20)
        ),
    )


def test_a_word_on_an_entry_is_decided_by_its_lower_half() -> None:
    """Once in 10^14 draws; here by words that are planted."""
    table = _Table.of(8.0)

    class Planted:
        def __init__(self, *words: int) -> None:
            self.left = list(words)

        def words(self, count: int) -> np.ndarray:
            taken, self.left = self.left[:count], self.left[count:]
            return np.array(taken, dtype=np.uint64)

    for place in (40, 108, 170):
        exact = table.exact[place]
        upper, lower = exact >> 64, exact & (2**64 - 1)
        for low, wanted in ((lower - 1, place), (lower, place + 1)):
            drawn = table.draw(Planted(upper, low), 1)  # type: ignore[arg-type]  # words that are planted
            assert drawn[0] == wanted - table.reach


def test_keys_give_the_same_numbers_and_the_system_others() -> None:
    same = [discrete_gaussian(5000.0, 1000, bytes(32)) for _ in range(2)]
    assert np.array_equal(*same)
    assert not np.array_equal(discrete_gaussian(5000.0, 1000), same[0])
    assert not np.array_equal(discrete_gaussian(5000.0, 1000, b"x" * 32), same[0])
    # A longer draw begins as a shorter one of whole pieces does.
    long = discrete_gaussian(5000.0, integers._PIECE + 5, bytes(32))
    assert np.array_equal(long[: integers._PIECE], discrete_gaussian(5000.0, integers._PIECE,
                                                                     bytes(32)))  # fmt: skip
    for bad in (7.9, 2.0**23, math.nan):
        with pytest.raises(ValueError, match="deviation"):
            discrete_gaussian(bad, 1)


def convolved(first: np.ndarray, second: np.ndarray, times: int = 1) -> np.ndarray:
    """Law of x times the first's number plus the second's."""
    spread = np.zeros((first.size - 1) * times + 1)
    spread[::times] = first
    return np.convolve(spread, second)


def test_two_tables_together_are_one_discrete_gaussian() -> None:
    """M x + y with y's deviation four times M, as `discrete_gaussian` adds them; here M = 8."""
    times, fine, whole = 8, 32.0, 200.0
    coarse = math.sqrt(whole**2 - fine**2) / times
    together = convolved(law(coarse, 300), law(fine, 400), times)
    reach = together.size // 2
    wanted = law(whole, reach)
    middle = slice(reach - 1600, reach + 1601)
    assert together[middle] == pytest.approx(wanted[middle], rel=1e-9, abs=1e-17)
    ratio = integers._FINE / integers._STEP
    assert ratio == 4
    assert 2 * math.exp(-2 * (math.pi * ratio) ** 2) < 1e-130  # the first alias, y's part of it
    narrow = convolved(law(math.sqrt(whole**2 - 3**2) / times, 300), law(3.0, 60), times)
    off = narrow[narrow.size // 2 - 400 :][:801] / law(whole, narrow.size // 2)[
        narrow.size // 2 - 400 :
    ][:801]  # fmt: skip
    assert np.abs(off - 1).max() > 0.05  # y of less than half of M leaves gaps


def test_shares_add_up_to_one_discrete_gaussian() -> None:
    share = law(60.0, 600)
    four = convolved(convolved(share, share), convolved(share, share))
    wanted = law(120.0, four.size // 2)
    middle = slice(four.size // 2 - 900, four.size // 2 + 901)
    assert four[middle] == pytest.approx(wanted[middle], rel=1e-9, abs=1e-17)


def continuous(epsilon: float, shift: float, deviation: float) -> float:
    """Delta of the Gaussian mechanism (Balle and Wang 2018, Theorem 8)."""
    a, b = shift / (2 * deviation), epsilon * deviation / shift
    return float(norm.cdf(a - b) - math.exp(epsilon) * norm.cdf(-a - b))


def discrete(epsilon: float, shift: tuple[int, ...], deviation: float) -> float:
    """Delta of the discrete mechanism on one or two coordinates, added up exactly."""
    reach = math.ceil(9 * deviation)
    sides = []
    for each in shift:
        first = law(deviation, reach + abs(each))
        second = np.roll(first, each)
        if each > 0:
            second[:each] = 0.0
        sides.append((first, second))
    p, q = sides[0]
    if len(sides) == 2:
        p, q = np.outer(p, sides[1][0]), np.outer(q, sides[1][1])
    return float(np.maximum(p - math.exp(epsilon) * q, 0.0).sum())


def test_the_discrete_mechanism_hides_as_much_as_the_accounted_one() -> None:
    """In one and two dimensions, at many epsilons and both orders of the two data sets.

    The accountant's continuous Gaussian has 16 less variance (grid.SMEARED), so that the discrete
    one is its post-processing; dp-accounting's own discrete Gaussian says the same of one number.
    """

    def check(smeared: float = grid.SMEARED) -> None:
        for multiplier, size in ((0.6, 25), (1.0, 20), (3.0, 20), (10.0, 4)):
            deviation = math.sqrt((multiplier * size) ** 2 + grid.SMEARED)
            accounted = math.sqrt(deviation**2 - smeared)
            for epsilon in (0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0):
                limit = continuous(epsilon, size, accounted)
                told = discrete(epsilon, (size,), deviation)
                library = DiscreteGaussianPrivacyLoss(
                    deviation, size, truncation_bound=math.ceil(9 * deviation) + size
                )
                assert told == pytest.approx(
                    library.get_delta_for_epsilon(epsilon), rel=1e-6, abs=1e-13
                )
                assert told <= limit + 1e-13
                for share in (0.0, 0.3, 0.6, 0.8):
                    across = math.floor(size * share)
                    along = math.floor(math.sqrt(size**2 - across**2))
                    if deviation < 40:
                        assert discrete(epsilon, (along, across), deviation) <= limit + 1e-13

    check()
    goes_red(check, -60.0)  # accounted with more noise than there is
