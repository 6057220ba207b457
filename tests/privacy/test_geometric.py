"""Discrete Laplace noise and randomised response: exact laws, and ratios that never pass epsilon.

Floats cannot tell e^epsilon from a little more, so the probabilities that thresholds of 256 bits
make are computed as fractions.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
from dp_accounting.pld.privacy_loss_mechanism import DiscreteLaplacePrivacyLoss
from scipy.stats import chi2
from support import goes_red

from fedmed.privacy.mechanisms import geometric
from fedmed.privacy.mechanisms.features import LEVELS, FeatureLaplace
from fedmed.privacy.mechanisms.geometric import (
    Coin,
    bits_for,
    digits,
    discrete_laplace,
    excess,
    liar,
    turned,
    variance,
)

WHOLE = 1 << 256
Law = list[Fraction]


def geometric_law(coins: tuple[Coin, ...]) -> Law:
    """Probabilities of the numbers that the coins' digits make."""
    law = [Fraction(1)]
    for coin in coins:
        one = Fraction(coin.threshold, WHOLE)
        law = [p * (1 - one) for p in law] + [p * one for p in law]
    return law


def noise_law(rate: float, bits: int) -> Law:
    """Of the difference of two such numbers, modulo 2^bits."""
    one = geometric_law(digits(rate, bits))
    size = 1 << bits
    return [
        sum((one[(z + n) % size] * one[n] for n in range(size)), Fraction(0)) for z in range(size)
    ]


def worst_ratio(law: Law, distance: int) -> float:
    """The largest log ratio of a result's probabilities for values ``distance`` steps apart."""
    size = len(law)
    ratios = [law[z] / law[(z - d) % size] for z in range(size) for d in (distance, -distance)]
    return math.log(float(max(ratios)))


@pytest.mark.parametrize("rate", [0.5, 1.3])
def test_neighbours_differ_by_the_rate_and_what_rounding_adds(rate: float) -> None:
    """Sabotage: a rate as if values moved by half a step."""

    def check(drawn_at: float) -> None:
        law = noise_law(drawn_at, 6)
        assert sum(law) == 1
        assert min(law) > 0, "a result that one value cannot have would be no pure epsilon"
        for distance in (1, 3):
            allowed = distance * rate + excess(rate, 6, 1) + 1e-12
            assert worst_ratio(law, distance) <= allowed

    check(rate)
    goes_red(check, 2 * rate)


def test_the_law_is_the_discrete_laplace_to_two_hundred_bits() -> None:
    rate, bits = 1.0, 7
    law = noise_law(rate, bits)
    q, size = math.exp(-rate), 1 << bits
    for z in (0, 1, 5, 20):
        wrapped = sum(q ** abs(z + size * k) for k in range(-2, 3))
        assert math.isclose(float(law[z]), (1 - q) / (1 + q) * wrapped, rel_tol=1e-12)
    exact = [Fraction(c.threshold, WHOLE) for c in digits(rate, bits)]
    for j, p in enumerate(exact):
        assert abs(float(p / (1 - p)) / math.exp(-rate * 2**j) - 1) < 1e-12


def test_the_largest_loss_is_that_of_dp_accounting() -> None:
    loss = DiscreteLaplacePrivacyLoss(0.7, sensitivity=3)
    assert math.isclose(worst_ratio(noise_law(0.7, 6), 3), loss.privacy_loss(-10), rel_tol=1e-9)


def test_draws_follow_the_law() -> None:
    """Chi-square over 41 cells of 200,000 draws: 1e-6 false alarms, with a fixed key none."""
    rate = 0.3
    q = math.exp(-rate)

    def check(rate_drawn: float, shift: int = 0) -> None:
        zeros = np.zeros(200_000, dtype=np.int64)
        drawn = discrete_laplace(zeros, rate_drawn, bits_for(rate_drawn, 1), bytes(32)) + shift
        cells = np.clip(drawn, -20, 20) + 20
        law = (1 - q) / (1 + q) * q ** np.abs(np.arange(-20.0, 21.0))
        law[[0, -1]] = q**20 / (1 + q)
        wanted, seen = law * drawn.size, np.bincount(cells, minlength=41)
        assert ((seen - wanted) ** 2 / wanted).sum() < chi2.isf(1e-6, 40)
        assert abs(drawn.var() / variance(rate) - 1) < 0.03

    check(rate)
    goes_red(check, 1.03 * rate)
    goes_red(check, rate, 1)


def test_noise_wraps_around_and_is_cut_off_nowhere() -> None:
    """Cut off at the end, a value near it could not have results that its neighbour has."""
    values = np.full(20_000, 31, dtype=np.int64)
    drawn = discrete_laplace(values, 0.3, 6, bytes(32))
    assert (drawn.min(), drawn.max()) == (-32, 31)
    assert (drawn < -20).sum() > 1000, "what passes 31 goes on at -32"


def test_a_word_on_a_threshold_is_decided_by_the_other_bits() -> None:
    class Planted:
        def __init__(self, *words: int) -> None:
            self.left = list(words)

        def words(self, count: int) -> np.ndarray:
            taken, self.left = self.left[:count], self.left[count:]
            return np.array(taken, dtype=np.uint64)

    coin = Coin((7 << 192) | (1 << 128) | 5)
    for rest, shown in (((1, 0, 4), True), ((1, 0, 5), False), ((0, 9, 9), True)):
        assert coin.toss(Planted(7, *rest), 1)[0] == shown  # type: ignore[arg-type]  # planted words


@pytest.mark.parametrize("epsilon", [0.0, 0.004, 1.2, 25.6])
def test_a_lie_is_at_least_as_probable_as_epsilon_needs(epsilon: float) -> None:
    def check(coin: Coin) -> None:
        lie = Fraction(coin.threshold, WHOLE)
        assert math.log(float((1 - lie) / lie)) <= epsilon + 1e-12
        assert lie <= Fraction(1, 2) + Fraction(1, WHOLE)

    check(liar(epsilon))
    goes_red(check, liar(epsilon + 0.1))


def test_answers_are_turned_as_often_as_the_coin_says() -> None:
    told = turned(np.ones(100_000, dtype=bool), 1.2, bytes(32))
    lie = 1 / (1 + math.exp(1.2))
    assert abs((~told).mean() - lie) < 5 * math.sqrt(lie * (1 - lie) / told.size)
    assert (turned(np.zeros(10, dtype=bool), 1.2, bytes(32)) ^ told[:10]).all()


@pytest.mark.parametrize("epsilon", [0.01, 1.0, 8.0, 64.0])
def test_vector_and_label_together_spend_no_more_than_epsilon(epsilon: float) -> None:
    one = FeatureLaplace(epsilon=epsilon, norm=1.0, components=64)
    vector = 2 * LEVELS * one.rate + excess(one.rate, one.bits, 64)
    lie = Fraction(liar(one.label_epsilon).threshold, WHOLE)
    label = math.log(float((1 - lie) / lie))
    assert 0.999 * epsilon < vector + label <= epsilon * (1 + 1e-15)


def test_other_keys_and_the_systems_entropy_give_other_noise() -> None:
    zeros = np.zeros(8, dtype=np.int64)

    def draw(key: bytes | None) -> list[int]:
        return discrete_laplace(zeros, 0.01, 14, key).tolist()

    assert draw(bytes(32)) == draw(bytes(32)) != draw(bytes(31) + b"1")
    assert draw(None) != draw(None)


def test_what_cannot_be_drawn_is_refused() -> None:
    for rate, bound in ((1e-30, 1), (400.0, 1)):
        with pytest.raises(ValueError, match="cannot be drawn"):
            bits_for(rate, bound)
    assert 2.0 ** (bits_for(0.01, 100) - 1) >= 100 + 24 / 0.01
    assert geometric.MOST_BITS < 63
