"""One step of a mechanism: its event, its Rényi divergence, and the words that a ledger keeps."""

import dataclasses
import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom, norm
from support import goes_red

from fedmed.privacy import accounting
from fedmed.privacy.mechanisms.step import (
    ORDERS,
    Mechanism,
    gaussian,
    group_gaussian,
    laplace,
    replace_gaussian,
)

DELTA = 1e-5
MECHANISMS = [
    gaussian(1.3),
    gaussian(0.98, 0.064),
    group_gaussian(0.98, 0.064, 4),
    replace_gaussian(1.37, 0.064),
    laplace(2.0, 9),
]


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_ledger_gets_the_mechanism_back_as_it_was(mechanism: Mechanism) -> None:
    assert Mechanism.from_json(json.loads(json.dumps(mechanism.to_json()))) == mechanism
    for wrong in ({"kind": "gaussian"}, {**mechanism.to_json(), "more": 1}):
        with pytest.raises(TypeError):
            Mechanism.from_json(wrong)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "uniform"},
        {"noise": 0.0},
        {"noise": -1.0},
        {"noise": math.nan},
        {"noise": math.inf},
        {"rate": 0.0},
        {"rate": 1.1},
        {"rate": math.nan},
        {"group": 0},
    ],
)
def test_a_mechanism_that_means_nothing_cannot_be_made(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes)) + "|sampling_rate|not known"):
        dataclasses.replace(gaussian(1.0, 0.1), **changes)  # type: ignore[arg-type]  # what is refused


def single(noise: float, rate: float) -> Mechanism:
    """A group of one, which the mixture's own code must treat as plain sampling."""
    return Mechanism(kind="group-gaussian", noise=noise, rate=rate, group=1)


@pytest.mark.parametrize(("noise", "rate"), [(0.9823, 0.064), (4.0, 0.5), (0.6, 0.01)])
def test_the_mixtures_divergence_of_one_record_is_that_of_plain_sampling(
    noise: float, rate: float
) -> None:
    def check(mechanism: Mechanism) -> None:
        ours, theirs = np.array(mechanism.rdp()), np.array(gaussian(noise, rate).rdp())
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-9)
        assert (ours >= theirs * (1 - 1e-9)).all(), "never below"

    check(single(noise, rate))
    goes_red(check, single(noise, rate * 0.99))
    goes_red(check, single(noise * 1.01, rate))


def mixture_divergence(mechanism: Mechanism, order: int) -> float:
    """The larger direction by adaptive quadrature of the densities themselves."""
    sigma = mechanism.noise
    weights = binom.pmf(range(mechanism.group + 1), mechanism.group, mechanism.rate)

    def mixture(x: float) -> float:
        """Log density."""
        found = [norm.logpdf(x, j, sigma) + math.log(w) for j, w in enumerate(weights)]
        return float(np.logaddexp.reduce(found))

    def plain(x: float) -> float:
        return float(norm.logpdf(x, 0, sigma))

    def divergence(p: Callable[[float], float], q: Callable[[float], float]) -> float:
        low, high = -12 * sigma, mechanism.group * order + 12 * sigma
        value, _ = quad(lambda x: math.exp(order * p(x) + (1 - order) * q(x)), low, high, limit=500)
        return math.log(value) / (order - 1)

    return max(divergence(mixture, plain), divergence(plain, mixture))


@pytest.mark.parametrize("group", [2, 4])
@pytest.mark.parametrize("order", [2, 3, 5])
def test_the_mixtures_divergence_is_the_integral(group: int, order: int) -> None:
    mechanism = group_gaussian(2.0, 0.2, group)
    found = mechanism.rdp()[ORDERS.index(order)]
    assert found == pytest.approx(mixture_divergence(mechanism, order), rel=1e-4)


def replacement_divergence(noise: float, rate: float, order: int) -> float:
    """Between the record pulling one way, where it is sampled, and the other way: quadrature."""

    def density(x: float, way: int) -> float:
        return (1 - rate) * float(norm.pdf(x, 0, noise)) + rate * float(norm.pdf(x, way, noise))

    reach = 2 * order + 12 * noise
    value, _ = quad(
        lambda x: density(x, 1) ** order * density(x, -1) ** (1 - order), -reach, reach, limit=500
    )
    return math.log(value) / (order - 1)


@pytest.mark.parametrize("order", [2, 3, 5])
def test_a_replacements_divergence_is_the_integral(order: int) -> None:
    found = replace_gaussian(2.0, 0.2).rdp()[ORDERS.index(order)]
    assert found == pytest.approx(replacement_divergence(2.0, 0.2, order), rel=1e-4)


@pytest.mark.parametrize("noise", [0.1, 1.0, 30.0])
def test_where_everybody_is_sampled_a_replacement_moves_twice_as_far(noise: float) -> None:
    replaced, twice = replace_gaussian(noise), gaussian(noise / 2)
    assert np.array(replaced.rdp()) == pytest.approx(np.array(twice.rdp()), rel=1e-5)
    found = accounting.composed_epsilon(((replaced, 3),), DELTA)
    assert found == pytest.approx(accounting.composed_epsilon(((twice, 3),), DELTA), rel=1e-3)


def test_a_replacement_costs_more_than_an_addition_and_less_than_two() -> None:
    """Beside other mechanisms too, each of which is composed under its own relation."""

    def check(mechanism: Mechanism) -> None:
        for rest in ((), ((gaussian(1.5, 0.1), 20),), ((laplace(4.0, 2), 1),)):
            one, found, two = (
                accounting.composed_epsilon(((step, 40), *rest), DELTA)
                for step in (gaussian(1.1, 0.05), mechanism, group_gaussian(1.1, 0.05, 2))
            )
            assert one * 1.05 < found < two
            assert found <= accounting.rdp_epsilon(accounting.rdp(((mechanism, 40), *rest)), DELTA)

    check(replace_gaussian(1.1, 0.05))
    goes_red(check, gaussian(1.1, 0.05))
    goes_red(check, group_gaussian(1.1, 0.05, 2))


@pytest.mark.parametrize("group", [2, 4])
def test_the_mixtures_divergence_implies_no_less_than_its_pld(group: int) -> None:
    """Both bound the same epsilon from above, and the PLD is the tighter one."""
    spent = ((group_gaussian(0.9823, 0.064, group), 312),)

    def check(divergences: tuple[float, ...]) -> None:
        found = accounting.rdp_epsilon(divergences, DELTA)
        assert accounting.composed_epsilon(spent, DELTA) <= found

    check(accounting.rdp(spent))
    # As if the records of one person were sampled together, or were one.
    goes_red(check, accounting.rdp(((gaussian(0.9823, 0.064), 312),)))


def test_a_group_costs_more_than_its_record_and_less_than_sampling_it_whole() -> None:
    def check(mechanism: Mechanism) -> None:
        one = np.array(gaussian(2.0, 0.1).rdp())
        whole = np.array(gaussian(2.0 / 3).rdp())  # all three, every time
        assert (np.array(mechanism.rdp()) > one).all()
        assert (np.array(mechanism.rdp()) < whole).all()

    check(group_gaussian(2.0, 0.1, 3))
    goes_red(check, group_gaussian(2.0, 0.1, 1))
    assert group_gaussian(2.0, 0.1, 1) == gaussian(2.0, 0.1)


def laplace_epsilon(scale: float, delta: float) -> float:
    """Exact: P(loss > e) is 1/2 below 1/scale, so delta = 1 - exp((epsilon - 1/scale) / 2)."""
    return 1 / scale + 2 * math.log1p(-delta)


@pytest.mark.parametrize("scale", [0.5, 2.0, 10.0])
@pytest.mark.parametrize("delta", [1e-5, 1e-2])
def test_one_laplace_number_costs_its_closed_form(scale: float, delta: float) -> None:
    def check(mechanism: Mechanism) -> None:
        found = accounting.composed_epsilon(((mechanism, 1),), delta)
        assert found == pytest.approx(laplace_epsilon(scale, delta), rel=2e-3)

    check(laplace(scale, 1))
    goes_red(check, laplace(scale * 1.05, 1))
    goes_red(check, laplace(scale, 2))


def test_all_numbers_that_a_record_may_change_are_paid_for() -> None:
    """Pitfall: an image has many pixels, and an epsilon of one of them is not the image's."""
    whole = laplace(2.0, 256)
    assert whole.pure_epsilon() == 128
    assert gaussian(2.0).pure_epsilon() == math.inf

    def check(mechanism: Mechanism) -> None:
        found = accounting.composed_epsilon(((mechanism, 1),), DELTA)
        # A sum of 256 losses: far below the pure 128, far above the 0.5 of one.
        assert 40 < found < 128
        assert np.array(mechanism.rdp()) == pytest.approx(256 * np.array(laplace(2.0, 1).rdp()))
        assert found <= accounting.rdp_epsilon(mechanism.rdp(), DELTA)

    check(whole)
    goes_red(check, laplace(2.0, 1))


def test_laplace_divergence_is_the_integral() -> None:
    scale, order = 1.5, 3

    def integrand(x: float) -> float:
        p, q = math.exp(-abs(x - 1) / scale), math.exp(-abs(x) / scale)
        return p**order * q ** (1 - order) / (2 * scale)

    value, _ = quad(integrand, -60, 60, points=[0, 1])
    expected = math.log(value) / (order - 1)
    assert laplace(scale, 1).rdp()[ORDERS.index(order)] == pytest.approx(expected, rel=1e-6)


def test_noise_too_small_for_any_grid_is_added_up_and_never_lost() -> None:
    loud, quiet = laplace(0.01, 5), gaussian(5.0)
    both = accounting.composed_epsilon(((loud, 1), (quiet, 3)), DELTA)
    assert both == 500 + accounting.composed_epsilon(((quiet, 3),), DELTA)


def test_the_orders_are_those_of_every_ledger_that_exists() -> None:
    """A ledger keeps a total for each; read at other orders, the same totals would mean others."""
    assert (*range(2, 33), 40, 48, 64, 96, 128, 256, 512) == ORDERS
