"""A patient's release: a bound on whole numbers, whatever the vector, and what it is worth."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import goes_red

from fedmed.privacy.accounting import composed_epsilon
from fedmed.privacy.mechanisms.features import LEVELS, FeatureLaplace, Released
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.mechanisms.step import ORDERS, Mechanism, laplace, pure
from fedmed.privacy.plans import FeaturePlan

MECHANISM = FeatureLaplace(epsilon=8.0, norm=2.0, components=4)


@given(st.lists(st.floats(), min_size=4, max_size=4))
def test_no_vector_has_more_steps_than_the_norm(numbers: list[float]) -> None:
    """NaN, infinity and 1e308 as well: a server that chooses the projection can make any."""
    steps = MECHANISM.rounded(np.array(numbers))
    assert steps.dtype == np.int64
    assert int(np.abs(steps).sum()) <= LEVELS


def test_rounding_is_toward_zero_and_direction_stays() -> None:
    short = np.array([0.5, -0.25, 0.0, 1e-9])
    steps = MECHANISM.rounded(short)
    assert (np.abs(MECHANISM.vectors(steps)) <= np.abs(short)).all()
    np.testing.assert_allclose(MECHANISM.vectors(steps), short, atol=MECHANISM.width)
    long = MECHANISM.vectors(MECHANISM.rounded(1000 * short))
    np.testing.assert_allclose(long, 2 * short / 0.75, atol=2 * MECHANISM.width)

    def check(rounded: Any) -> None:
        vectors = np.random.default_rng(0).normal(size=(200, 4))
        assert max(int(np.abs(rounded(vector)).sum()) for vector in vectors) <= LEVELS

    check(MECHANISM.rounded)
    # To the nearest step, four coordinates can have two steps more.
    goes_red(
        check,
        lambda v: np.rint(v / max(1.0, np.abs(v).sum() / 2) / MECHANISM.width).astype(np.int64),
    )


def test_a_release_survives_packing() -> None:
    for answer in (False, True):
        one = Released(np.array([-(2**40), 0, 3]), answer)
        again = Released.of(one.packed())
        assert (again.steps.tolist(), again.answer) == (one.steps.tolist(), answer)


def test_released_vectors_have_the_mean_and_the_deviation_that_are_stated() -> None:
    vector, source = np.array([0.5, -0.3, 0.2, 0.0]), NoiseSource(1)
    drawn = [MECHANISM.release(vector, True, source, str(n)) for n in range(2000)]
    vectors = MECHANISM.vectors(np.stack([one.steps for one in drawn]))
    error = MECHANISM.deviation / math.sqrt(2000)
    np.testing.assert_allclose(vectors.mean(0), vector, atol=5 * error)
    np.testing.assert_allclose(vectors.std(0), MECHANISM.deviation, rtol=0.15)
    # Two norms over the vector's epsilon: Laplace of scale b has deviation b times root two.
    assert math.isclose(MECHANISM.deviation, math.sqrt(2) * 4 / 7.2, rel_tol=1e-3)
    healthy = [MECHANISM.release(vector, False, source, str(n)).steps for n in range(2000)]
    np.testing.assert_allclose(
        MECHANISM.vectors(np.stack(healthy)).mean(0), -vector, atol=5 * error
    )
    answers = np.array([one.answer for one in drawn], dtype=np.float64)
    assert abs(MECHANISM.unbiased(answers).mean() - 1) < 0.2
    np.testing.assert_allclose(
        MECHANISM.unbiased(np.array([MECHANISM.truthful, 1 - MECHANISM.truthful])), [1, 0]
    )


def test_a_place_that_nobody_takes_is_noise_and_a_fair_coin() -> None:
    drawn = [MECHANISM.nobody(NoiseSource(1), str(n)) for n in range(1000)]
    assert abs(np.mean([one.answer for one in drawn]) - 0.5) < 0.1
    vectors = MECHANISM.vectors(np.stack([one.steps for one in drawn]))
    assert np.abs(vectors.mean(0)).max() < 5 * MECHANISM.deviation / math.sqrt(1000)
    # So that a patient who comes is within epsilon of it, whatever the label.
    truth = MECHANISM.truthful
    assert math.log(max(truth / 0.5, 0.5 / (1 - truth))) <= MECHANISM.label_epsilon


@pytest.mark.parametrize(
    "change", [{"epsilon": 0.001}, {"epsilon": 65.0}, {"norm": 0.0}, {"components": 65}]
)
def test_what_cannot_be_released_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        FeatureLaplace(**({"epsilon": 1.0, "norm": 1.0, "components": 4} | change))


def test_every_parameter_makes_another_release() -> None:
    keys = {
        FeatureLaplace(epsilon=e, norm=n, components=k).key
        for e in (1.0, 2.0)
        for n in (1.0, 2.0)
        for k in (3, 4)
    }
    assert len(keys) == 8


def test_a_pure_epsilon_is_counted_as_the_worst_that_it_can_be() -> None:
    """Randomised response, not Laplace noise, is the worst of all mechanisms of one epsilon."""

    def check(step: Mechanism) -> None:
        p = 1 / (1 + math.exp(-1.0))
        for order, cost in zip(ORDERS, step.rdp(), strict=True):
            moment = p**order * (1 - p) ** (1 - order) + (1 - p) ** order * p ** (1 - order)
            assert cost >= math.log(moment) / (order - 1) * (1 - 1e-9)
            assert cost <= 1.0
        # delta(e) = (e^1 - e^e) / (1 + e^1), of one release and at 0.9.
        delta = (math.e - math.exp(0.9)) / (1 + math.e)
        assert composed_epsilon(((step, 1),), delta) >= 0.9 - 1e-9

    check(pure(1.0))
    goes_red(check, laplace(1.0, coordinates=1))


def test_two_releases_cost_twice_and_less_at_a_delta() -> None:
    assert pure(0.1).pure_epsilon() == pytest.approx(0.1)
    two, many = (composed_epsilon(((pure(0.1), n),), 1e-5) for n in (2, 400))
    assert two == pytest.approx(0.2, rel=1e-3)
    assert 9 < many < 0.3 * 400 * 0.1, "not one event, whatever the count, and not their sum"


def test_a_plan_is_one_pure_release_of_a_patient() -> None:
    plan = FeaturePlan(mechanism=MECHANISM, units=24)
    assert (plan.unit, plan.payer, plan.delta, plan.steps, plan.steps_per_round) == (
        *("patient", "nobody", 0.0, 1, 0),
    )
    assert (plan.epsilon(), plan.epsilon(3), plan.replace_one()) == (8.0, 24.0, 8.0)
    assert plan.at_delta(1e-5) <= 8.0
    assert plan.cost("patient") == plan.step == pure(8.0)
    assert plan.cost("image") is None
    assert plan.noise_to_signal(5) == pytest.approx(2 * MECHANISM.deviation / 2.0)
    facts = plan.facts("federated")
    assert (facts.noise, facts.trusted, facts.relation) == (("features",), (), "replace")
