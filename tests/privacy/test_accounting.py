"""Epsilon from events and noise from epsilon: closed forms, tables, other accountants."""

import math
from collections.abc import Callable

import pytest
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.stats import norm
from support import goes_red, gradient_plan, refuses, update_plan

from fedmed.privacy import accounting
from fedmed.privacy.plan import GradientPlan, UpdatePlan

DELTA = 1e-5


def gaussian_delta(sigma: float, epsilon: float, steps: int = 1) -> float:
    """Exact delta of ``steps`` Gaussian mechanisms (Balle and Wang 2018, theorem 8)."""
    scaled = sigma / math.sqrt(steps)
    first = norm.logcdf(1 / (2 * scaled) - epsilon * scaled)
    second = epsilon + norm.logcdf(-1 / (2 * scaled) - epsilon * scaled)
    return float(math.exp(first) - math.exp(second))


def gaussian_epsilon(sigma: float, steps: int) -> float:
    low, high = 0.0, 1000.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (
            (middle, high) if gaussian_delta(sigma, middle, steps) > DELTA else (low, middle)
        )
    return high


def check_all_rounds_are_accounted(epsilon_of: Callable[[GradientPlan], float]) -> None:
    """2000 patients, batch 64, noise 1, 50 rounds of one epoch: 8.4 by PLD."""
    plan = gradient_plan(units=2000, expected_batch=64, steps_per_round=31, rounds=50)
    assert epsilon_of(plan) == pytest.approx(8.37, abs=0.02)


def test_epsilon_spans_all_rounds_not_one() -> None:
    check_all_rounds_are_accounted(lambda plan: plan.epsilon())
    # Pitfall 1: a new engine per round reports one round's epsilon.
    goes_red(check_all_rounds_are_accounted, lambda plan: plan.epsilon(plan.steps_per_round))


def check_rate_is_the_batchs_alone(plan: GradientPlan) -> None:
    """What is accounted is the rate of the batch in the shard, in every step of every round."""
    direct = accounting.epsilon(plan.noise_multiplier, 64 / 2000, plan.steps, plan.delta)
    assert plan.epsilon() == direct


class AmplifiedByHospitals(GradientPlan):
    """Pitfall 8: one hospital in five takes part in a round, multiplied into every step."""

    @property
    def sampling_rate(self) -> float:
        return super().sampling_rate / 5


def test_no_amplification_by_sampling_hospitals_is_claimed() -> None:
    values = {"units": 2000, "expected_batch": 64, "steps_per_round": 31, "rounds": 5}
    plan = gradient_plan(**values)
    check_rate_is_the_batchs_alone(plan)
    goes_red(check_rate_is_the_batchs_alone, AmplifiedByHospitals(**vars(plan)))


@pytest.mark.parametrize("placement", ["hospital", "server"])
def test_updates_are_accounted_without_sampling(placement: str) -> None:
    """Every hospital takes part in every round, so the event is the plain Gaussian mechanism."""
    plan = update_plan(placement, rounds=20, noise_multiplier=3.0)

    def check(epsilon: float) -> None:
        assert epsilon == pytest.approx(gaussian_epsilon(3.0, 20), rel=2e-3)

    check(plan.epsilon())
    goes_red(check, accounting.epsilon(3.0, 0.5, 20, DELTA))


def check_sigma_is_exact(sigma_of: Callable[[float], float]) -> None:
    """Enough at epsilon 12, and 1 % less is not."""
    sigma = sigma_of(12.0)
    assert gaussian_delta(sigma, 12.0) <= DELTA
    assert gaussian_delta(0.99 * sigma, 12.0) > DELTA


def test_sigma_for_a_large_epsilon_is_not_the_classical_formula() -> None:
    check_sigma_is_exact(lambda e: accounting.noise_multiplier(e, DELTA, 1.0, 1))
    # Pitfall 19: Dwork and Roth 2014, theorem A.1, holds for epsilon < 1 only.
    goes_red(check_sigma_is_exact, lambda e: math.sqrt(2 * math.log(1.25 / DELTA)) / e)


@pytest.mark.parametrize(
    ("units", "batch", "epochs", "sigmas"),
    [
        (4000, 256, 20, {1.0: 4.36, 4.0: 1.47, 8.0: 0.98}),
        (4000, 256, 50, {1.0: 6.77, 4.0: 2.10, 8.0: 1.30}),
        (1000, 64, 20, {1.0: 4.36, 4.0: 1.47, 8.0: 0.98}),
        (1000, 256, 50, {1.0: 13.4, 4.0: 4.00, 8.0: 2.30}),
    ],
)
def test_golden_noise_multipliers(
    units: int, batch: int, epochs: int, sigmas: dict[float, float]
) -> None:
    steps = round(epochs * units / batch)
    for epsilon, sigma in sigmas.items():
        found = accounting.noise_multiplier(epsilon, DELTA, batch / units, steps)
        assert found == pytest.approx(sigma, rel=5e-3)
        assert accounting.epsilon(found, batch / units, steps, DELTA) <= epsilon
        assert accounting.epsilon(found * 0.995, batch / units, steps, DELTA) > epsilon


def test_agreement_with_other_accountants() -> None:
    ours = accounting.epsilon(1.0, 0.05, 200, DELTA)
    history = [(1.0, 0.05, 200)]
    renyi, numerical = RDPAccountant(), PRVAccountant()
    renyi.history = history
    numerical.history = history
    # PRV states its own upper bound, with an error of 0.01 in epsilon and 1e-3 of delta.
    prv = numerical.get_epsilon(DELTA, eps_error=0.01, delta_error=DELTA / 1000)
    assert ours == pytest.approx(prv, abs=0.02)
    by_renyi = renyi.get_epsilon(DELTA, alphas=[1 + x / 4 for x in range(1, 200)])
    assert ours < by_renyi < 1.2 * ours


def test_more_steps_less_noise_and_higher_rates_cost_more() -> None:
    def epsilon(sigma: float, rate: float, steps: int, delta: float) -> float:
        return accounting.epsilon(sigma, rate, steps, delta, 1e-3)

    base = epsilon(1.0, 0.1, 20, DELTA)
    assert epsilon(1.0, 0.1, 21, DELTA) > base
    assert epsilon(0.9, 0.1, 20, DELTA) > base
    assert epsilon(1.0, 0.12, 20, DELTA) > base
    assert epsilon(1.0, 0.1, 20, 1e-6) > base


def test_nothing_taken_costs_nothing_and_no_noise_costs_everything() -> None:
    assert accounting.epsilon(1.0, 0.1, 0, DELTA) == 0.0
    assert accounting.epsilon(0.0, 0.1, 1, DELTA) == math.inf


@pytest.mark.parametrize(
    ("sigma", "rate", "steps", "delta"),
    [
        (-1.0, 0.1, 1, DELTA),
        (math.nan, 0.1, 1, DELTA),
        (math.inf, 0.1, 1, DELTA),
        (1.0, 0.0, 1, DELTA),
        (1.0, 1.1, 1, DELTA),
        (1.0, 0.1, -1, DELTA),
        (1.0, 0.1, 1, 0.0),
        (1.0, 0.1, 1, 1.0),
    ],
)
def test_numbers_that_mean_nothing_are_refused(
    sigma: float, rate: float, steps: int, delta: float
) -> None:
    with pytest.raises(ValueError, match="must be"):
        accounting.epsilon(sigma, rate, steps, delta)


def test_an_epsilon_that_no_noise_reaches_names_the_key() -> None:
    refuses(
        lambda: accounting.noise_multiplier(1e-4, DELTA, 1.0, 1000),
        "privacy.epsilon = 0.0001",
        "raise epsilon",
    )


def check_hospital_sensitivity(plan: UpdatePlan) -> None:
    """At a hospital its data are replaced (2C); at the server its update is zeroed out (C)."""
    factor = {"hospital": 2, "server": 1}[plan.placement]
    assert plan.noise_standard_deviation == pytest.approx(factor * 0.5 * 3.0)


class AddRemoveEverywhere(UpdatePlan):
    """Pitfalls 11, 18 and 31: who takes part is public, yet the noise is for sensitivity C."""

    @property
    def sensitivity(self) -> float:
        return self.clipping_norm


@pytest.mark.parametrize("placement", ["hospital", "server"])
def test_noise_is_scaled_to_the_sensitivity_of_its_neighbouring_relation(placement: str) -> None:
    check_hospital_sensitivity(update_plan(placement, clipping_norm=0.5, noise_multiplier=3.0))


def test_a_hospitals_noise_for_half_its_sensitivity_is_noticed() -> None:
    plan = update_plan("hospital", clipping_norm=0.5, noise_multiplier=3.0)
    goes_red(check_hospital_sensitivity, AddRemoveEverywhere(**vars(plan)))
